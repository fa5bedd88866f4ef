import { fromBinary, type JsonValue } from "@bufbuild/protobuf";
import type { SessionEvent } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason, RefreshHintSchema, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { newProofKey, type ProofKey, type ProofParts } from "../helpers/proofs.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { callWire, type Wire, type WireResult, wireName } from "../helpers/wire.ts";

const { signIn, addNote, listNotes, watchNotes } = NotesService.method;
const { refresh, signOut } = SessionService.method;
const base = "https://test.example";
const urlOf = (method: { readonly name: string; readonly parent: { readonly typeName: string } }) =>
  `${base}/${method.parent.typeName}/${method.name}`;

const wires: readonly Wire[] = [
  { protocol: "connect-json", http: "h1" },
  { protocol: "grpc", http: "h2c" },
  { protocol: "grpc-web", http: "h1" },
];

type Headers = Readonly<Record<string, string>>;

function nameIn(names: Readonly<Record<string, number>>, value: number): string | undefined {
  return Object.keys(names).find((name) => names[name] === value);
}

/** A call that is refused, in short: its reason, and whether it brings a nonce. */
function refusalOf({ code, details, headers }: WireResult) {
  const found = details.find(({ type }) => type === RefreshHintSchema.typeName);
  if (found === undefined) {
    return { code, reason: undefined, nonce: "", challenge: null };
  }
  const hint = fromBinary(RefreshHintSchema, Buffer.from(found.value, "hex"));
  return {
    ...{ code, reason: nameIn(Reason, hint.reason), action: nameIn(Action, hint.action) },
    ...{ tokens: nameIn(Tokens, hint.tokens), nonce: hint.proofNonce },
    challenge: headers.get("www-authenticate"),
  };
}

/** A client that makes proofs, on one protocol. */
class Client {
  readonly server: NotesServer;
  readonly wire: Wire;
  readonly key: ProofKey;
  access = "";
  refreshToken = "";
  nonce: string | undefined;

  constructor(server: NotesServer, wire: Wire, key: ProofKey) {
    this.server = server;
    this.wire = wire;
    this.key = key;
  }

  call(
    method: Parameters<typeof callWire>[2]["method"],
    headers: Headers,
    message: JsonValue = {},
  ): Promise<WireResult> {
    return callWire(this.server, this.wire, { method, headers, messages: [message] });
  }

  proof(parts: ProofParts = {}): Promise<string> {
    return this.key.prove({ nonce: this.nonce, ...parts });
  }

  /** Learns a nonce as clients do: by a refused call. */
  async learnNonce(): Promise<void> {
    const dpop = await this.proof({ htu: urlOf(signIn), nonce: undefined });
    const refused = refusalOf(await this.call(signIn, { ...asHeaders, dpop }, { user: "alice" }));
    expect(refused).toMatchObject({
      ...{ code: "unauthenticated", reason: "PROOF_NONCE", action: "RETRY_LATER" },
      tokens: "KEEP",
      challenge: expect.stringContaining(
        'DPoP realm="https://test.example", error="use_dpop_nonce"',
      ),
    });
    expect(refused.nonce).not.toBe("");
    this.nonce = refused.nonce;
  }

  async signIn(): Promise<WireResult> {
    await this.learnNonce();
    const dpop = await this.proof({ htu: urlOf(signIn) });
    const answer = await this.call(signIn, { ...asHeaders, dpop }, { user: "alice" });
    this.keep(answer);
    return answer;
  }

  keep({ headers }: WireResult): void {
    this.access = headers.get("rpcsession-access-token") ?? this.access;
    this.refreshToken = headers.get("rpcsession-refresh-token") ?? this.refreshToken;
  }
}

const asHeaders = { "rpcsession-transport": "header" };
const content = { note: { text: "bread" } };

let server: NotesServer;
let key: ProofKey;
let other: ProofKey;
const events: SessionEvent[] = [];

beforeAll(async () => {
  [key, other] = await Promise.all([newProofKey(), newProofKey()]);
  server = await startNotes({
    sessions: {
      methods: { "notes.v1.NotesService/AddNote": { proof: "required" } },
      onEvent: (event) => events.push(event),
    },
  });
});

afterAll(() => server.close());

/** A proof that is refused, and by which reason. */
type Row = readonly [name: string, parts: (client: Client) => ProofParts, reason: string];

