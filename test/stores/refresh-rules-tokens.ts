import { base64Encode } from "@bufbuild/protobuf/wire";
import { expect, it } from "vitest";
import { openSecretRing, readSecretOption, type SecretKeys } from "../../src/base/crypto.ts";
import { mintRefreshToken } from "../../src/engine/refresh/token.ts";
import {
  acceptedBy,
  failure,
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

  it("sec:R10: parts of two tokens do not form a valid one, even with a correct check, and change nothing", async () => {
    await using servers = await startServers(newStore());
    const { current } = await openSecretRing(readSecretOption(secret), issuer);
    const one = await ripeTwice(servers);
    const two = await ripe(servers);
    const [a, b] = [one.successor.split("."), two.token.split(".")];
    const ids = [one.id, two.id];
    const before = await Promise.all(ids.map((id) => recordOf(servers, id)));
    let tried = 0;
    for (let mask = 0; mask < 32; mask++) {
      const mixed = a.map((part, i) => ((mask & (1 << i)) === 0 ? part : (b[i] as string)));
      for (const token of [mixed.join("."), await withSoundCheck(current, mixed)]) {
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
    // All combinations except the two originals; the secret id is equal, and the check is recomputed.
    expect(tried).toBe(28 + 24);
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
    // Servers also follow the change log meanwhile.
    const looks = times(4, (i) =>
      servers
        .at(i)
        .calls.slice(earlier[i])
        .filter((method) => method !== "changes"),
    );
    expect(looks).toEqual(times(4, () => ["recordSecrets"]));
    expect((await servers.at(0).exchange(token)).record.userId).toBe("alice");
  }, 300_000);

  it("sec:R12: stolen rows cannot mint a valid token, and forged tokens change no session", async () => {
    await using servers = await startServers(newStore());
    const { id } = await ripeTwice(servers);
    const record = await recordOf(servers, id);
    const guess = [crypto.getRandomValues(new Uint8Array(32))];
    const { current } = await openSecretRing(guess, issuer);
    // Everything that is stored, but another secret: under its own id, which no server has recorded,
    // and under the id of the real one.
    for (const keys of [current, { ...current, id: record.secretId }]) {
      for (const generation of [0, 1, 2]) {
        const forged = await mintRefreshToken(keys, { ...record, session: id, generation });
        const { kind = "accepted" } = await failure(servers.at(generation).exchange(forged));
        expect(kind).toBe("unauthorized");
      }
    }
    // The secret alone is not enough either: only the store has the salt.
    const { current: ours } = await openSecretRing(readSecretOption(secret), issuer);
    for (const salt of ["", `${record.salt.slice(1)}A`]) {
      const forged = await mintRefreshToken(ours, { ...record, session: id, generation: 1, salt });
      expect(await failure(servers.at(0).exchange(forged))).toMatchObject({
        reason: "TOKEN_INVALID",
      });
    }
    expect(await recordOf(servers, id)).toEqual(record);
    const honest = await mintRefreshToken(ours, { ...record, session: id, generation: 1 });
    expect((await servers.at(0).exchange(honest)).record.id).toBe(id);
  });
}

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

/** Combines parts of tokens under a correct check, which only a holder of the secret can do. */
async function withSoundCheck(keys: SecretKeys, parts: readonly string[]): Promise<string> {
  const body = parts.slice(0, 4).join(".");
  const mac = await keys.refreshCheck.sign(new TextEncoder().encode(body));
  return `${body}.${base64Encode(mac.subarray(0, 8), "url")}`;
}

/** Ten kinds of junk, all different: nine malformed or forged, one under an unknown secret. */
function junk(token: string, index: number): string {
  const [secretId, session = "", generation, tag = "", check = ""] = token.split(".");
  const mark = index.toString(36).padStart(8, "0");
  const kinds = [
    "",
    mark,
    `${mark}.${mark}.0.${mark}.${mark}`,
    `eyJhbGciOiJub25lIn0.${mark}.`,
    mark.repeat(1_000),
    `${token}${mark}`,
    [secretId, session, generation, tag, `${mark}${check.slice(8)}`].join("."),
    [secretId, session, String(index + 1), tag, check].join("."),
    [secretId, `${mark}${session.slice(8)}`, generation, `${mark}${tag.slice(8)}`, check].join("."),
    [mark, session, generation, tag, check].join("."),
  ];
  return kinds[index % 10] ?? "";
}
