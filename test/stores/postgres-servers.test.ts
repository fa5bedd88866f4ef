import { expect, it, vi } from "vitest";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine, type TestEngine } from "../helpers/engine.ts";
import { describePostgres } from "./describe-postgres.ts";
import { createPostgres } from "./postgres-fixture.ts";

const secret = "a secret of the test, of 32 bytes and more";
const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;

describePostgres("two servers with clocks 10 minutes apart on one PostgreSQL", (server) => {
  it("can refresh in turns without signing anybody out", async () => {
    await using pair = await openedPair(createPostgres(server()));
    const { id, token } = await pair.ahead.signIn();
    let present = token;
    for (let turn = 0; turn < 40; turn++) {
      await pair.advance(turn % 3 === 0 ? 31_000 : 61_000);
      const one = turn % 2 === 0 ? pair.ahead : pair.behind;
      const answer = await one.exchange(present);
      expect(answer.record.id).toBe(id);
      expect(answer.now).toBe(pair.clock.now());
      expect(answer.access.claims.iat).toBe(Math.floor(pair.clock.now() / 1000));
      present = answer.refreshToken ?? present;
    }
    const { record } = await pair.ahead.load(id);
    expect(record).toMatchObject({ revokedAt: null });
    expect(record?.generation).toBeGreaterThan(5);
    expect(pair.eventTypes()).toEqual(new Set(["created", "refreshed"]));
  });

  it("return the same successor for one token presented to both at once", async () => {
    await using pair = await openedPair(createPostgres(server()));
    const { token } = await pair.behind.signIn();
    await pair.advance(61_000);
    await pair.behind.exchange(token);
    await pair.advance(31_000);
    const answers = await Promise.all(
      Array.from({ length: 64 }, (_, n) => (n % 2 ? pair.ahead : pair.behind).exchange(token)),
    );
    const successors = answers.map(({ refreshToken }) => refreshToken);
    expect(successors[0]).toMatch(/\.1\./);
    expect(new Set(successors).size).toBe(1);
    expect(answers.every(({ record }) => record.generation === 1)).toBe(true);
  });

  it("detect the reuse of a token that the other server rotated", async () => {
    await using pair = await openedPair(createPostgres(server()));
    const { id, token } = await pair.ahead.signIn();
    await pair.advance(61_000);
    await pair.ahead.exchange(token);
    await pair.advance(31_000);
    const next = (await pair.behind.exchange(token)).refreshToken ?? "";
    await pair.advance(61_000);
    await pair.ahead.exchange(next);
    await pair.advance(31_000);
    await expect(pair.behind.exchange(token)).rejects.toMatchObject({ kind: "unauthorized" });
    expect((await pair.ahead.load(id)).record?.endedBy).toBe("theft");
    await expect(pair.ahead.exchange(next)).rejects.toMatchObject({ kind: "unauthorized" });
  });

  it("use no key too early, and verify each other's signatures", async () => {
    await using pair = await openedPair(createPostgres(server()));
    const first = await pair.kids();
    expect(new Set(first).size).toBe(1);
    await pair.advance(30 * day - 10 * minute);
    await pair.kids();
    await vi.waitFor(async () => expect((await pair.store.signingKeys()).keys).toHaveLength(2));
    await pair.advance(10 * minute - 1);
    expect(await pair.kids()).toEqual(first);
    await pair.advance(1);
    const [, second] = (await pair.store.signingKeys()).keys;
    expect(await pair.kids()).toContain(second?.kid);
    for (const signer of [pair.ahead, pair.behind]) {
      const { access } = await create(signer);
      for (const verifier of [pair.ahead, pair.behind]) {
        // Verify at the store's time; the verifier's own clock is not the subject here.
        expect(await verifier.verify(access.token, pair.clock.now())).toMatchObject({
          status: "valid",
        });
      }
    }
  });
});

type Fixture = Awaited<ReturnType<typeof createPostgres>>;

/** Two engines, each with a store of its own. Only `advance` moves the database's time. */
async function openedPair(creating: Promise<Fixture>) {
  const fixture = await creating;
  const { clock, another } = fixture;
  const clocks = [5 * minute, -5 * minute].map((wrong) => createFakeClock(clock.now() + wrong));
  const engines = await Promise.all(
    clocks.map((own) => startEngine({ store: another(), clock: own, secret })),
  );
  const [ahead, behind] = engines as [TestEngine, TestEngine];
  await fixture.store.open(fixture);
  return {
    ahead,
    behind,
    clock,
    store: fixture.store,
    async advance(ms: number) {
      // A read of the keys under way would return a time that its engine's clock has not reached.
      await Promise.all(engines.map((engine) => engine.settled()));
      await clock.advance(ms);
      clocks.forEach((own) => {
        own.advance(`${ms / 1000}s`);
      });
    },
    /** The key with which each engine signs now. */
    kids: () =>
      Promise.all(engines.map(async (engine) => kidOf((await create(engine)).access.token))),
    /** Without the feed's events, because the clock jumps while a read of the log is under way. */
    eventTypes: () =>
      new Set(
        engines
          .flatMap(({ events }) => events.map(({ type }) => type))
          .filter((type) => !type.startsWith("feed")),
      ),
    [Symbol.asyncDispose]: () => closeAll(fixture, engines),
  };
}

async function closeAll(fixture: Fixture, engines: readonly TestEngine[]): Promise<void> {
  await Promise.all(engines.map((engine) => engine.close()));
  await fixture.close();
}

function create(engine: TestEngine) {
  return engine.creator.create({
    userId: "alice",
    tenantId: null,
    claims: {},
    data: {},
    device: {},
    transport: "header",
    replaces: null,
  });
}

function kidOf(token: string): string {
  const header = Buffer.from(token.split(".")[0] ?? "", "base64url").toString();
  return (JSON.parse(header) as { readonly kid: string }).kid;
}
