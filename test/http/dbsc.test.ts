// The endpoints of DBSC, asked as a browser, a script and a thief would ask.
import { Code } from "@connectrpc/connect";
import type { SessionEvent } from "rpc-session";
import { dbscHandler } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { apiOf } from "../helpers/api.ts";
import { newProofKey, type ProofKey } from "../helpers/proofs.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const origin = "https://test.example";
const fromPage = { origin, "sec-fetch-site": "same-origin" };

type Options = NonNullable<Parameters<typeof testSessions>[0]>;

function serverOf(options: Options = {}, path?: string): Server {
  const server = startServer(options, path);
  return { ...server, beside: () => serverOf(server.all) };
}

function startServer(options: Options, path: string | undefined) {
  const events: SessionEvent[] = [];
  const shared = {
    store: memoryStore(),
    clock: createFakeClock(),
    secret: "a secret of at least 32 bytes, for tests",
  };
  const all: Options = { public: [NotesService.method.signIn], ...shared, ...options };
  const sessions = testSessions({ ...all, onEvent: (event) => events.push(event) });
  const handler = dbscHandler(sessions, path === undefined ? {} : { path });
  const api = apiOf(sessions);
  const ask = async (url: string, headers: Record<string, string>, method = "POST") => {
    const answer = await handler(new Request(new URL(url, origin), { method, headers }));
    if (answer === undefined) {
      throw new Error(`${url} is not served`);
    }
    return answer;
  };
  return { all, sessions, events, api, handler, ask };
}

interface Server extends ReturnType<typeof startServer> {
  /** Starts another server on the same store. */
  beside(): Server;
}

/** Signs in as a page does. */
async function signIn(
  { api, sessions }: Server,
  given: { readonly bind?: "off" | "preferred" | "required"; readonly headers?: object } = {},
) {
  const { bind } = given;
  const headers = { ...fromPage, ...given.headers };
  const answer = await api.open({ headers }, (ctx) =>
    sessions.create(ctx, { userId: "alice", ...(bind === undefined ? {} : { bind }) }),
  );
  const offer = answer.headers.get("secure-session-registration");
  const cookie = cookieIn(answer);
  const [, challenge = ""] = /challenge="([^"]+)"/.exec(offer ?? "") ?? [];
  return { answer, offer, challenge, cookie, id: answer.result?.id ?? "" };
}

/** The header of a proof, as a browser makes it. */
async function proofOf(key: ProofKey, jti: string, parts: Parameters<ProofKey["prove"]>[0] = {}) {
  const none = { iat: undefined, htm: undefined, htu: undefined };
  return key.prove({
    ...parts,
    header: { typ: "dbsc+jwt", ...parts.header },
    claims: { ...none, jti, ...parts.claims },
  });
}

async function register(
  server: Server,
  signedIn: Awaited<ReturnType<typeof signIn>>,
  key: ProofKey,
) {
  const answer = await server.ask("/dbsc/register", {
    cookie: signedIn.cookie,
    "secure-session-response": await proofOf(key, signedIn.challenge),
  });
  const body = (await answer.json()) as { readonly session_identifier: string };
  return { answer, body, id: body.session_identifier };
}

const later = { header: { jwk: undefined } };

/** What a browser does before a refresh: it gets a challenge, and proves its key. */
async function prove(server: Server, cookie: string, id: string, key: ProofKey) {
  const asked = await server.ask("/dbsc/refresh", { cookie, "sec-secure-session-id": id });
  const proof = await proofOf(key, challengeIn(asked), later);
  const headers = { cookie, "sec-secure-session-id": id, "secure-session-response": proof };
  return { proof, answer: await server.ask("/dbsc/refresh", headers) };
}

const challengeIn = ({ headers }: Response) =>
  /^"([^"]+)";id="/.exec(headers.get("secure-session-challenge") ?? "")?.[1] ?? "";

/** The cookies that an answer sets, as a browser sends them. */
function cookieIn({ headers }: { readonly headers: Headers }): string {
  const pairs = headers.getSetCookie().map((line) => line.split(";")[0] ?? "");
  return pairs.filter((pair) => !pair.endsWith("=")).join("; ");
}

/** Refreshes with the cookies of a browser and a proof cookie. */
async function refresh(server: Server, cookie: string) {
  return server.api.server.call(
    SessionService.method.refresh,
    {},
    { headers: { ...fromPage, cookie } },
  );
}

