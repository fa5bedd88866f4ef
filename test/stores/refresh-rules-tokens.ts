import { expect, it } from "vitest";
import { openSecretRing, randomId, readSecretOption } from "../../src/base/crypto.ts";
import { mintRooted, mintSalted } from "../../src/engine/refresh/format.ts";
import {
  acceptedBy,
  failure,
  hour,
  minute,
  type NewSharedStore,
  pollBound,
  recordOf,
  ripe,
  ripeTwice,
  second,
  times,
} from "./rules-helpers.ts";
import { type Server, secret, startServers } from "./servers.ts";

/** How many junk tokens. The full case has 1,000,000: `RPCSESSION_JUNK=1000000 npx vitest run refresh-rules`. */
const junkTokens = Number(process.env.RPCSESSION_JUNK ?? 20_000);

/** R07, R10, R11 and R12: the scope of a refresh token, and forged tokens. */
export function describeTokens(newStore: NewSharedStore): void {
  it("sec:R07: a revocation ends all generations of the session, and no other session", async () => {
    await using servers = await startServers(newStore());
    const other = await ripe(servers);
    const { id, token } = await ripe(servers);
    const tokens = [token];
    const accesses = [];
    for (let generation = 1; generation <= 4; generation++) {
      const present = tokens.at(-1) ?? "";
      const { refreshToken = "", access } = await servers.at(generation).exchange(present);
      tokens.push(refreshToken);
      accesses.push(access);
      await servers.pass(minute);
      await servers.at(0).exchange(refreshToken);
      await servers.pass(31 * second);
    }
    expect((await recordOf(servers, id)).generation).toBe(4);
    await servers.at(0).revoke(id, "revoked");
    for (const server of servers.all) {
      for (const each of tokens) {
        expect(await failure(server.exchange(each))).toMatchObject({ reason: "SESSION_REVOKED" });
      }
    }
    await servers.pass(pollBound);
    for (const access of accesses) {
      expect(await acceptedBy(servers, access)).toEqual([]);
    }
    const { record, access } = await servers.at(3).exchange(other.token);
    expect(record.userId).toBe("alice");
    expect(await acceptedBy(servers, access)).toEqual([0, 1, 2, 3]);
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R10: a refresh token leads only to its own session, whatever else is in the cookie jar", async () => {
    await using servers = await startServers(newStore());
    const alice = await signIn(servers.at(0), "alice");
    const bob = await signIn(servers.at(1), "bob");
    for (const [one, userId] of [[alice, "alice"] as const, [bob, "bob"] as const]) {
      const { record, access } = await servers.at(2).exchange(one.refreshToken);
      expect(record).toMatchObject({ id: one.record.id, userId });
      expect(access.claims).toMatchObject({ sid: one.record.id, sub: userId });
    }
    // A sign-in over another session replaces it: that session is dead at once.
    const next = await signIn(servers.at(2), "bob", alice.record.id);
    expect((await servers.at(3).exchange(next.refreshToken)).record.userId).toBe("bob");
    expect(await recordOf(servers, alice.record.id)).toMatchObject({ endedBy: "replaced" });
    for (const server of servers.all) {
      expect(await failure(server.exchange(alice.refreshToken))).toMatchObject({
        reason: "SESSION_REVOKED",
        sessionId: alice.record.id,
      });
    }
  });

  it("sec:R10: parts of two tokens do not form a valid one, even with a correct MAC, and change nothing", async () => {
    await using servers = await startServers(newStore());
    const { current } = await openSecretRing(readSecretOption(secret), issuer);
    const one = await ripeTwice(servers);
    const two = await ripe(servers);
    const [a, b] = [one.successor.split("."), two.token.split(".")];
    const ids = [one.id, two.id];
    const before = await Promise.all(ids.map((id) => recordOf(servers, id)));
    let tried = 0;
    for (let mask = 0; mask < 32; mask++) {
      const mixed = a.map((part, i) =>
        (mask & (1 << (i > 3 ? i - 1 : i))) === 0 ? part : (b[i] as string),
      );
      const [, session = "", generation, , root = ""] = mixed;
      const signed = {
        session,
        generation: Number(generation),
        root,
        transport: "header",
      } as const;
      // With a generation of its own session and another root, or the other way round.
      const sound = session === a[1] ? root !== a[4] : root !== b[4];
      const candidates = [mixed.join("."), ...(sound ? [await mintRooted(current, signed)] : [])];
      for (const token of candidates) {
        if (token !== one.successor && token !== two.token) {
          tried += 1;
          expect(await failure(servers.at(tried).exchange(token)), token).toMatchObject({
            kind: "unauthorized",
            reason: "TOKEN_INVALID",
          });
        }
      }
      const byCookie = servers
        .at(mask)
        .refresher.refresh({ token: one.successor, transport: "cookie" });
      expect(await failure(byCookie)).toMatchObject({ reason: "TOKEN_INVALID" });
    }
    // All combinations except the two originals, whose secret id is equal; and 16 with a correct MAC.
    expect(tried).toBe(28 + 16);
    expect(await Promise.all(ids.map((id) => recordOf(servers, id)))).toEqual(before);
    expect((await servers.at(0).exchange(one.successor)).record.id).toBe(one.id);
  });

  it(`sec:R11: ${junkTokens} junk refresh tokens cause no access to the store`, async () => {
    await using servers = await startServers(newStore());
    const { token } = await servers.at(0).signIn();
    await servers.pass(0);
    const before = times(4, (i) => servers.at(i).calls.length);
    const found = new Map<string, number>();
    for (let i = 0; i < junkTokens; i += 100) {
      const burst = times(100, (n) => failure(servers.at(n).exchange(junk(token, i + n))));
      for (const { reason = "accepted" } of await Promise.all(burst)) {
        found.set(reason, (found.get(reason) ?? 0) + 1);
      }
    }
    expect(times(4, (i) => servers.at(i).calls.length)).toEqual(before);
    expect(found).toEqual(new Map([["TOKEN_INVALID", junkTokens]]));
    // Invented secret ids are looked up once in 5 s, however many there are.
    await servers.pass(5 * second);
    const earlier = times(4, (i) => servers.at(i).calls.length);
    await Promise.all(times(400, (n) => failure(servers.at(n).exchange(junk(token, n * 10 + 9)))));
    // Servers also follow the change log meanwhile, and ask whether changes are pushed.
    const looks = times(4, (i) =>
      servers
        .at(i)
        .calls.slice(earlier[i])
        .filter((method) => method !== "changes" && method !== "pushed"),
    );
    expect(looks).toEqual(times(4, () => ["recordSecrets"]));
    expect((await servers.at(0).exchange(token)).record.userId).toBe("alice");
  }, 300_000);

  it("feat:H13, sec:R12, sec:R19: stolen rows and the secret together mint no valid token, and change no session", async () => {
    await using servers = await startServers(newStore());
    const { id } = await ripeTwice(servers);
    const record = await recordOf(servers, id);
    const guess = [crypto.getRandomValues(new Uint8Array(32))];
    const { current: guessed } = await openSecretRing(guess, issuer);
    const { current: ours } = await openSecretRing(readSecretOption(secret), issuer);
    // The real secret; another one under its own id, which no server has recorded; and another one
    // under the id of the real one.
    for (const keys of [ours, guessed, { ...guessed, id: record.secretId }]) {
      const roots = [record.rootHash ?? "", "", id, randomId(16), randomId(32)];
      for (const [generation, root] of roots.flatMap((r) =>
        [0, 1, 2, 40].map((g) => [g, r] as const),
      )) {
        const binding = { session: id, transport: "header", generation, root } as const;
        const salted = { ...binding, salt: root, tenantId: null };
        for (const forged of [await mintRooted(keys, binding), await mintSalted(keys, salted)]) {
          const { kind = "accepted" } = await failure(servers.at(generation).exchange(forged));
          expect(kind).toBe("unauthorized");
        }
      }
    }
    expect(await recordOf(servers, id)).toEqual(record);
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R19: a leaked secret that is not the row's moves no session, not even with an old token of it", async () => {
    await using servers = await startServers(newStore(), { secret: [secret, leaked] });
    const { id, token, successor } = await ripeTwice(servers);
    const { current: stolen } = await openSecretRing(readSecretOption(leaked), issuer);
    const before = await recordOf(servers, id);
    const root = token.split(".")[4] ?? "";
    const signed = (generation: number) =>
      mintRooted(stolen, { session: id, transport: "header", generation, root });
    // The current generation and the one before have tokens under the row's secrets only.
    for (const generation of [0, 1]) {
      expect(await failure(servers.at(0).exchange(await signed(generation)))).toMatchObject({
        reason: "TOKEN_INVALID",
      });
    }
    // Nobody is moved forward by it, however many generations the session may have.
    await servers.pass(hour);
    expect(await failure(servers.at(1).exchange(await signed(3)))).toMatchObject({
      kind: "unavailable",
      clearTokens: false,
    });
    expect(servers.at(1).events).toContainEqual({
      ...{ type: "impossibleGeneration", sessionId: id, presented: 3, generation: 1 },
    });
    expect(await recordOf(servers, id)).toEqual(before);
    expect((await servers.at(2).exchange(successor)).record.generation).toBe(2);
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R19: no token moves a session further than its age permits", async () => {
    await using servers = await startServers(newStore());
    const { id, token } = await ripe(servers);
    const { current } = await openSecretRing(readSecretOption(secret), issuer);
    const before = await recordOf(servers, id);
    const root = token.split(".")[4] ?? "";
    // 91 s: enough for generation 2, because generation 1 takes 90 s.
    const far = { session: id, transport: "header", generation: 3, root } as const;
    const forged = await mintRooted(current, far);
    expect(await failure(servers.at(0).exchange(forged))).toMatchObject({ kind: "unavailable" });
    expect(await recordOf(servers, id)).toEqual(before);
    const near = await mintRooted(current, { ...far, generation: 2 });
    expect((await servers.at(0).exchange(near)).record.generation).toBe(2);
  });
}

const leaked = "another secret of at least 32 bytes, which has leaked";

const issuer = "https://api.example.com";

function signIn(server: Server, userId: string, replaces: string | null = null) {
  return server.creator.create({
    userId,
    tenantId: null,
    claims: {},
    data: {},
    device: {},
    transport: "header",
    replaces,
  });
}

/** Ten kinds of junk, all different: nine malformed or forged, one under an unknown secret. */
function junk(token: string, index: number): string {
  const [secretId, session = "", generation, version, root = "", mac = ""] = token.split(".");
  const mark = index.toString(36).padStart(8, "0");
  const kinds = [
    "",
    mark,
    `${mark}.${mark}.0.${mark}.${mark}`,
    `eyJhbGciOiJub25lIn0.${mark}.`,
    mark.repeat(1_000),
    `${token}${mark}`,
    [secretId, session, generation, version, root, `${mark}${mac.slice(8)}`].join("."),
    [secretId, session, String(index + 1), version, root, mac].join("."),
    [secretId, `${mark}${session.slice(8)}`, generation, version, root, mac].join("."),
    [mark, session, generation, version, root, mac].join("."),
  ];
  return kinds[index % 10] ?? "";
}
