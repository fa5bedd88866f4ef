// Opens sessions, does some work and never closes them. Arguments: the store and its location.

import { createClient } from "redis";
import { createSessions, type SessionStore } from "rpc-session";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { sqliteStore } from "rpc-session/stores/sqlite";

const [kind, place = ""] = process.argv.slice(2);

let release = (): void => {};

async function openStore(): Promise<SessionStore> {
  if (kind === "redis") {
    const client = createClient({ socket: { path: place, tls: false } });
    await client.connect();
    // The owner of the client decides how long it keeps the process alive.
    release = () => client.unref();
    return redisStore(client);
  }
  return kind === "sqlite" ? sqliteStore(place) : postgresStore(place);
}

const sessions = createSessions({
  issuer: "https://api.example.com",
  secret: "a secret of at least 32 bytes, for tests",
  store: await openStore(),
});
await sessions.ready();
const { session } = await sessions.issue({ userId: "alice" });
// Waits until the store reports entries of other processes.
while (sessions.health().push !== "connected") {
  await new Promise((resolve) => setTimeout(resolve, 10));
}
process.stdout.write(`${session.id.length} ${sessions.health().push}`);
release();
