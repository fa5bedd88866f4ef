import { join } from "node:path";
import { gzipSync } from "node:zlib";
// Comes with the test runner.
import { rolldown } from "rolldown";
import { expect, it } from "vitest";

it.each([
  ["react", "SessionProvider"],
  ["query", "bindQueries"],
])(
  "rpc-session/%s takes at most 2 kB, minified and compressed, beside the client",
  async (entry, name) => {
    const bundle = await rolldown({
      input: join(import.meta.dirname, `../../src/${entry}/index.ts`),
      platform: "browser",
      external: /^(react|@connectrpc\/connect|@bufbuild\/protobuf)(\/|$)|\/(client|gen)\//,
    });
    const { output } = await bundle.generate({ format: "esm", minify: true });
    const code = output.map((chunk) => ("code" in chunk ? chunk.code : "")).join("");
    expect(code).toContain(name);
    expect(gzipSync(code).length).toBeLessThanOrEqual(2_000);
  },
);
