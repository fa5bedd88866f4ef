// Serves an inbox over HTTP/1.1 and HTTP/2, and stops at SIGTERM as docs/deploying.md says. Reports its
// ports to the parent. Arguments: the store, its location, and a name.
import { once } from "node:events";
import { createServer } from "node:http";
import { createServer as createServer2, type Http2Session } from "node:http2";
import { type AddressInfo, Server as NetServer, type Server } from "node:net";
import { setTimeout } from "node:timers/promises";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createClient } from "redis";
import { createSessions, type SessionStore } from "rpc-session";
import { healthFallback } from "rpc-session/http";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { InboxService } from "../../examples/gen/inbox/v1/inbox_pb.ts";

const [kind, place = "", name = ""] = process.argv.slice(2);

async function openStore(): Promise<SessionStore> {
  if (kind === "redis") {
    const client = createClient({ socket: { path: place, tls: false } });
    await client.connect();
    return redisStore(client);
  }
  return kind === "sqlite" ? sqliteStore(place) : postgresStore(place);
}

const sessions = createSessions({
  issuer: "https://api.example.com",
  secret: "a secret of at least 32 bytes, for tests",
  store: await openStore(),
  public: [InboxService.method.signIn],
});
await sessions.ready();

const adapter = connectNodeAdapter(
  sessions.protect({
    readMaxBytes: 2 ** 20,
    routes: (router) =>
      router.service(InboxService, {
        // Three writes, with a pause between them.
        async signIn({ user }, context) {
          const session = await sessions.create(context, { userId: user });
          await setTimeout(20);
          await session.updateData({ name });
          await sessions.issue({ userId: user });
          return {};
        },
        async *watch({ after }, { signal }) {
          for (let number = after + 1; ; number++) {
            yield { number, text: name };
            await setTimeout(10, undefined, { signal });
          }
        },
      }),
  }),
);
const h1 = createServer(adapter);
// Longer than the test holds calls back: a connection on which nothing arrives looks idle.
h1.keepAliveTimeout = 180_000;
const h2 = createServer2(adapter);
const connections = new Set<Http2Session>();
h2.on("session", (session) => {
  connections.add(session);
  session.once("close", () => connections.delete(session));
});
const health = createServer(healthFallback(sessions));

const listen = async (server: Server): Promise<number> => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
};
process.send?.({ h1: await listen(h1), h2: await listen(h2), health: await listen(health) });

async function stop(): Promise<void> {
  // 1. Take no new connections, and let clients open another one for their next call.
  h1.prependListener("request", (_request, response) => response.setHeader("connection", "close"));
  const finished = Promise.all([once(h1, "close"), once(h2, "close")]);
  // Not h1.close(), which also cuts idle connections: a call may be on its way on one.
  NetServer.prototype.close.call(h1);
  h2.close();
  for (const session of connections) {
    session.close();
  }
  // 2. Send the streams elsewhere.
  await sessions.drain();
  // 3. Let calls arrive that were on their way, and finish. Each connection closes after its next answer, and
  // under this load none stays idle, so nothing has to be cut. The limit is longer than on the page: it must
  // hold on a machine that is busy with something else.
  await Promise.race([finished, setTimeout(180_000, undefined, { ref: false })]);
  h1.closeIdleConnections();
  await sessions.close();
  // 4. The rest: idle connections.
  h1.closeAllConnections();
  health.close();
  health.closeAllConnections();
  process.disconnect();
  if (kind === "redis") {
    process.exit(0);
  }
}

process.once("SIGTERM", () => void stop());
