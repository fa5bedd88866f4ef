import { ConnectError } from "@connectrpc/connect";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { accessOf, apiOf, payloadOf, refreshOf } from "../helpers/api.ts";
import { newProofKey, type ProofKey } from "../helpers/proofs.ts";

const { signIn } = NotesService.method;
const base = "https://test.example";

type Options = NonNullable<Parameters<typeof testSessions>[0]>;

async function startWorld(options: Options = {}) {
  const sessions = testSessions({ public: [signIn], ...options });
  const api = apiOf(sessions);
  const key = await newProofKey();
  let nonce = "";
  /** Headers with a proof for a method, by a nonce of the service. */
  const proven = async (by: ProofKey, name: string, accessToken?: string) => {
    const htu = `${base}/${name}`;
    const proof = { htu, nonce, accessToken };
    return {
      "rpcsession-transport": "header",
      dpop: await by.prove(proof),
      ...(accessToken === undefined ? {} : { authorization: `DPoP ${accessToken}` }),
    };
  };
  const learn = async () => {
    const headers = await proven(key, "notes.v1.NotesService/SignIn");
    const { headers: answered } = await api.open({ headers }, (ctx) =>
      sessions.create(ctx, { userId: "nobody", bind: "preferred" }),
    );
    nonce = answered.get("dpop-nonce") ?? "";
  };
  await learn();
  const signInBy = async (by: ProofKey | undefined, bind?: "off" | "preferred" | "required") => {
    const headers = by === undefined ? asHeaders : await proven(by, "notes.v1.NotesService/SignIn");
    return api.open({ headers }, (ctx) =>
      sessions.create(ctx, { userId: "alice", ...(bind === undefined ? {} : { bind }) }),
    );
  };
  return { sessions, api, key, proven, signInBy };
}

const asHeaders = { "rpcsession-transport": "header" };

describe("bind", () => {
  it.each([
    // option, sign-in, with a proof, bound
    [undefined, undefined, true, true],
    [undefined, undefined, false, false],
    ["preferred", "off", true, false],
    ["off", undefined, true, false],
    ["off", "preferred", true, true],
    ["required", undefined, true, true],
    ["required", undefined, false, "refused"],
    ["required", "off", false, false],
    [undefined, "required", false, "refused"],
  ] as const)(
    "feat:S1 bind %s, at the sign-in %s, with a proof: %s, gives a bound session: %s",
    async (mode, own, hasProof, expected) => {
      const { sessions, key, signInBy } = await startWorld(
        mode === undefined ? {} : { bind: { mode } },
      );
      const answer = await signInBy(hasProof ? key : undefined, own);
      if (expected === "refused") {
        expect(answer.error?.rawMessage).toMatch(/binds its session to a key; send a proof/);
        expect(answer.hint?.proofNonce).not.toBe("");
        return;
      }
      expect(answer.error).toBeUndefined();
      const boundKey = expected ? key.thumbprint : undefined;
      expect(answer.result?.boundKey).toBe(boundKey);
      expect((await sessions.find(answer.result?.id ?? ""))?.boundKey).toBe(boundKey);
    },
  );

  it("feat:S1 required refuses a sign-in whose tokens would travel in cookies", async () => {
    const { sessions, api } = await startWorld({ bind: { mode: "required" } });
    const answer = await api.open(
      { headers: { "sec-fetch-site": "same-origin", origin: base } },
      (ctx) => sessions.create(ctx, { userId: "alice" }),
    );
    expect(answer.error?.rawMessage).toMatch(/needs tokens in headers/);
    await expect(sessions.issue({ userId: "alice" })).rejects.toThrow(/pass boundKey/);
  });

  it.each([
    [{ mode: "always" }, /bind\.mode/],
    [{ onMismatch: "ignore" }, /bind\.onMismatch/],
    [{ url: "api.example.com" }, /bind\.url must be the http or https URL/],
    [{ urls: "https://api.example.com" }, /urls/],
  ])("refuses the option %j at construction", (bind, message) => {
    expect(() => testSessions({ bind: bind as never })).toThrow(message);
  });

  it("feat:S3 onMismatch revoke ends the session at the first refresh without its key", async () => {
    const { sessions, api, key, signInBy } = await startWorld({ bind: { onMismatch: "revoke" } });
    const answer = await signInBy(key);
    const stolen = await api.refresh("header", refreshOf(answer) ?? "");
    expect(stolen.hint).toMatchObject({ session: answer.result?.id });
    expect(await sessions.find(answer.result?.id ?? "")).toBeUndefined();
  });

  it("feat:S6 proofs name the procedure under bind.url, whatever the issuer and Host are", async () => {
    const { sessions, api, key } = await startWorld({ bind: { url: "https://edge.example/rpc/" } });
    const open = async (htu: string, nonce?: string) =>
      api.open({ headers: { ...asHeaders, dpop: await key.prove({ htu, nonce }) } }, (ctx) =>
        sessions.create(ctx, { userId: "alice" }),
      );
    const wrong = await open(`${base}/notes.v1.NotesService/SignIn`);
    expect(wrong.headers.get("www-authenticate")).toContain("invalid_dpop_proof");
    const right = "https://edge.example/rpc/notes.v1.NotesService/SignIn";
    const { hint } = await open(right);
    expect((await open(right, hint?.proofNonce)).result?.boundKey).toBe(key.thumbprint);
  });
});

