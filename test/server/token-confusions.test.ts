// Tokens that confuse careless verifiers (RFC 8725 §2), sent over HTTP. Most carry a good signature
// by the server's own key, so that only the rule under test can refuse them.
import { createHmac, generateKeyPairSync, sign } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { cookieHeader, realm, sameOrigin } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { callWire } from "../helpers/wire.ts";

const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
const other = generateKeyPairSync("ec", { namedCurve: "P-256" });
const publicJwk = { ...pair.publicKey.export({ format: "jwk" }), kid: "own", alg: "ES256" };
const spki = pair.publicKey.export({ format: "pem", type: "spki" }).toString();

type Members = Readonly<Record<string, unknown>>;
type Part = Members | string;
type Signer = (input: string) => string;

const text = (part: Part): string =>
  Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");
const es256: Signer = (input) =>
  sign("sha256", Buffer.from(input), {
    key: pair.privateKey,
    dsaEncoding: "ieee-p1363",
  }).toString("base64url");
const hmac =
  (key: string | Buffer): Signer =>
  (input) =>
    createHmac("sha256", key).update(input).digest("base64url");
const build = (header: Part, payload: Part, signer: Signer = es256): string => {
  const input = `${text(header)}.${text(payload)}`;
  return `${input}.${signer(input)}`;
};

let server: NotesServer;
let header: Members;
let payload: Members;
let good: string;
let tokens: { access: string; refresh: string };

beforeAll(async () => {
  const signing = { ...pair.privateKey.export({ format: "jwk" }), kid: "own", alg: "ES256" };
  server = await startNotes({ sessions: { keys: { signing } } });
  const issued = await server.sessions.issue({ userId: "alice", transport: "header" });
  good = issued.tokens.accessToken;
  tokens = { access: good, refresh: issued.tokens.refreshToken };
  [header, payload] = good
    .split(".")
    .slice(0, 2)
    .map((part) => JSON.parse(Buffer.from(part, "base64url").toString()) as Members) as [
    Members,
    Members,
  ];
});
afterAll(() => server.close());

/** Calls a method that needs a session; the code, and whether a handler ran. */
async function call(headers: Record<string, string>): Promise<readonly [string, boolean]> {
  const before = server.calls.handled;
  const wire = { protocol: "connect-json", http: "h1" } as const;
  const { listNotes } = NotesService.method;
  const { code } = await callWire(server, wire, { method: listNotes, messages: [{}], headers });
  return [code, server.calls.handled !== before];
}

/** Sends a token in each place where a client may put one. */
async function send(token: string) {
  const byCookie = { cookie: cookieHeader({ access: token }), ...sameOrigin };
  return {
    bearer: await call({ authorization: `Bearer ${token}` }),
    cookie: await call(byCookie),
  };
}

