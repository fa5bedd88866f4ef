// One of many servers that start at once. Opens an engine when it reads from stdin, and prints the
// signing keys it finds. Argument: the URL of the database.
import { once } from "node:events";
import { systemClock } from "../../src/base/clock.ts";
import { Engine } from "../../src/engine/engine.ts";
import { readLifetimes } from "../../src/engine/lifetimes.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";

const store = postgresStore(process.argv[2] ?? "", { connections: 2 });
process.stdout.write("ready\n");
await once(process.stdin, "data");
const engine = await new Engine({
  issuer: "https://api.example.com",
  audience: "https://api.example.com",
  store,
  secret: "a secret of the test, of 32 bytes and more",
  lifetimes: readLifetimes({}, {}),
  clockSkew: 60_000,
  clock: systemClock,
  emit: () => {},
}).open();
const { keys } = await store.signingKeys();
process.stdout.write(`${keys.map(({ slot, kid }) => `${slot}:${kid}`).join(" ")}\n`);
await engine.close();
process.exit();
