import { once } from "node:events";
import {
  type AddressInfo,
  connect,
  createServer,
  type NetConnectOpts,
  type Socket,
} from "node:net";
import type { Random } from "./random.ts";

/** A TCP proxy on this machine that injects faults into its connections. */
export interface StoreProxy {
  readonly port: number;
  /** Closes some connections at once. */
  cut(share: number): void;
  /** Delays both directions of some connections until the returned function is called. */
  stall(share: number): () => void;
  /** Drops the data of some connections; the returned function closes them. */
  swallow(share: number): () => void;
  close(): void;
}

interface Link {
  mode: "open" | "stalled" | "swallowing";
  readonly sockets: readonly Socket[];
  /** The delayed writes. */
  readonly held: (() => void)[];
}

export async function startProxy(target: NetConnectOpts, random: Random): Promise<StoreProxy> {
  const links = new Set<Link>();
  const server = createServer((client) => join(client, connect(target), links));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const some = (share: number): Link[] => [...links].filter(() => random.chance(share));
  return {
    port: (server.address() as AddressInfo).port,
    cut: (share) => some(share).forEach(end),
    stall(share) {
      const chosen = enter(some(share), "stalled");
      return () => chosen.forEach(release);
    },
    swallow(share) {
      const chosen = enter(some(share), "swallowing");
      // After a gap the byte stream is useless, so the connection must close.
      return () => chosen.forEach(end);
    },
    close() {
      server.close();
      links.forEach(end);
    },
  };
}

function enter(links: Link[], mode: Link["mode"]): Link[] {
  for (const link of links) {
    link.mode = mode;
  }
  return links;
}

function join(client: Socket, upstream: Socket, links: Set<Link>): void {
  const link: Link = { mode: "open", sockets: [client, upstream], held: [] };
  links.add(link);
  for (const [from, to] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    from.setNoDelay(true);
    from.on("data", (chunk: Buffer) => pass(link, () => to.write(chunk)));
    from.on("error", () => {});
    from.on("close", () => {
      links.delete(link);
      pass(link, () => to.end());
    });
  }
}

function pass(link: Link, action: () => void): void {
  if (link.mode === "open") {
    action();
  } else if (link.mode === "stalled") {
    link.held.push(action);
  }
}

function release(link: Link): void {
  link.mode = "open";
  for (const action of link.held.splice(0)) {
    action();
  }
}

function end(link: Link): void {
  for (const socket of link.sockets) {
    socket.destroy();
  }
}
