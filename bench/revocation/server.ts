// One server process of the benchmark. Its parent configures it, and it ends with its parent.
import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createClient } from "redis";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { createSessions, type SessionStore, type Sessions } from "../../src/index.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { issuer, type StoreKind } from "./options.ts";

/** A request of the parent. */
export type Order =
  | {
      readonly type: "start";
      readonly store: StoreKind;
      /** A URL, or the path of a socket. */
      readonly at: string;
      readonly secret: string;
    }
  | { readonly type: "issue"; readonly count: number }
  | { readonly type: "countReads" };

/** The responses, in the order of the requests. */
export interface Answers {
  readonly start: { readonly port: number };
  readonly issue: readonly string[];
  readonly countReads: number;
}

let sessions: Sessions | undefined;
/** Store reads that a call may wait for; reads of the change log run in the background. */
let reads = 0;

process.on("message", (order: Order) => {
  void answer(order).then((message) => process.send?.(message));
});
// This also happens if the parent is killed.
process.once("disconnect", () => process.exit(0));

async function answer(order: Order): Promise<Answers[Order["type"]]> {
  switch (order.type) {
    case "start":
      return start(order);
    case "issue":
      return issue(order.count);
    case "countReads":
      return reads;
  }
}

async function start(order: Extract<Order, { type: "start" }>): Promise<{ port: number }> {
  const made = createSessions({
    issuer,
    store: counting(await openStore(order)),
    secret: order.secret,
  });
  sessions = made;
  await made.ready();
  const handler = connectNodeAdapter(made.protect({ routes: (router) => notes(router, made) }));
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { port: (server.address() as AddressInfo).port };
}

async function openStore({ store, at }: { store: StoreKind; at: string }): Promise<SessionStore> {
  if (store === "postgres") {
    return postgresStore(at);
  }
  const client = createClient({ socket: { path: at, tls: false } });
  client.on("error", () => {});
  await client.connect();
  return redisStore(client);
}

function counting(store: SessionStore): SessionStore {
  return new Proxy(store, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") {
        return value;
      }
      return (...args: unknown[]): unknown => {
        reads += name === "load" || name === "signingKeys" ? 1 : 0;
        return Reflect.apply(value, target, args);
      };
    },
  });
}

/** Creates sessions and returns their access tokens. */
async function issue(count: number): Promise<string[]> {
  const tokens: string[] = [];
  const some = async (): Promise<void> => {
    while (sessions !== undefined && tokens.length < count) {
      const { tokens: issued } = await sessions.issue({ userId: "user" });
      tokens.push(issued.accessToken);
    }
  };
  await Promise.all(Array.from({ length: 8 }, some));
  return tokens.slice(0, count);
}

function notes(router: ConnectRouter, { require }: Pick<Sessions, "require">): void {
  router.service(NotesService, {
    listNotes: (_request, context) => ({ notes: [{ text: require(context).userId }] }),
    async *watchNotes(_request, { signal }) {
      yield { note: { text: "open" } };
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    },
  });
}
