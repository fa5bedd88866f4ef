import { join } from "node:path";
import { build } from "vite";

/** Bundles `page.js` of an application that is installed in a folder. Returns the script. */
export async function bundlePage(folder: string): Promise<string> {
  const built = await build({
    configFile: false,
    logLevel: "warn",
    root: folder,
    define: { "process.env.TEST_MODE": '"production"', global: "globalThis" },
    build: {
      write: false,
      target: "esnext",
      lib: { entry: join(folder, "page.js"), formats: ["es"] },
    },
  });
  const [output] = [built].flat();
  const chunk = output !== undefined && "output" in output ? output.output[0] : undefined;
  return chunk?.type === "chunk" ? chunk.code : "";
}