/** Makes the present generation old enough to advance. */
async function settle({ api, sessions }: Server, cookie: string) {
  sessions.clock.advance("61s");
  await api.call({ headers: { ...fromPage, cookie } }, () => 1);
  sessions.clock.advance("61s");
}

async function bound(server: Server, key: ProofKey) {
  const signedIn = await signIn(server);
  const { id } = await register(server, signedIn, key);
  await settle(server, signedIn.cookie);
  const { answer } = await prove(server, signedIn.cookie, id, key);
  const refreshed = await refresh(server, `${signedIn.cookie}; ${cookieIn(answer)}`);
  const cookie = cookieIn(refreshed);
  return { ...signedIn, cookie, identifier: id, refreshed };
}

describe("the offer at a sign-in", () => {
  it("feat:S11 names the algorithms, the path and a challenge", async () => {
    const { offer } = await signIn(serverOf());
    expect(offer).toMatch(
      /^\(ES256 RS256\);path="\/dbsc\/register";challenge="[\w-]{8}\.\d+\.[\w-]{16}\.[\w-]{43}"$/,
    );
  });

  it.each([
    ["a service that turns binding off", { bind: { mode: "off" } }, {}, true],
    ["a sign-in that turns it off", {}, { bind: "off" }, true],
    ["a service over plain http", { issuer: "http://localhost:8080" }, {}, true],
    ["a service whose tokens have format 1", { refresh: { tokenFormat: 1 } }, {}, true],
    ["a client with tokens in headers", {}, {}, false],
  ] as const)("feat:S11 is not made by %s", async (_, options: Options, own, isBrowser) => {
    const { sessions, api } = serverOf(options);
    const headers = { origin: options.issuer ?? origin, "sec-fetch-site": "same-origin" };
    const transport = isBrowser ? "cookie" : "header";
    const answer = await api.open(isBrowser ? { headers } : {}, (ctx) =>
      sessions.create(ctx, { userId: "alice", transport, ...own }),
    );
    expect(answer.error).toBeUndefined();
    expect(answer.headers.has("secure-session-registration")).toBe(false);
  });

  it("feat:S12 a sign-in decides for itself whether its session has to be bound", async () => {
    const strict = serverOf({ bind: { mode: "required" } });
    for (const [bind, expected] of [
      [undefined, "required"],
      ["preferred", undefined],
      ["off", undefined],
    ] as const) {
      const { answer, id } = await signIn(strict, bind === undefined ? {} : { bind });
      expect(answer.error).toBeUndefined();
      expect((await strict.sessions.find(id))?.device.bind).toBe(expected);
    }
    const single = serverOf();
    const { id } = await signIn(single, { bind: "required" });
    expect((await single.sessions.find(id))?.device.bind).toBe("required");
  });

  it("feat:S12 feat:S5 a session that has to be bound cannot be forked before it is, and keeps that over reauthenticate", async () => {
    const server = serverOf();
    const { sessions, api } = server;
    const { cookie, id } = await signIn(server, { bind: "required" });
    const request = { headers: { ...fromPage, cookie } };
    const forked = await api.call(request, (ctx) => sessions.fork(ctx));
    expect(forked.error?.code).toBe(Code.PermissionDenied);
    expect(forked.error?.rawMessage).toMatch(/has to be, bound to a browser/);
    expect((await sessions.list({ userId: "alice" })).sessions.map((one) => one.id)).toEqual([id]);
    const again = await api.call(request, (ctx) => sessions.reauthenticate(ctx));
    expect(again.error).toBeUndefined();
    expect((await sessions.find(again.result?.id ?? ""))?.device.bind).toBe("required");
  });

  it("feat:S11 a sign-in may ask for a binding where the service makes none", async () => {
    const { offer } = await signIn(serverOf({ bind: { mode: "off" } }), { bind: "preferred" });
    expect(offer).not.toBeNull();
  });
});