// biome-ignore format: a table
const invalid: readonly Row[] = [
  ["the typ of an access token", () => ({ header: { typ: "at+jwt" } }), "PROOF_INVALID"],
  ["no typ", () => ({ header: { typ: undefined } }), "PROOF_INVALID"],
  ["no jwk", () => ({ header: { jwk: undefined } }), "PROOF_INVALID"],
  ["a jwk with private members", () => ({ header: { jwk: key.privateJwk } }), "PROOF_INVALID"],
  ["a symmetric jwk", () => ({ header: { jwk: { kty: "oct", k: "c2VjcmV0" } } }), "PROOF_INVALID"],
  ["the jwk of another key", () => ({ header: { jwk: other.publicJwk } }), "PROOF_INVALID"],
  ["the signature of another key", () => ({ signer: other }), "PROOF_INVALID"],
  ["no jti", () => ({ claims: { jti: undefined } }), "PROOF_INVALID"],
  ["a jti of 129 characters", () => ({ claims: { jti: "x".repeat(129) } }), "PROOF_INVALID"],
  ["another htm", () => ({ htm: "GET" }), "PROOF_INVALID"],
  ["an htm in lower case", () => ({ htm: "post" }), "PROOF_INVALID"],
  ["no htu", () => ({ claims: { htu: undefined } }), "PROOF_INVALID"],
  ["the htu of another method", () => ({ htu: urlOf(listNotes) }), "PROOF_INVALID"],
  ["the htu of the host that was called", () => ({ htu: `http://127.0.0.1:${server.port.h1}/notes.v1.NotesService/AddNote` }), "PROOF_INVALID"],
  ["an htu with http", () => ({ htu: urlOf(addNote).replace("https", "http") }), "PROOF_INVALID"],
  ["an htu that is only a path", () => ({ htu: "/notes.v1.NotesService/AddNote" }), "PROOF_INVALID"],
  ["an htu whose path has another case", () => ({ htu: urlOf(addNote).toLowerCase() }), "PROOF_INVALID"],
  ["no iat", () => ({ claims: { iat: undefined } }), "PROOF_INVALID"],
  ["an iat that is a text", () => ({ claims: { iat: "now" } }), "PROOF_INVALID"],
  ["no ath", () => ({ accessToken: undefined }), "PROOF_INVALID"],
  ["the ath of another token", ({ access }) => ({ accessToken: `${access}x` }), "PROOF_INVALID"],
  ["no nonce", () => ({ nonce: undefined }), "PROOF_NONCE"],
  ["a foreign nonce", () => ({ nonce: "c2VydmVy" }), "PROOF_NONCE"],
  ["a forged nonce", ({ nonce = "" }) => ({ nonce: `${nonce.slice(0, -2)}AA` }), "PROOF_NONCE"],
  ["a nonce that is a number", () => ({ claims: { nonce: 7 } }), "PROOF_INVALID"],
];

// biome-ignore format: a table
const valid: readonly (readonly [name: string, parts: () => ProofParts])[] = [
  ["as any client makes it", () => ({})],
  ["with an htu that has a query and a fragment", () => ({ htu: `${urlOf(addNote)}?a=b#c` })],
  ["with an htu whose host is in upper case and has the default port", () => ({ htu: urlOf(addNote).replace("test.example", "TEST.example:443") })],
  ["by a clock that is wrong by a year: the nonce counts", () => ({ claims: { iat: 1_700_000_000 } })],
  ["with claims of its own", () => ({ claims: { nbf: 1, note: "mine" } })],
];