describe("a session that comes from a bound one", () => {
  it("feat:E5 feat:S5 a ticket of a bound session needs a proof by its key", async () => {
    const { sessions, api, key, proven, signInBy } = await startWorld();
    const access = accessOf(await signInBy(key)) ?? "";
    const ticket = (headers: Record<string, string>) =>
      api.call({ headers }, (ctx) => sessions.ticket(ctx, { purpose: "download" }));
    const bare = await ticket({ authorization: `Session ${access}` });
    expect(bare.result).toBeUndefined();
    expect(bare.hint?.proofNonce).not.toBe("");
    expect(bare.error?.rawMessage).toMatch(/bound to a key, and the request has no proof/);
    const { result } = await ticket(await proven(key, "notes.v1.NotesService/AddNote", access));
    const found = await sessions.redeemTicket(result?.ticket, { purpose: "download" });
    expect(found.boundKey).toBe(key.thumbprint);
  });

  it("feat:S5 fork needs a proof by the key of the session, and binds the fork to a key", async () => {
    const { sessions, api, key, proven, signInBy } = await startWorld();
    const second = await newProofKey();
    const access = accessOf(await signInBy(key)) ?? "";
    const fork = (headers: Record<string, string>, boundKey?: string) =>
      api.call({ headers }, (ctx) =>
        sessions.fork(ctx, boundKey === undefined ? {} : { boundKey }),
      );
    const bare = await fork({ authorization: `Session ${access}` });
    expect(bare.error?.rawMessage).toMatch(/has no proof by that key/);
    expect(bare.hint?.proofNonce).not.toBe("");
    const name = "notes.v1.NotesService/AddNote";
    const same = await fork(await proven(key, name, access));
    expect(same.result?.session.boundKey).toBe(key.thumbprint);
    const own = await fork(await proven(key, name, access), second.thumbprint);
    expect(own.result?.session.boundKey).toBe(second.thumbprint);
    const wrong = await fork(await proven(key, name, access), "not a thumbprint");
    expect(wrong.error).toBeInstanceOf(ConnectError);
  });

  it("feat:S5 reauthenticate needs a proof, and keeps the key", async () => {
    const { sessions, api, key, proven, signInBy } = await startWorld();
    const first = await signInBy(key);
    const access = accessOf(first) ?? "";
    const again = (headers: Record<string, string>) =>
      api.call({ headers }, (ctx) => sessions.reauthenticate(ctx));
    const bare = await again({ authorization: `Session ${access}` });
    expect(bare.error?.rawMessage).toMatch(/has no proof by that key/);
    expect(await sessions.find(first.result?.id ?? "")).toBeDefined();
    const answer = await again(await proven(key, "notes.v1.NotesService/AddNote", access));
    expect(payloadOf(accessOf(answer))).toMatchObject({ cnf: { jkt: key.thumbprint } });
    expect(await sessions.find(first.result?.id ?? "")).toBeUndefined();
  });

  it("feat:S5 a sign-in with a proof replaces a bound session by one that is bound to the new key", async () => {
    const { sessions, api, key, signInBy, proven } = await startWorld();
    const first = await signInBy(key);
    const next = await newProofKey();
    const headers = {
      ...(await proven(next, "notes.v1.NotesService/SignIn")),
      authorization: `Session ${accessOf(first)}`,
    };
    const answer = await api.open({ headers }, (ctx) => sessions.create(ctx, { userId: "alice" }));
    expect(answer.result?.boundKey).toBe(next.thumbprint);
    expect(await sessions.find(first.result?.id ?? "")).toBeUndefined();
  });

  it("issue binds a session to a given key, which must be a thumbprint", async () => {
    const { sessions, key } = await startWorld();
    const { session } = await sessions.issue({ userId: "bob", boundKey: key.thumbprint });
    expect(session.boundKey).toBe(key.thumbprint);
    await expect(sessions.issue({ userId: "bob", boundKey: "x" })).rejects.toThrow(/RFC 7638/);
    const inCookies = { userId: "bob", boundKey: key.thumbprint, transport: "cookie" } as const;
    await expect(sessions.issue(inCookies)).rejects.toThrow(/needs tokens in headers/);
  });
});

