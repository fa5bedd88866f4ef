import { once } from "node:events";
import {
  type AddressInfo,
  connect,
  createServer,
  type NetConnectOpts,
  type Socket,
} from "node:net";

/** A TCP proxy that can stop forwarding while its connections stay open. */
export interface BlackHole {
  readonly port: number;
  /** Stops forwarding on the present connections, or also on future ones; neither end is notified. */
  open(which: "present" | "all"): void;
  /**
   * Makes the present connections dead: each is reset when its client next uses it, as by a router that
   * has forgotten it.
   */
  forget(): void;
  /** Forwards new connections again and closes the stopped ones, as a replaced router would. */
  close(): void;
  /** Returns the number of connections that clients have open. */
  links(): number;
  [Symbol.asyncDispose](): Promise<void>;
}

interface Link {
  readonly sockets: readonly [Socket, Socket];
  swallowed: boolean;
  forgotten: boolean;
}

export async function startBlackHole(target: NetConnectOpts): Promise<BlackHole> {
  const links = new Set<Link>();
  let all = false;
  const server = createServer((client) => {
    const upstream = connect(target);
    const link: Link = { sockets: [client, upstream], swallowed: all, forgotten: false };
    links.add(link);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      from.setNoDelay(true);
      from.on("data", (chunk: Buffer) => {
        if (link.forgotten) {
          client.resetAndDestroy();
        } else if (!link.swallowed) {
          to.write(chunk);
        }
      });
      from.on("error", () => {});
      from.on("close", () => {
        // What is stopped does not learn that its other end has closed.
        if (!link.swallowed) {
          links.delete(link);
          to.destroy();
        }
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const end = (link: Link): void => {
    links.delete(link);
    for (const socket of link.sockets) {
      socket.destroy();
    }
  };
  return {
    port: (server.address() as AddressInfo).port,
    open(which) {
      all = which === "all";
      for (const link of links) {
        link.swallowed = true;
      }
    },
    forget() {
      for (const link of links) {
        link.forgotten = true;
      }
    },
    close() {
      all = false;
      [...links].filter(({ swallowed }) => swallowed).forEach(end);
    },
    links: () => [...links].filter(({ sockets: [client] }) => !client.closed).length,
    async [Symbol.asyncDispose]() {
      links.forEach(end);
      server.close();
      await once(server, "close");
    },
  };
}