describe.each(wires.map((wire) => [wireName(wire), wire] as const))("over %s", (_name, wire) => {
  let client: Client;

  const add = async (parts: ProofParts, scheme = "DPoP"): Promise<WireResult> => {
    const { access } = client;
    const dpop = await client.proof({ htu: urlOf(addNote), accessToken: access, ...parts });
    return client.call(addNote, { authorization: `${scheme} ${access}`, dpop }, content);
  };

  beforeAll(async () => {
    client = new Client(server, wire, key);
    const answer = await client.signIn();
    expect(answer.code).toBe("ok");
  });

  it("feat:S1 a sign-in with a proof binds the session to its key", async () => {
    const payload = client.access.split(".")[1] ?? "";
    expect(JSON.parse(Buffer.from(payload, "base64url").toString()).cnf).toEqual({
      jkt: key.thumbprint,
    });
    expect(client.refreshToken).toContain(`.${key.thumbprint}.`);
  });

  it.each(valid)("feat:S6 accepts a proof %s", async (_, parts) => {
    const answer = await add(parts());
    expect(answer.code).toBe("ok");
    expect(answer.headers.get("dpop-nonce")).not.toBeNull();
  });

  it.each(invalid)("sec:P01, feat:S6 refuses a proof with %s", async (_, parts, reason) => {
    const { handled } = server.calls;
    const refused = refusalOf(await add(parts(client)));
    expect(refused).toMatchObject({ code: "unauthenticated", reason, tokens: "KEEP" });
    // A new proof may be accepted.
    expect(refused.nonce).not.toBe("");
    expect(server.calls.handled).toBe(handled);
  });

  it("sec:P01, feat:S6 refuses a proof that was used before, and more than one", async () => {
    const { access } = client;
    const dpop = await client.proof({ htu: urlOf(addNote), accessToken: access });
    const headers = { authorization: `DPoP ${access}`, dpop };
    expect((await client.call(addNote, headers, content)).code).toBe("ok");
    const again = refusalOf(await client.call(addNote, headers, content));
    expect(again).toMatchObject({
      reason: "PROOF_INVALID",
      challenge: expect.stringContaining("invalid_dpop_proof"),
    });
    const fresh = await client.proof({ htu: urlOf(addNote), accessToken: access });
    const two = await client.call(addNote, { ...headers, dpop: `${fresh}, ${fresh}` }, content);
    expect(refusalOf(two)).toMatchObject({ reason: "PROOF_INVALID" });
  });

  it("feat:S6 a proof by another key asks for a sign-in, and brings no nonce", async () => {
    const thief = new Client(server, wire, other);
    Object.assign(thief, { nonce: client.nonce, access: client.access });
    const dpop = await thief.proof({ htu: urlOf(addNote), accessToken: client.access });
    const headers = { authorization: `DPoP ${client.access}`, dpop };
    const refused = refusalOf(await thief.call(addNote, headers, content));
    expect(refused).toMatchObject({ reason: "PROOF_INVALID", action: "SIGN_IN", nonce: "" });
  });

  it("sec:P01, feat:S7 a bound token is never accepted as Bearer, with or without a proof", async () => {
    const { access } = client;
    for (const method of [addNote, listNotes, watchNotes]) {
      const dpop = await client.proof({ htu: urlOf(method), accessToken: access });
      for (const proof of [{}, { dpop }]) {
        const headers = { authorization: `Bearer ${access}`, ...proof };
        const refused = refusalOf(
          await client.call(method, headers, method === addNote ? content : {}),
        );
        expect(refused).toMatchObject({ code: "unauthenticated", reason: "PROOF_REQUIRED" });
        expect(refused.nonce).not.toBe("");
      }
    }
  });

  it("feat:S7 DPoP always needs a proof; Session does where the policy asks for one", async () => {
    const { access } = client;
    const plain = { authorization: `DPoP ${access}` };
    for (const method of [listNotes, watchNotes]) {
      expect(refusalOf(await client.call(method, plain))).toMatchObject({
        reason: "PROOF_REQUIRED",
      });
      const session = { authorization: `Session ${access}` };
      expect((await client.call(method, session)).code).toBe("ok");
      const dpop = await client.proof({ htu: urlOf(method), accessToken: access });
      expect((await client.call(method, { ...plain, dpop })).code).toBe("ok");
    }
    const refused = refusalOf(await add({}, "Session"));
    expect(refused).toMatchObject({ reason: "PROOF_REQUIRED" });
  });

  it("feat:S7 a session that is bound to no key cannot call a method that needs a proof", async () => {
    const answer = await client.call(signIn, asHeaders, { user: "bob" });
    const access = answer.headers.get("rpcsession-access-token") ?? "";
    expect((await client.call(listNotes, { authorization: `Bearer ${access}` })).code).toBe("ok");
    const dpop = await client.proof({ htu: urlOf(addNote), accessToken: access });
    for (const [scheme, code] of [
      ["Bearer", "permission_denied"],
      ["DPoP", "unauthenticated"],
    ] as const) {
      const headers = { authorization: `${scheme} ${access}`, dpop };
      expect((await client.call(addNote, headers, content)).code).toBe(code);
    }
  });

  it("sec:P02, feat:S2 refreshes with a proof, and is refused without one or with one by another key", async () => {
    const owner = new Client(server, wire, key);
    await owner.signIn();
    const message = { refreshToken: owner.refreshToken };
    events.length = 0;
    const bare = refusalOf(await owner.call(refresh, {}, message));
    expect(bare).toMatchObject({ reason: "PROOF_REQUIRED", action: "SIGN_IN", tokens: "KEEP" });
    expect(bare.nonce).not.toBe("");
    const stolen = await other.prove({ htu: urlOf(refresh), nonce: bare.nonce });
    const wrong = refusalOf(await owner.call(refresh, { dpop: stolen }, message));
    expect(wrong).toMatchObject({ reason: "PROOF_INVALID", action: "SIGN_IN", tokens: "KEEP" });
    expect(events.filter(({ type }) => type === "proofRefused")).toMatchObject([
      { why: "missing", userId: "alice" },
      { why: "otherKey", userId: "alice" },
    ]);
    const dpop = await owner.proof({ htu: urlOf(refresh), nonce: bare.nonce });
    const answer = await owner.call(refresh, { dpop }, message);
    expect(answer.code).toBe("ok");
    expect(answer.headers.get("rpcsession-access-token")).not.toBeNull();
  });

  it("feat:S5 a sign-in with the token of a bound session needs a proof; a sign-out does not", async () => {
    const owner = new Client(server, wire, key);
    await owner.signIn();
    const with_ = { ...asHeaders, authorization: `Session ${owner.access}` };
    const refused = refusalOf(await owner.call(signIn, with_, { user: "alice" }));
    expect(refused).toMatchObject({ reason: "PROOF_REQUIRED" });
    const list = { authorization: `Session ${owner.access}` };
    expect((await owner.call(listNotes, list)).code).toBe("ok");
    const message = { refreshToken: owner.refreshToken };
    expect((await owner.call(signOut, {}, message)).code).toBe("ok");
    expect(refusalOf(await owner.call(listNotes, list))).toMatchObject({
      reason: "SESSION_REVOKED",
    });
  });
});