describe("the registration", () => {
  it("feat:S11 answers with what the browser has to do, from the issuer and never from Host", async () => {
    const server = serverOf({ origins: [origin, "https://app.test.example"] });
    const signedIn = await signIn(server);
    const key = await newProofKey();
    const answer = await server.handler(
      new Request("https://evil.example/dbsc/register", {
        method: "POST",
        headers: {
          cookie: signedIn.cookie,
          "secure-session-response": await proofOf(key, signedIn.challenge),
        },
      }),
    );
    expect(answer?.headers.getSetCookie()).toEqual([]);
    expect(await answer?.json()).toEqual({
      session_identifier: expect.stringContaining(signedIn.id),
      refresh_url: "/dbsc/refresh",
      scope: {
        origin,
        include_site: false,
        scope_specification: [
          { type: "exclude", domain: "*", path: "/" },
          { type: "include", domain: "*", path: "/rpcsession.v1.SessionService/Refresh" },
        ],
      },
      credentials: [
        {
          type: "cookie",
          name: "__Http-rpcsession-proof",
          attributes: "Path=/rpcsession.v1.SessionService/Refresh; HttpOnly; Secure; SameSite=Lax",
        },
      ],
      allowed_refresh_initiators: ["app.test.example"],
    });
  });

  it.each([
    ["no proof", {}, undefined],
    ["a type of its own", { header: { typ: "dpop+jwt" } }, undefined],
    ["alg none", { header: { alg: "none" } }, undefined],
    ["another alg than that of the key", { header: { alg: "RS256" } }, undefined],
    ["no key", { header: { jwk: undefined } }, undefined],
    ["an extension", { header: { crit: ["b64"], b64: true } }, undefined],
    ["no challenge", { claims: { jti: undefined } }, undefined],
    ["a challenge of its own", { claims: { jti: "challenge" } }, undefined],
    ["no cookies", {}, "none"],
    ["the cookies of another session", {}, "other"],
  ] as const)("sec:P03, feat:S11 refuses a proof with %s", async (what, parts, cookies) => {
    const server = serverOf();
    const signedIn = await signIn(server);
    const key = await newProofKey();
    const proof = await forgeable(key, signedIn.challenge, parts as never);
    const other = cookies === "other" ? (await signIn(server)).cookie : "";
    const answer = await server.ask("/dbsc/register", {
      cookie: cookies === undefined ? signedIn.cookie : other,
      ...(what === "no proof" ? {} : { "secure-session-response": proof }),
    });
    expect(answer.status).toBe(400);
  });

  it("sec:P03, feat:S11 refuses a key with private members, one that has not signed, and EdDSA", async () => {
    const server = serverOf();
    const { cookie, challenge } = await signIn(server);
    const [key, other, edwards] = await Promise.all([
      newProofKey(),
      newProofKey(),
      newProofKey("EdDSA"),
    ]);
    for (const proof of [
      await proofOf(key, challenge, { header: { jwk: key.privateJwk } }),
      await proofOf(key, challenge, { signer: other }),
      await proofOf(edwards, challenge),
    ]) {
      const headers = { cookie, "secure-session-response": proof };
      expect((await server.ask("/dbsc/register", headers)).status).toBe(400);
    }
  });

  it("sec:P03, feat:S11 takes a challenge for five minutes, once, and none of a refresh", async () => {
    const server = serverOf();
    const key = await newProofKey();
    const late = await signIn(server);
    server.sessions.clock.advance("301s");
    const ask = async ({ cookie }: typeof late, jti: string) => {
      const headers = { cookie, "secure-session-response": await proofOf(key, jti) };
      return (await server.ask("/dbsc/register", headers)).status;
    };
    expect(await ask(late, late.challenge)).toBe(400);
    const fresh = await signIn(server);
    server.sessions.clock.advance("299s");
    const { id } = await register(server, fresh, key);
    expect(await ask(fresh, fresh.challenge)).toBe(400);
    const asked = await server.ask("/dbsc/refresh", {
      cookie: fresh.cookie,
      "sec-secure-session-id": id,
    });
    expect(await ask(fresh, challengeIn(asked))).toBe(400);
  });

  it("sec:P03, feat:S11 by a script of the page binds nothing: only the browser can use a binding", async () => {
    // A script can send `Secure-Session-Response`, but no header that begins with `Sec-`.
    const server = serverOf();
    const signedIn = await signIn(server);
    const [browser, script] = [await newProofKey(), await newProofKey()];
    const other = server.beside();
    const planted = await register(other, signedIn, script);
    const { id } = await register(server, signedIn, browser);
    await settle(server, signedIn.cookie);
    const { cookie } = signedIn;
    const text = await proofOf(script, "challenge", later);
    expect(
      (await server.ask("/dbsc/refresh", { cookie, "secure-session-response": text })).status,
    ).toBe(401);
    const { answer } = await prove(server, cookie, id, browser);
    const refreshed = await refresh(server, `${cookie}; ${cookieIn(answer)}`);
    const info = await server.sessions.find(signedIn.id);
    expect(info?.boundKey).toBe(browser.thumbprint);
    // With all cookies and the identifier, outside of a browser, the key of the script is worth nothing.
    const late = await server.ask("/dbsc/refresh", {
      cookie: cookieIn(refreshed),
      "sec-secure-session-id": planted.id,
    });
    expect(late.status).toBe(401);
    expect(server.events).toContainEqual(
      expect.objectContaining({ type: "proofRefused", why: "otherKey" }),
    );
  });

  it("feat:S11 is refused once the session is bound, or has ended", async () => {
    const server = serverOf();
    const key = await newProofKey();
    const first = await signIn(server);
    const second = await signIn(server);
    await server.sessions.revoke(second.id);
    const ended = await server.ask("/dbsc/register", {
      cookie: second.cookie,
      "secure-session-response": await proofOf(key, second.challenge),
    });
    expect(ended.status).toBe(400);
    const { id } = await register(server, first, key);
    await settle(server, first.cookie);
    const { answer } = await prove(server, first.cookie, id, key);
    const cookie = cookieIn(await refresh(server, `${first.cookie}; ${cookieIn(answer)}`));
    const other = server.beside();
    const again = await other.ask("/dbsc/register", {
      cookie,
      "secure-session-response": await proofOf(await newProofKey(), first.challenge),
    });
    expect(again.status).toBe(400);
  });
});

