// A benchmark server in a process of its own. Its parent asks it for the CPU time that it has used.
import http from "node:http";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type ContestantId, serve } from "./contestants.ts";

/** The messages of a server to its parent. */
export type ServerMessage =
  | {
      readonly ready: { readonly http1: number; readonly http2: number };
      readonly bearers: readonly string[];
      readonly cookie: string | undefined;
    }
  | { readonly missing: string }
  /** Microseconds, user and system. */
  | { readonly cpu: number };

const send = (message: ServerMessage): void => void process.send?.(message);

try {
  const { options, bearers, cookie } = await serve(process.argv[2] as ContestantId);
  const handler = connectNodeAdapter(options);
  const ready = {
    http1: await listen(http.createServer({ keepAlive: true }, handler)),
    http2: await listen(http2.createServer(handler)),
  };
  process.on("message", (message) => {
    if (message === "end") {
      // Exit instead of being killed, so that a profile is written.
      process.exit();
    }
    const { user, system } = process.cpuUsage();
    send({ cpu: user + system });
  });
  send({ ready, bearers, cookie });
} catch (error) {
  send({ missing: String(error) });
  process.disconnect();
}

async function listen(server: http.Server | http2.Http2Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}