describe("a proof for a Connect GET", () => {
  it("names GET, and the URL without its query", async () => {
    const client = new Client(server, { protocol: "connect-json", http: "h1" }, key);
    await client.signIn();
    const { access } = client;
    const get = async (htm: string) => {
      const dpop = await client.proof({ htu: urlOf(listNotes), htm, accessToken: access });
      const headers = { authorization: `DPoP ${access}`, dpop };
      const call = { method: listNotes, headers, messages: [{}], get: true };
      return callWire(server, client.wire, call);
    };
    expect((await get("GET")).code).toBe("ok");
    expect(refusalOf(await get("POST"))).toMatchObject({ reason: "PROOF_INVALID" });
  });
});

describe("a proof that somebody has copied", () => {
  it("feat:S6 is worth one use on each other server, for its method and its token alone", async () => {
    const store = memoryStore();
    const options = {
      sessions: {
        store,
        clock: createFakeClock(),
        methods: { "notes.v1.NotesService/AddNote": { proof: "required" } },
      },
    } as const;
    const [first, second] = [await startNotes(options), await startNotes(options)];
    const wire: Wire = { protocol: "connect-json", http: "h1" };
    const owner = new Client(first, wire, key);
    await owner.signIn();
    const { access } = owner;
    const dpop = await owner.proof({ htu: urlOf(addNote), accessToken: access });
    const headers = { authorization: `DPoP ${access}`, dpop };
    const thief = new Client(second, wire, other);
    const results: unknown[] = [];
    for (const { call } of [
      { call: () => owner.call(addNote, headers, content) },
      { call: () => owner.call(addNote, headers, content) },
      { call: () => thief.call(listNotes, headers) },
      { call: () => thief.call(addNote, headers, content) },
      { call: () => thief.call(addNote, headers, content) },
    ]) {
      results.push(refusalOf(await call()).reason ?? "accepted");
    }
    expect(results).toEqual([
      ...["accepted", "PROOF_INVALID"],
      // Each process remembers the proofs that it has accepted itself.
      ...["PROOF_INVALID", "accepted", "PROOF_INVALID"],
    ]);
    // A proof of a refresh names no token, so it is worth a refresh on the other server.
    const message = { refreshToken: owner.refreshToken };
    const refreshed = { dpop: await owner.proof({ htu: urlOf(refresh) }) };
    expect((await owner.call(refresh, refreshed, message)).code).toBe("ok");
    expect((await thief.call(refresh, refreshed, message)).code).toBe("ok");
    expect(refusalOf(await thief.call(refresh, refreshed, message)).reason).toBe("PROOF_INVALID");
    // Not for longer than three minutes.
    const late = { dpop: await owner.proof({ htu: urlOf(refresh) }) };
    options.sessions.clock.advance("3m");
    expect(refusalOf(await thief.call(refresh, late, message)).reason).toBe("PROOF_NONCE");
    await Promise.all([first.close(), second.close()]);
  });
});

describe("keys and nonces", () => {
  it.each(["EdDSA", "RS256"] as const)("feat:S6 accepts a key for %s", async (alg) => {
    const own = await newProofKey(alg);
    const client = new Client(server, { protocol: "connect-json", http: "h1" }, own);
    expect((await client.signIn()).code).toBe("ok");
  });

  it("feat:S6 a nonce is accepted for at least a minute, and for three at most", async () => {
    const client = new Client(server, { protocol: "grpc", http: "h2c" }, key);
    await client.signIn();
    const { access } = client;
    const add = async () => {
      const dpop = await client.proof({ htu: urlOf(addNote), accessToken: access });
      return client.call(addNote, { authorization: `DPoP ${access}`, dpop }, content);
    };
    server.sessions.clock.advance("60s");
    expect((await add()).code).toBe("ok");
    server.sessions.clock.advance("61s");
    const stale = refusalOf(await add());
    expect(stale).toMatchObject({ reason: "PROOF_NONCE", action: "RETRY_LATER" });
    client.nonce = stale.nonce;
    expect((await add()).code).toBe("ok");
  });
});
