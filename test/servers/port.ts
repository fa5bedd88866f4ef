import { once } from "node:events";
import { createServer } from "node:net";

/**
 * Returns a free port for a server that a test starts. It lies below those that systems assign by
 * themselves (RFC 6335 section 6), so that no connection takes it before the server does. The port
 * 10,000 above it lies there too.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 10_000);
    const probe = createServer();
    const free = await new Promise<boolean>((resolve) => {
      probe.once("error", () => resolve(false)).listen(port, () => resolve(true));
    });
    if (free) {
      probe.close();
      await once(probe, "close");
      return port;
    }
  }
}