describe("a service that only verifies", () => {
  async function startVerifier(issuer: TestSessions, url?: string) {
    const sessions = verifySessions({
      issuer: base,
      jwks: await issuer.jwks(),
      clock: issuer.clock,
      ...(url === undefined ? {} : { bind: { url } }),
    });
    return apiOf(sessions as never);
  }

  it("feat:S8 checks proofs by their time, and each is used once", async () => {
    const { sessions, key, signInBy } = await startWorld();
    const access = accessOf(await signInBy(key)) ?? "";
    const url = "https://notes.example";
    const api = await startVerifier(sessions, url);
    const htu = `${url}/notes.v1.NotesService/AddNote`;
    const call = (authorization: string, dpopHeader?: string) =>
      api.call(
        { headers: { authorization, ...(dpopHeader === undefined ? {} : { dpop: dpopHeader }) } },
        () => "done",
      );
    const now = Math.floor(sessions.clock.now() / 1000);
    const at = (iat: number) => key.prove({ htu, accessToken: access, claims: { iat } });
    for (const [age, result] of [
      [0, "done"],
      [60, "done"],
      [-60, "done"],
      [61, undefined],
      [-61, undefined],
    ] as const) {
      const proof = await at(now - age);
      expect((await call(`DPoP ${access}`, proof)).result).toBe(result);
      expect((await call(`DPoP ${access}`, proof)).result).toBeUndefined();
    }
    expect((await call(`Session ${access}`)).result).toBe("done");
    expect((await call(`Bearer ${access}`)).result).toBeUndefined();
    expect((await call(`DPoP ${access}`)).result).toBeUndefined();
  });

  it("feat:S8 refuses every proof if it does not know its own URL", async () => {
    const { sessions, key, signInBy } = await startWorld();
    const access = accessOf(await signInBy(key)) ?? "";
    const api = await startVerifier(sessions);
    const claims = { iat: Math.floor(sessions.clock.now() / 1000) };
    const htu = `${base}/notes.v1.NotesService/AddNote`;
    const proof = await key.prove({ htu, accessToken: access, claims });
    const answer = await api.call(
      { headers: { authorization: `DPoP ${access}`, dpop: proof } },
      () => 1,
    );
    expect(answer.error?.rawMessage).toMatch(/bind\.url/);
  });
});
