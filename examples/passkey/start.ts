// Starts the bank.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { build } from "vite";
import { createApp } from "./app.ts";

export interface RunningExample {
  readonly url: string;
  close(): Promise<void>;
}

/** @param port 0 for a free port */
export async function startExample(port: number, script: string): Promise<RunningExample> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(port, "localhost", resolve);
  });
  const origin = `http://localhost:${(server.address() as AddressInfo).port}`;
  const app = createApp(origin, script);
  server.on("request", app.handle);
  return {
    url: origin,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await app.sessions.close();
    },
  };
}

/** Bundles the script of the page, in memory. */
export async function buildScript(): Promise<string> {
  const built = await build({
    configFile: false,
    logLevel: "warn",
    // In this repository the library is used from its sources. An app needs no conditions.
    resolve: { conditions: ["@rpc-session/source", "module", "browser", "import", "default"] },
    build: {
      write: false,
      target: "esnext",
      lib: { entry: join(import.meta.dirname, "page.ts"), formats: ["es"] },
    },
  });
  const [output] = [built].flat();
  const chunk = output !== undefined && "output" in output ? output.output[0] : undefined;
  return chunk?.type === "chunk" ? chunk.code : "";
}