/** A proof whose header may name another algorithm than it is signed with. */
async function forgeable(key: ProofKey, jti: string, parts: { header?: { alg?: string } }) {
  const { alg } = parts.header ?? {};
  if (alg === undefined) {
    return proofOf(key, jti, parts);
  }
  const [, payload = "", signature = ""] = (await proofOf(key, jti)).split(".");
  const header = { typ: "dbsc+jwt", alg, jwk: key.publicJwk };
  return `${Buffer.from(JSON.stringify(header)).toString("base64url")}.${payload}.${signature}`;
}

describe("the proof cookie", () => {
  it.each([
    ["https://test.example", {}, "__Http-rpcsession-proof"],
    ["https://localhost:8443", {}, "__Http-rpcsession-proof-8443"],
    [origin, { names: { access: "__Host-a", refresh: "__Host-b" } }, "__Http-b-proof"],
    [origin, { domain: "test.example" }, "__Http-rpcsession-proof"],
    [
      origin,
      { names: { access: "__Secure-me-access", refresh: "__Secure-me-refresh" } },
      "__Http-me-proof",
    ],
  ] as const)("feat:S11 has a name of its service: %s %j %s", async (issuer, cookies, name) => {
    const server = serverOf({ issuer, cookies });
    const signedIn = await signIn(server, { headers: { origin: issuer } });
    const { body } = await register(server, signedIn, await newProofKey());
    expect(body).toMatchObject({ credentials: [{ name }] });
  });

  it("feat:S11 stays after an answer that keeps the access token, which has used nothing", async () => {
    const server = serverOf();
    const key = await newProofKey();
    const { cookie, identifier } = await bound(server, key);
    const proof = cookieIn((await prove(server, cookie, identifier, key)).answer);
    const headers = { ...fromPage, cookie: `${cookie}; ${proof}` };
    const { refresh } = SessionService.method;
    const kept = await server.api.server.call(refresh, { onlyIfNeeded: true }, { headers });
    expect(kept.error).toBeUndefined();
    expect(kept.headers.getSetCookie()).toEqual([]);
    const used = await server.api.server.call(refresh, {}, { headers });
    expect(used.headers.getSetCookie()).toContainEqual(
      expect.stringMatching(/^__Http-rpcsession-proof=; Max-Age=0; Path=/),
    );
  });
});

describe("the mark of a browser that was asked for a proof", () => {
  it("feat:S11 counts only for its session", async () => {
    const server = serverOf();
    const [mine, other] = [await bound(server, await newProofKey()), await signIn(server)];
    const markOf = (id: string) => `__Http-rpcsession-proof-asked=${id}`;
    const asked = await refresh(server, `${mine.cookie}; ${markOf(other.id)}`);
    expect([asked.error?.code, asked.hint?.action]).toEqual([Code.Unavailable, 4]);
    expect(cookieIn(asked)).toBe(markOf(mine.id));
    const ended = await refresh(server, `${mine.cookie}; ${markOf(mine.id)}`);
    expect([ended.error?.code, ended.hint?.action]).toEqual([Code.Unauthenticated, 2]);
    expect(ended.hint?.tokens).toBe(2);
    expect(cookieIn(ended)).toBe("");
  });
});