const refused = ["unauthenticated", false];
const families: Readonly<Record<string, () => Readonly<Record<string, string>>>> = {
  "another algorithm": () => ({
    ...Object.fromEntries(
      [
        "none",
        "None",
        "nOnE",
        "NONE",
        "",
        "HS256",
        "HS384",
        "RS256",
        "PS256",
        "ES384",
        "es256",
      ].map((alg) => [`alg ${alg}`, build({ ...header, alg }, payload)]),
    ),
    "none, without a signature": build({ ...header, alg: "none" }, payload, () => ""),
    "ES256, without a signature": build(header, payload, () => ""),
    "HS256 with the public key as PEM": build({ ...header, alg: "HS256" }, payload, hmac(spki)),
    "HS256 with the public key as PEM, cut": build(
      { ...header, alg: "HS256" },
      payload,
      hmac(spki.trim()),
    ),
    "HS256 with the public key as JWK": build(
      { ...header, alg: "HS256" },
      payload,
      hmac(JSON.stringify(publicJwk)),
    ),
    "HS256 with an empty key": build({ ...header, alg: "HS256" }, payload, hmac("")),
    "ES256 with an HMAC": build(header, payload, hmac(spki)),
    "an array": build({ ...header, alg: ["ES256"] }, payload),
    "no alg": build({ kid: "own", typ: "at+jwt" }, payload),
    "two algs": build('{"alg":"none","alg":"ES256","kid":"own","typ":"at+jwt"}', payload),
  }),
  "a key of the sender": () => {
    const foreign: Signer = (input) =>
      sign("sha256", Buffer.from(input), {
        key: other.privateKey,
        dsaEncoding: "ieee-p1363",
      }).toString("base64url");
    const jwk = other.publicKey.export({ format: "jwk" });
    return {
      "under our kid": build(header, payload, foreign),
      jwk: build({ ...header, jwk }, payload, foreign),
      "jwk, with our signature": build({ ...header, jwk: publicJwk }, payload),
      jku: build({ ...header, jku: `http://127.0.0.1:${server.port.h1}/jwks` }, payload),
      x5u: build({ ...header, x5u: "http://127.0.0.1/cert" }, payload),
      x5c: build({ ...header, x5c: ["MIIB"] }, payload),
      ...Object.fromEntries(
        ["", "../../dev/null", "' or 1=1", "own\u0000", "OWN", "__proto__", "k".repeat(65)].map(
          (kid) => [`kid ${JSON.stringify(kid)}`, build({ ...header, kid }, payload)],
        ),
      ),
      "no kid": build({ alg: "ES256", typ: "at+jwt" }, payload),
    };
  },
  "another kind of token": () => ({
    ...Object.fromEntries(
      ["JWT", "jwt", "", "dpop+jwt", "logout+jwt", "secevent+jwt", "at+jwt ", "rt+jwt"].map(
        (typ) => [`typ ${JSON.stringify(typ)}`, build({ ...header, typ }, payload)],
      ),
    ),
    "no typ": build({ alg: "ES256", kid: "own" }, payload),
    cty: build({ ...header, cty: "JWT" }, payload),
    "a token in a token": build(header, good),
    crit: build({ ...header, crit: ["exp"] }, payload),
    "crit, empty": build({ ...header, crit: [] }, payload),
    b64: build({ ...header, b64: false, crit: ["b64"] }, payload),
    zip: build({ ...header, zip: "DEF" }, payload),
    "the refresh token": tokens.refresh,
  }),
  "another issuer, audience or time": () => {
    const now = Number(payload.iat);
    const changes: readonly Members[] = [
      ...[
        `${realm}/`,
        `${realm}.evil.example`,
        realm.toUpperCase(),
        "",
        null,
        [realm],
        undefined,
      ].map((iss) => ({ iss })),
      ...[`${realm}/`, "other", [realm, "other"], [], "", null, undefined].map((aud) => ({ aud })),
      ...[now, now - 1, String(now + 900), now + 900.5, -1, null, undefined, 1e300, now + 1e9].map(
        (exp) => ({ exp }),
      ),
      ...[now + 3_600, String(now), null, undefined, -1].map((iat) => ({ iat })),
      ...[now + 3_600, String(now), null].map((nbf) => ({ nbf })),
      ...["sub", "sid", "jti", "gen", "cv", "auth_time", "transport"].map((name) => ({
        [name]: undefined,
      })),
      ...["sub", "sid"].map((name) => ({ [name]: "" })),
      ...["sub", "sid"].map((name) => ({ [name]: ["alice"] })),
    ];
    return Object.fromEntries(
      changes.map((change) => [
        JSON.stringify(change, (_, value: unknown) => value ?? `${value}`),
        build(header, { ...payload, ...change }),
      ]),
    );
  },
  "another form": () => {
    const [h = "", p = "", s = ""] = good.split(".");
    const signature = Buffer.from(s, "base64url");
    return {
      "no signature": `${h}.${p}.`,
      "two parts": `${h}.${p}`,
      "four parts": `${good}.`,
      "five parts": `${h}..${p}..${s}`,
      "an empty payload": `${h}..${s}`,
      "the signature of other bytes": `${h}.${text({ ...payload, sub: "bob" })}.${s}`,
      "a flipped bit": `${h}.${p}.${Buffer.from(signature.map((byte, i) => (i === 9 ? byte ^ 1 : byte))).toString("base64url")}`,
      padding: `${good}==`,
      "base64 instead of base64url": `${h}.${p}.${signature.toString("base64")}`,
      "a space inside": `${h}.${p.slice(0, 5)} ${p.slice(5)}.${s}`,
      "more bits than bytes": `${h}.${p}.${s.slice(0, -1)}${s.endsWith("A") ? "B" : "A"}`,
      DER: `${h}.${p}.${sign("sha256", Buffer.from(`${h}.${p}`), pair.privateKey).toString("base64url")}`,
      "two subjects": build(header, JSON.stringify(payload).replace("{", '{"sub":"bob",')),
      "__proto__ in the payload": build(
        header,
        JSON.stringify(payload).replace("{", '{"__proto__":{"admin":true},'),
      ),
      "a payload that is a list": build(header, "[]"),
      "a payload that is null": build(header, "null"),
      "a payload that is no JSON": build(header, "{"),
      "a byte order mark": build(header, `\ufeff${JSON.stringify(payload)}`),
      "more than 8192 characters": build(header, { ...payload, note: "x".repeat(8_000) }),
    };
  },
};

it("the token that the others are made from is accepted", async () => {
  const accepted = ["ok", true];
  expect(await call({ authorization: `Bearer ${good}` })).toEqual(accepted);
  expect(await call({ authorization: `Bearer ${build(header, payload)}` })).toEqual(accepted);
});

describe("sec:J13 over HTTP, no handler runs for a token with", () => {
  it.each(Object.keys(families))("%s", async (family) => {
    const wrong: unknown[] = [];
    for (const [name, token] of Object.entries(families[family]?.() ?? {})) {
      const { bearer, cookie } = await send(token);
      if (JSON.stringify([bearer, cookie]) !== JSON.stringify([refused, refused])) {
        wrong.push([name, bearer, cookie]);
      }
    }
    expect(wrong).toEqual([]);
  });

  it.each([
    ["another scheme", (token: string) => ({ authorization: `Basic ${token}` })],
    ["no scheme", (token: string) => ({ authorization: token })],
    ["two schemes", (token: string) => ({ authorization: `Bearer Bearer ${token}` })],
    ["a comma behind it", (token: string) => ({ authorization: `Bearer ${token}, x` })],
    ["the name of another header", (token: string) => ({ "x-authorization": `Bearer ${token}` })],
  ])("a good token after %s", async (_, headers) => {
    expect(await call(headers(good))).toEqual(refused);
  });
});
