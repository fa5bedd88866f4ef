// Simulates two hours of the same sessions, which call and refresh. Reports the heap size every five
// minutes of the second hour.
import { Engine } from "../../src/engine/engine.ts";
import { readLifetimes } from "../../src/engine/lifetimes.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { issuer } from "../lib/tokens.ts";
import { heapUsed, tell } from "./talk.ts";

/** The heap sizes over a simulated hour. */
export interface SimulatedHours {
  readonly samples: readonly { readonly minute: number; readonly bytes: number }[];
  readonly calls: number;
  readonly refreshes: number;
}

const count = Number(process.argv[2]);
const clock = createFakeClock();
const engine = await new Engine({
  issuer,
  audience: issuer,
  store: memoryStore(),
  secret: undefined,
  lifetimes: readLifetimes({}, {}),
  clockSkew: 60_000,
  clock,
  emit: () => {},
}).open();
const clients = await Promise.all(Array.from({ length: count }, (_, i) => signIn(engine, i)));
const samples: { minute: number; bytes: number }[] = [];
const done = { calls: 0, refreshes: 0 };
for (let minute = 1; minute <= 120; minute++) {
  clock.advance("1m");
  for (const client of clients) {
    await call(client);
    await call(client);
  }
  await engine.settled();
  if (minute >= 60 && minute % 5 === 0) {
    samples.push({ minute, bytes: heapUsed() });
  }
}
tell({ samples, ...done } satisfies SimulatedHours);

interface Client {
  access: string;
  refresh: string;
  expiresAt: number;
}

async function signIn(from: Engine, i: number): Promise<Client> {
  const { access, refreshToken } = await from.creator.create({
    ...{ userId: `user-${i}`, tenantId: null, claims: { role: "admin" }, data: {}, device: {} },
    ...{ transport: "header", replaces: null },
  });
  return { access: access.token, refresh: refreshToken, expiresAt: access.claims.exp * 1000 };
}

async function call(client: Client): Promise<void> {
  if (client.expiresAt - clock.now() < 120_000) {
    const { access, refreshToken } = await engine.refresher.refresh({
      token: client.refresh,
      transport: "header",
    });
    client.access = access.token;
    client.refresh = refreshToken ?? client.refresh;
    client.expiresAt = access.claims.exp * 1000;
    done.refreshes++;
  }
  const verified = await engine.verify(
    Buffer.from(client.access).toString(),
    engine.revocations.storeNow(),
  );
  if (verified.status !== "valid") {
    throw new Error(`a token is ${verified.status}`);
  }
  engine.used(verified.claims);
  done.calls++;
}
