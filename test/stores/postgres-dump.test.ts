import { expect, it } from "vitest";
import { randomId } from "../../src/base/crypto.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine } from "../helpers/engine.ts";
import type { TestPostgres } from "../servers/postgres.ts";
import { describePostgres } from "./describe-postgres.ts";
import { createPostgres } from "./postgres-fixture.ts";

const tables = [
  "migrations",
  "sessions",
  "changes",
  "signing_keys",
  "leases",
  "secrets",
  "token_format",
];
const secret = "a secret of the test, of 32 bytes and more";

describePostgres("a dump of PostgreSQL without the secret", (server) => {
  it("feat:H7 contains no token, and no part of a token that is hard to guess", async () => {
    await using used = await usedStore(server());
    const dump = JSON.stringify(await used.rows());
    expect(dump).toContain(used.session.rootHash);
    for (const token of used.tokens) {
      const parts = token.split(".").slice(token.startsWith("eyJ") ? 1 : 4);
      for (const part of parts) {
        expect(part.length).toBeGreaterThan(10);
        expect(dump).not.toContain(part);
      }
    }
  });

  it("cannot open an engine without the secret", async () => {
    await using used = await usedStore(server());
    await using copy = await copied(used, server());
    await expect(startEngine({ store: copy.store })).rejects.toMatchObject({
      cause: {
        message: expect.stringContaining("secret is missing and postgresStore does not keep one"),
      },
    });
  });

  it("rejects every earlier token after a restore under another secret, and reports it", async () => {
    await using used = await usedStore(server());
    await using copy = await copied(used, server());
    const other = await startEngine({ store: copy.store, secret: madeUp });
    for (const token of used.tokens.slice(0, 2)) {
      await expect(other.exchange(token)).rejects.toMatchObject({ kind: "unavailable" });
    }
    expect(other.events.map(({ type }) => type)).toEqual(["unknownSecret"]);
    // Verifying needs no secret, only the public key, which is in the JWKS.
    expect(await other.verify(used.access, used.clock.now())).toMatchObject({ status: "valid" });
  });

  it("does not let a thief who runs an engine on it mint a token that the servers accept", async () => {
    await using used = await usedStore(server());
    await using copy = await copied(used, server());
    const thief = await startEngine({ store: copy.store, secret: madeUp });
    const own = await thief.creator.create(victim);
    const { secretId } = own.record;
    for (const generation of [0, 1, 2]) {
      const stolen = { ...used.session, generation, secretId };
      const forged = await thief.refreshTokens.mint(stolen, randomId(16));
      const [, ...rest] = forged.split(".");
      const disguised = [used.session.secretId, ...rest].join(".");
      await expect(used.engine.exchange(forged)).rejects.toMatchObject({
        kind: "unauthorized",
        reason: "TOKEN_INVALID",
      });
      await expect(used.engine.exchange(disguised)).rejects.toMatchObject({ kind: "unauthorized" });
    }
    const verify = async () => used.engine.verify(own.access.token, used.clock.now());
    expect(await verify().catch((error: unknown) => error)).not.toMatchObject({ status: "valid" });
    expect((await used.store.load(used.session.id)).record?.revokedAt).toBeNull();
  });

  it("feat:H13, sec:R19: does not let a thief who also has the secret mint one", async () => {
    await using used = await usedStore(server());
    await using copy = await copied(used, server());
    const thief = await startEngine({ store: copy.store, secret });
    const before = await used.store.load(used.session.id);
    for (const generation of [0, 1, 2]) {
      for (const root of [undefined, used.session.rootHash ?? "", used.session.id, randomId(16)]) {
        const forged = await thief.refreshTokens.mint({ ...used.session, generation }, root);
        await expect(used.engine.exchange(forged)).rejects.toMatchObject({
          reason: "TOKEN_INVALID",
        });
      }
    }
    expect(await used.store.load(used.session.id)).toEqual(before);
  });
});

const madeUp = "a secret that a thief made up: 32 bytes and more";

const victim = {
  userId: "alice",
  tenantId: null,
  claims: {},
  data: {},
  device: {},
  transport: "header",
  replaces: null,
} as const;

/** A store with one session that was refreshed and one that was stolen. */
async function usedStore(server: TestPostgres) {
  const fixture = await createPostgres(server);
  const { store, admin } = fixture;
  const clock = createFakeClock();
  const engine = await startEngine({ store, secret, clock });
  const wait = async (seconds: number): Promise<void> => {
    clock.advance(`${seconds}s`);
    await fixture.clock.advance(seconds * 1000);
  };
  const { id, token } = await engine.signIn();
  await wait(61);
  await engine.exchange(token);
  await wait(31);
  const { refreshToken, record, access } = await engine.exchange(token);
  const ended = await engine.signIn();
  await engine.revoke(ended.id, "theft");
  expect(record).toMatchObject({ id, generation: 1 });
  return {
    ...fixture,
    engine,
    session: record,
    access: access.token,
    tokens: [token, refreshToken ?? "", access.token, ended.token],
    async rows() {
      const dump: (readonly unknown[])[] = [];
      for (const table of tables) {
        dump.push((await admin.query(`select * from rpcsession_${table}`)).rows);
      }
      return dump;
    },
    [Symbol.asyncDispose]: () => fixture.close(),
  };
}

/** Another store, restored from the rows alone. */
async function copied(used: Awaited<ReturnType<typeof usedStore>>, server: TestPostgres) {
  const fixture = await createPostgres(server);
  await fixture.store.open(fixture);
  for (const [index, dumped] of (await used.rows()).entries()) {
    const table = `rpcsession_${tables[index]}`;
    await fixture.admin.query(`truncate ${table}`);
    await fixture.admin.query(
      `insert into ${table} select * from jsonb_populate_recordset(null::${table}, $1)`,
      [JSON.stringify(dumped)],
    );
  }
  // As pg_dump does for a sequence.
  await fixture.admin.query(
    "select setval(pg_get_serial_sequence('rpcsession_changes', 'number'), max(number)) from rpcsession_changes",
  );
  return { store: fixture.store, [Symbol.asyncDispose]: () => fixture.close() };
}
