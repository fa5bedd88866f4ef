// npm run example:web: a page on which you see sessions live, expire, renew, be stolen and be revoked.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildPage } from "./build.ts";
import { startPlayground } from "./server.ts";

const port = Number(process.env.PORT ?? 8080);
const folder = mkdtempSync(join(tmpdir(), "rpc-session-web-"));
const playground = await startPlayground({
  port,
  database: join(folder, "sessions.db"),
  page: await buildPage(),
});
console.log(`Open ${playground.url} in a browser. Press Ctrl+C to stop.`);

async function stop(): Promise<void> {
  await playground.close();
  rmSync(folder, { recursive: true, force: true });
  process.exit(0);
}
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => void stop());
}