describe("the refresh endpoint", () => {
  it("feat:S11 asks for a proof with 403, and answers it with instructions and a cookie", async () => {
    const server = serverOf();
    const key = await newProofKey();
    const { cookie, identifier } = await bound(server, key);
    const asked = await server.ask("/dbsc/refresh", {
      cookie,
      "sec-secure-session-id": `"${identifier}"`,
    });
    expect(asked.status).toBe(403);
    expect(asked.headers.get("secure-session-challenge")).toMatch(
      new RegExp(`^"[\\w.-]+";id="${identifier.replaceAll(".", "\\.")}"$`),
    );
    const { answer } = await prove(server, cookie, identifier, key);
    expect(answer.status).toBe(200);
    expect(answer.headers.get("cache-control")).toBe("no-store");
    expect(answer.headers.getSetCookie()).toEqual([
      expect.stringMatching(
        /^__Http-rpcsession-proof=[\w.-]+; Max-Age=600; Path=\/rpcsession\.v1\.SessionService\/Refresh; HttpOnly; Secure; SameSite=Lax$/,
      ),
    ]);
    expect(await answer.json()).toMatchObject({ session_identifier: identifier });
  });

  it.each([
    ["used before", 403],
    ["too old", 403],
    ["of a registration", 403],
    ["of another session", 403],
    ["invented", 403],
  ] as const)("sec:P03, feat:S11 a challenge that is %s gets a new one", async (what, status) => {
    const server = serverOf();
    const key = await newProofKey();
    const first = await signIn(server);
    const one = await bound(server, key);
    const ask = (id: string, cookie: string) =>
      server.ask("/dbsc/refresh", { cookie, "sec-secure-session-id": id });
    const jti = {
      "used before": async () => {
        const { proof } = await prove(server, one.cookie, one.identifier, key);
        return JSON.parse(Buffer.from(proof.split(".")[1] ?? "", "base64url").toString()).jti;
      },
      "too old": async () => {
        const { headers } = await ask(one.identifier, one.cookie);
        server.sessions.clock.advance("121s");
        return challengeIn({ headers } as Response);
      },
      "of a registration": async () => one.challenge,
      "of another session": async () => {
        const { id } = await register(server, first, key).catch(() => ({ id: "" }));
        return id === "" ? first.challenge : challengeIn(await ask(id, first.cookie));
      },
      invented: async () => `AAAAAAAA.9999999999999.${"A".repeat(16)}.${"A".repeat(43)}`,
    }[what];
    const proof = await proofOf(key, await jti(), later);
    const answer = await server.ask("/dbsc/refresh", {
      cookie: one.cookie,
      "sec-secure-session-id": one.identifier,
      "secure-session-response": proof,
    });
    expect(answer.status).toBe(status);
    expect(challengeIn(answer)).not.toBe("");
    expect(answer.headers.getSetCookie()).toEqual([]);
  });

  it.each([
    ["no identifier", { id: "" }],
    ["an identifier of its own", { id: "something" }],
    ["no cookies", { cookie: "" }],
    ["a key in the proof", { parts: {} }],
    ["a type of its own", { parts: { header: { jwk: undefined, typ: "jwt" } } }],
    ["the signature of another key", { signer: true }],
    ["text that is no proof", { text: "proof" }],
  ] as const)("sec:P03, feat:S11 %s ends the binding with 401", async (_, given) => {
    const server = serverOf();
    const key = await newProofKey();
    const one = await bound(server, key);
    const asked = await server.ask("/dbsc/refresh", {
      cookie: one.cookie,
      "sec-secure-session-id": one.identifier,
    });
    const parts = {
      ...("parts" in given ? given.parts : later),
      ...("signer" in given ? { signer: await newProofKey() } : {}),
    };
    const proof = await proofOf(key, challengeIn(asked), parts as never);
    const answer = await server.ask("/dbsc/refresh", {
      cookie: "cookie" in given ? given.cookie : one.cookie,
      "sec-secure-session-id": "id" in given ? given.id : one.identifier,
      "secure-session-response": "text" in given ? given.text : proof,
    });
    expect(answer.status).toBe(401);
    expect(answer.headers.getSetCookie()).toEqual([]);
  });

  it("sec:P03, feat:S11 an invented identifier, and that of another session, are worth nothing with the right cookies", async () => {
    const server = serverOf();
    const key = await newProofKey();
    const [mine, other] = [await signIn(server), await signIn(server)];
    const { id } = await register(server, mine, key);
    const thief = await newProofKey();
    const text = Buffer.from(JSON.stringify(thief.publicJwk)).toString("base64url");
    const [secretId, , mac, lineage] = id.split(".");
    const ask = (cookie: string, identifier: string) =>
      server.ask("/dbsc/refresh", { cookie, "sec-secure-session-id": identifier });
    expect((await ask(mine.cookie, `${secretId}.${text}.${mac}.${lineage}`)).status).toBe(401);
    expect((await ask(other.cookie, id)).status).toBe(401);
    expect((await ask(mine.cookie, id)).status).toBe(403);
    // A browser may hold copies of the cookie; the session of the binding is found among them.
    expect((await ask(`${other.cookie}; ${mine.cookie}`, id)).status).toBe(403);
  });

  it("feat:S11 a roll-out of a secret is 503, not the end of a binding", async () => {
    const [former, next] = ["former", "next"].map((name) => name.padEnd(40, "x"));
    const shared = { store: memoryStore(), clock: createFakeClock() };
    const first = serverOf({ ...shared, secret: [next ?? "", former ?? ""] });
    const key = await newProofKey();
    const { cookie, identifier } = await bound(first, key);
    const behind = serverOf({ ...shared, secret: former ?? "" });
    const headers = { cookie, "sec-secure-session-id": identifier };
    expect((await behind.ask("/dbsc/refresh", headers)).status).toBe(503);
    expect((await prove(first, cookie, identifier, key)).answer.status).toBe(200);
  });

  it("sec:P03, feat:S11 a captured proof is used once on a server, and once on another one for two minutes, with the cookies", async () => {
    const server = serverOf();
    const key = await newProofKey();
    const { cookie, identifier } = await bound(server, key);
    const [second, third] = [server.beside(), server.beside()];
    const { proof, answer } = await prove(server, cookie, identifier, key);
    expect(answer.status).toBe(200);
    const captured = {
      "sec-secure-session-id": identifier,
      "secure-session-response": proof,
    };
    const replay = async (at: Server, given: string) =>
      (await at.ask("/dbsc/refresh", { ...captured, cookie: given })).status;
    expect(await replay(server, cookie)).toBe(403);
    expect(await replay(second, "")).toBe(401);
    expect(await replay(second, cookie)).toBe(200);
    expect(await replay(second, cookie)).toBe(403);
    server.sessions.clock.advance("121s");
    expect(await replay(third, cookie)).toBe(403);
  });

  it("feat:S11 an outage is 503, which keeps the binding, and is an event", async () => {
    const { store, failing } = watchedStore();
    const server = serverOf({ store });
    const key = await newProofKey();
    const { cookie, identifier } = await bound(server, key);
    failing.add("load");
    const answer = await server.ask("/dbsc/refresh", {
      cookie,
      "sec-secure-session-id": identifier,
    });
    expect(answer.status).toBe(503);
    expect(answer.headers.get("retry-after")).toBe("1");
    expect(server.events.at(-1)).toMatchObject({ type: "failed" });
    failing.clear();
    expect((await prove(server, cookie, identifier, key)).answer.status).toBe(200);
  });

  it("feat:S11 a binding outlives the secret under which it was made", async () => {
    const [former, next] = ["former", "next"].map((name) => name.padEnd(40, "x"));
    const { store } = watchedStore();
    const clock = createFakeClock();
    const shared = { store, clock };
    const key = await newProofKey();
    const first = serverOf({ ...shared, secret: former ?? "" });
    const one = await bound(first, key);
    const both = serverOf({ ...shared, secret: [next ?? "", former ?? ""] });
    await settle(both, one.cookie);
    const proven = await prove(both, one.cookie, one.identifier, key);
    const cookie = cookieIn(await refresh(both, `${one.cookie}; ${cookieIn(proven.answer)}`));
    const last = serverOf({ ...shared, secret: next ?? "" });
    expect((await prove(last, cookie, one.identifier, key)).answer.status).toBe(200);
  });

  it("feat:S11 serves paths below that of the issuer, with and without it, and only POST", async () => {
    const issuer = `${origin}/api`;
    const server = serverOf({ issuer, origins: [origin] }, "/device");
    const { offer } = await signIn(server);
    expect(offer).toContain('path="/api/device/register"');
    for (const path of ["/device/register", "/api/device/refresh"]) {
      const answer = await server.ask(path, {}, "GET");
      expect([answer.status, answer.headers.get("allow")]).toEqual([405, "POST"]);
    }
    expect(await server.handler(new Request(`${origin}/dbsc/refresh`))).toBeUndefined();
  });
});
