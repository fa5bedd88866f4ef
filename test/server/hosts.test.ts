import http2 from "node:http2";
import { connect } from "node:net";
import { inspect } from "node:util";
import { Code, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import type { SessionEvent, SessionsOptions } from "rpc-session";
import { dbscHandler, fromFetch, jwksHandler } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, type FakeClock, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { payloadOf } from "../helpers/api.ts";
import { newProofKey } from "../helpers/proofs.ts";
import { send } from "../helpers/send.ts";
import { startNotes } from "../helpers/server.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const [shopA, shopB] = ["https://shop-a.example", "https://shop-b.example"] as const;
const secret = "the secret of a service with hosts";

const hosts: NonNullable<SessionsOptions["hosts"]> = [
  { issuer: shopA, cookies: { domain: "shop-a.example", path: "/" } },
  { issuer: shopB, audience: "shop-b", origins: [shopB, "https://www.shop-b.example"] },
];

type Options = Partial<Omit<SessionsOptions, "clock">> & { readonly clock?: FakeClock };
type Headers2 = Readonly<Record<string, string>>;

/** One server with two hosts, called by the name that a client gives. */
async function world(options: Options = {}) {
  const events: SessionEvent[] = [];
  const server = await startNotes({
    sessions: {
      ...{ issuer: "https://platform.example", secret, hosts },
      onEvent: (event) => void events.push(event),
      ...options,
    },
  });
  onTestFinished(() => server.close());
  const { sessions, calls, port } = server;
  /** Sends a unary call in JSON to a host, as a client that is no browser. */
  const call = async (
    host: string | undefined,
    method: string,
    headers: Headers2 = {},
    body = {},
  ) => {
    const answer = await send(`http://127.0.0.1:${port.h1}/${method}`, {
      ...{ method: "POST", body: JSON.stringify(body) },
      headers: { "content-type": "application/json", ...(host && { host }), ...headers },
    });
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  };
  const notes = (host: string, headers: Headers2 = {}) =>
    call(host, "notes.v1.NotesService/ListNotes", headers);
  /** Signs alice in at a host from one of its pages. */
  const signIn = async (host: string, origin = `https://${host}`) => {
    const page = { origin, "sec-fetch-site": "same-origin" };
    const answer = await call(host, "notes.v1.NotesService/SignIn", page, { user: "alice" });
    const cookies = answer.headers.getSetCookie().filter((one) => !one.includes("Max-Age=0"));
    const pairs = cookies.map((one) => one.slice(0, one.indexOf(";")));
    return { answer, cookies, headers: { ...page, cookie: pairs.join("; ") }, pairs };
  };
  const bearerOf = async (host: string) => {
    const headers = { "rpcsession-transport": "header" };
    const answer = await call(host, "notes.v1.NotesService/SignIn", headers, { user: "alice" });
    const access = answer.headers.get("rpcsession-access-token") ?? "";
    const refreshToken = answer.headers.get("rpcsession-refresh-token") ?? "";
    return { access, refreshToken, headers: { authorization: `Bearer ${access}` } };
  };
  const refresh = (host: string, headers: Headers2, refreshToken = "") =>
    call(host, "rpcsession.v1.SessionService/Refresh", headers, { refreshToken });
  const clientOf = (host: string, headers: Headers2 = {}) => {
    const asHost: Interceptor = (next) => (request) => {
      for (const [name, value] of Object.entries({ host, ...headers })) {
        request.header.set(name, value);
      }
      return next(request);
    };
    const baseUrl = `http://127.0.0.1:${port.h1}`;
    return createConnectTransport({ baseUrl, httpVersion: "1.1", interceptors: [asHost] });
  };
  return {
    ...{ server, sessions, calls, port, events, call, notes, signIn, bearerOf, refresh, clientOf },
    refusals: () => events.filter(({ type }) => type === "refused"),
  };
}

function codeOf({ text }: { readonly text: string }): unknown {
  return (JSON.parse(text) as { code?: string }).code;
}

describe("feat:N8 a server with two hosts", () => {
  it("gives each host its issuer, audience, cookie domain and tenant", async () => {
    const { signIn, notes } = await world();
    const atA = await signIn("shop-a.example");
    const atB = await signIn("shop-b.example", "https://www.shop-b.example");
    const tokenOf = (pairs: string[]) => payloadOf(pairs[0]?.split("=")[1]);
    const [a, b] = [tokenOf(atA.pairs), tokenOf(atB.pairs)];
    expect(a).toMatchObject({ iss: shopA, aud: shopA, tid: "shop-a.example" });
    expect(b).toMatchObject({ iss: shopB, aud: "shop-b", tid: "shop-b.example" });
    expect(atA.pairs.map((pair) => pair.split("=")[0])).toEqual([
      "__Secure-rpcsession-access",
      "__Secure-rpcsession-refresh",
    ]);
    expect(atA.cookies.every((one) => one.includes("; Domain=shop-a.example;"))).toBe(true);
    expect(atB.pairs.map((pair) => pair.split("=")[0])).toEqual([
      "__Host-Http-rpcsession-access",
      "__Host-Http-rpcsession-refresh",
    ]);
    expect(atB.cookies.some((one) => one.includes("Domain"))).toBe(false);
    expect((await notes("shop-a.example", atA.headers)).status).toBe(200);
    expect((await notes("shop-b.example", atB.headers)).status).toBe(200);
  });

  it("sec:C29 refuses the cookies of one host at the other, and leaves them alone", async () => {
    const same = { names: { access: "__Host-a", refresh: "__Host-r" } };
    const { signIn, notes, refresh } = await world({
      hosts: [
        { issuer: shopA, cookies: same },
        { issuer: shopB, cookies: same },
      ],
    });
    const { headers } = await signIn("shop-a.example");
    const { cookie } = headers;
    const there = { cookie, origin: shopB, "sec-fetch-site": "same-origin" };
    const read = await notes("shop-b.example", there);
    expect([read.status, codeOf(read)]).toEqual([401, "unauthenticated"]);
    expect(read.headers.getSetCookie()).toEqual([]);
    const renewed = await refresh("shop-b.example", there);
    expect(renewed.status).toBe(401);
    expect(renewed.headers.get("rpcsession-access-token")).toBeNull();
    expect(renewed.headers.getSetCookie().every((one) => one.includes("Max-Age=0"))).toBe(true);
    expect((await notes("shop-a.example", headers)).status).toBe(200);
    expect((await refresh("shop-a.example", headers)).status).toBe(200);
  });

  it.each([undefined, 1, 2] as const)(
    "sec:C29 refuses access and refresh tokens of one host at the other, and they stay good at their own: format %s",
    async (tokenFormat) => {
      const { bearerOf, notes, refresh, call, events } = await world({
        refresh: tokenFormat === undefined ? {} : { tokenFormat },
      });
      const { headers, refreshToken } = await bearerOf("shop-a.example");
      // The default is the format of the store.
      expect(refreshToken.split(".")).toHaveLength(tokenFormat === 1 ? 5 : 6);
      // Twice, because the second token would come from the cache of verified tokens.
      expect((await notes("shop-a.example", headers)).status).toBe(200);
      for (const attempt of [1, 2]) {
        expect(await notes("shop-b.example", headers), `${attempt}`).toMatchObject({ status: 401 });
      }
      const stolen = await refresh("shop-b.example", {}, refreshToken);
      expect([stolen.status, codeOf(stolen)]).toEqual([401, "unauthenticated"]);
      const out = "rpcsession.v1.SessionService/SignOut";
      await call("shop-b.example", out, {}, { refreshToken });
      await call("shop-b.example", out, headers);
      expect(events.map(({ type }) => type)).not.toContain("theft");
      expect((await refresh("shop-a.example", {}, refreshToken)).status).toBe(200);
      expect((await notes("shop-a.example", headers)).status).toBe(200);
    },
  );

  it.each([
    "shop-c.example",
    "platform.example",
    "127.0.0.1",
    "evil.shop-a.example",
    "shop-a.example.evil.example",
    "shop-a.example.",
    "shop-a.example:8443",
    "shop-a.example:80",
    "shop-a.example@shop-b.example",
    "constructor",
    "__proto__",
  ])("sec:C29 refuses a request for %s, and no host stands in for it", async (host) => {
    const { call, calls, refusals, signIn, refresh } = await world();
    const { headers } = await signIn("shop-b.example");
    const before = calls.handled;
    const signedIn = await call(host, "notes.v1.NotesService/SignIn", {}, { user: "alice" });
    const read = await call(host, "notes.v1.NotesService/ListNotes", headers);
    const renewed = await refresh(host, headers);
    // The adapter itself refuses what is no authority at all.
    for (const answer of [signedIn, read, renewed].filter(({ status }) => status !== 400)) {
      expect([answer.status, codeOf(answer)]).toEqual([403, "permission_denied"]);
      expect(JSON.parse(answer.text).message).toBe(
        "the request names a host that this service does not serve; send it to one of the hosts of the service",
      );
      expect(answer.text).not.toContain("rpcsession.v1");
    }
    for (const { headers } of [signedIn, read, renewed]) {
      expect(headers.getSetCookie()).toEqual([]);
      expect(headers.get("rpcsession-session")).toBeNull();
    }
    expect(calls.handled).toBe(before);
    if (signedIn.status === 403) {
      expect(refusals()).toMatchObject(Array(3).fill({ reason: "HOST_UNKNOWN" }));
      expect(refusals()[0]).toMatchObject({ procedure: "notes.v1.NotesService/SignIn" });
    }
  });

  it.each(["shop-a.example", "SHOP-A.Example", "shop-a.example:443"])(
    "serves a host however it is written: %s",
    async (host) => {
      const { bearerOf, notes } = await world();
      const { access, headers } = await bearerOf(host);
      expect(payloadOf(access).iss).toBe(shopA);
      expect((await notes("shop-a.example", headers)).status).toBe(200);
    },
  );

  it("tells hosts apart by their port, where one is named", async () => {
    const { bearerOf, notes } = await world({
      hosts: [
        { issuer: "https://shop.example" },
        {
          issuer: "https://shop.example:8443",
          cookies: { names: { access: "__Host-x", refresh: "__Host-y" } },
        },
      ],
    });
    const { access, headers } = await bearerOf("shop.example:8443");
    expect(payloadOf(access)).toMatchObject({ iss: "https://shop.example:8443" });
    expect((await notes("shop.example", headers)).status).toBe(401);
    expect((await notes("shop.example:8443", headers)).status).toBe(200);
  });

  it("sec:C29 never serves a request that names two hosts", async () => {
    const { port, calls } = await world();
    const raw = async (target: string, ...lines: string[]) => {
      const socket = connect(port.h1, "127.0.0.1");
      const request = [
        `POST ${target} HTTP/1.1`,
        ...lines,
        "content-type: application/json",
        "rpcsession-transport: header",
        "content-length: 16",
        "connection: close",
      ];
      socket.write(`${request.join("\r\n")}\r\n\r\n{"user":"alice"}`);
      let answer = "";
      for await (const chunk of socket) {
        answer += String(chunk);
      }
      return answer;
    };
    const path = "/notes.v1.NotesService/SignIn";
    expect(await raw(path, "host: shop-a.example")).toMatch(/^HTTP\/1.1 200 /);
    const before = calls.handled;
    const twice = [
      await raw(`http://shop-b.example${path}`, "host: shop-a.example"),
      await raw(`http://shop-a.example${path}`, "host: shop-b.example"),
      await raw(path),
    ];
    for (const answer of twice) {
      expect(answer).not.toMatch(/^HTTP\/1.1 200 /);
      expect(answer.toLowerCase()).not.toContain("rpcsession-access-token");
    }
    expect(calls.handled).toBe(before);
    // Of two lines, Node.js keeps the first.
    const lines = await raw(path, "host: shop-a.example", "host: shop-b.example");
    expect(payloadOf(/rpcsession-access-token: (\S+)/i.exec(lines)?.[1]).iss).toBe(shopA);
  });

  it("reads the host of HTTP/2 from :authority, and refuses a host header that differs", async () => {
    const { port } = await world();
    const client = http2.connect(`http://127.0.0.1:${port.h2c}`);
    onTestFinished(() => client.destroy());
    const post = async (headers: Headers2) => {
      const stream = client.request({
        ...{ ":method": "POST", ":path": "/notes.v1.NotesService/SignIn" },
        ...{ "content-type": "application/json", "rpcsession-transport": "header" },
        ...headers,
      });
      let token: unknown;
      let status: unknown;
      stream.on("response", (answer) => {
        status = answer[":status"];
        token = answer["rpcsession-access-token"];
      });
      stream.end(`{"user":"alice"}`);
      for await (const _ of stream) {
        // The body does not matter.
      }
      return { status, issuer: typeof token === "string" ? payloadOf(token).iss : undefined };
    };
    expect(await post({ ":authority": "shop-b.example" })).toEqual({ status: 200, issuer: shopB });
    const two = { ":authority": "shop-b.example", host: "shop-a.example" };
    expect(await post(two)).toEqual({ status: 403, issuer: undefined });
    expect(await post({ ":authority": "shop-c.example" })).toEqual({
      status: 403,
      issuer: undefined,
    });
  });

  it("sec:C29 believes no forwarded header by default", async () => {
    const { bearerOf, call } = await world();
    const forwarded = {
      "x-forwarded-host": "shop-b.example",
      forwarded: "host=shop-b.example",
      "x-original-host": "shop-b.example",
    };
    const { access } = await bearerOf("shop-a.example");
    expect(payloadOf(access).iss).toBe(shopA);
    const at = async (host: string) =>
      call(
        host,
        "notes.v1.NotesService/SignIn",
        { "rpcsession-transport": "header", ...forwarded },
        { user: "bob" },
      );
    const token = (await at("shop-a.example")).headers.get("rpcsession-access-token") ?? "";
    expect(payloadOf(token).iss).toBe(shopA);
    expect((await at("internal.example")).status).toBe(403);
  });

  it("asks hostOf alone, which names a host of the list or none", async () => {
    const { call } = await world({
      hostOf: ({ requestHeader }) => requestHeader.get("x-shop-host") ?? undefined,
    });
    const at = (headers: Headers2) =>
      call(
        "shop-a.example",
        "notes.v1.NotesService/SignIn",
        { "rpcsession-transport": "header", ...headers },
        { user: "bob" },
      );
    const token = (await at({ "x-shop-host": "Shop-B.example" })).headers.get(
      "rpcsession-access-token",
    );
    expect(payloadOf(token ?? "").iss).toBe(shopB);
    expect((await at({})).status).toBe(403);
    expect((await at({ "x-shop-host": "shop-c.example" })).status).toBe(403);
  });

  it("answers that it failed if hostOf fails, and reports the cause to nobody but the service", async () => {
    const { notes, events } = await world({
      hostOf: () => {
        throw new Error("the table of shops is away");
      },
    });
    const answer = await notes("shop-a.example");
    expect([answer.status, codeOf(answer)]).toEqual([500, "internal"]);
    expect(answer.text).not.toContain("table");
    expect(events.filter(({ type }) => type !== "warning")).toMatchObject([
      {
        type: "failed",
        procedure: "notes.v1.NotesService/ListNotes",
        error: { reason: "INTERNAL" },
      },
    ]);
    expect(inspect(events)).toContain("the table of shops is away");
  });

  it("accepts cookies only from the pages of their host", async () => {
    const { signIn, notes } = await world();
    const { headers } = await signIn("shop-b.example");
    const from = (origin: string, site: string) => ({ ...headers, origin, "sec-fetch-site": site });
    const at = (extra: Headers2) => notes("shop-b.example", extra);
    expect((await at(from("https://www.shop-b.example", "same-site"))).status).toBe(200);
    for (const origin of [shopA, "https://shop-c.example", "null"]) {
      const refused = await at(from(origin, "cross-site"));
      expect([refused.status, refused.text]).toEqual([403, expect.stringContaining("origins")]);
    }
  });

  it("clears cookies in the domain of their host, at a sign-out and at the end of the session", async () => {
    const { sessions, signIn, call, notes } = await world();
    const first = await signIn("shop-a.example");
    const out = await call("shop-a.example", "rpcsession.v1.SessionService/SignOut", first.headers);
    const second = await signIn("shop-a.example");
    await sessions.revoke(String(payloadOf(second.pairs[0]?.split("=")[1]).sid));
    const over = await notes("shop-a.example", second.headers);
    expect(over.status).toBe(401);
    for (const { headers } of [out, over]) {
      const cleared = headers.getSetCookie();
      expect(cleared.length).toBeGreaterThan(0);
      expect(
        cleared.every((one) => /^__Secure-rpcsession-(access|refresh)=; Max-Age=0/.test(one)),
      ).toBe(true);
      for (const name of ["access", "refresh"]) {
        expect(
          cleared.filter(
            (one) =>
              one.startsWith(`__Secure-rpcsession-${name}=`) &&
              one.includes("Domain=shop-a.example;"),
          ),
        ).not.toEqual([]);
      }
      expect(cleared.join()).not.toMatch(/shop-b|platform/);
    }
    const atB = await signIn("shop-b.example");
    const gone = await call("shop-b.example", "rpcsession.v1.SessionService/SignOut", atB.headers);
    expect(gone.headers.getSetCookie().join()).not.toMatch(/Domain/);
    expect(gone.headers.getSetCookie()).not.toEqual([]);
  });

  it("binds proofs to the URL of their host", async () => {
    const { call } = await world();
    const key = await newProofKey();
    const name = "notes.v1.NotesService/SignIn";
    const at = async (host: string, base: string, nonce?: string) =>
      call(
        host,
        name,
        {
          "rpcsession-transport": "header",
          dpop: await key.prove({ htu: `${base}/${name}`, nonce }),
        },
        { user: "alice" },
      );
    const nonce = (await at("shop-a.example", shopA)).headers.get("dpop-nonce") ?? "";
    const bound = await at("shop-a.example", shopA, nonce);
    expect(bound.status).toBe(200);
    const token = bound.headers.get("rpcsession-access-token") ?? "";
    expect(payloadOf(token).cnf).toEqual({ jkt: key.thumbprint });
    const wrong = await at("shop-a.example", shopB, nonce);
    expect([wrong.status, wrong.headers.get("www-authenticate")]).toEqual([
      401,
      expect.stringContaining(`realm="${shopA}"`),
    ]);
    expect((await at("shop-b.example", shopB, nonce)).status).toBe(200);
  });

  it("offers browsers a binding at the origin of their host, and serves it there alone", async () => {
    const { sessions, signIn, refusals } = await world();
    const dbsc = dbscHandler(sessions);
    const { answer } = await signIn("shop-a.example");
    expect(answer.headers.get("secure-session-registration")).toContain('path="/dbsc/register"');
    const post = (url: string, headers: Headers2 = {}) =>
      dbsc(new Request(url, { method: "POST", headers }));
    expect((await post(`${shopA}/dbsc/register`))?.status).toBe(400);
    expect((await post(`${shopB}/dbsc/refresh`))?.status).toBe(401);
    expect(refusals()).toEqual([]);
    expect(await post("https://shop-c.example/other")).toBeUndefined();
    expect(refusals()).toEqual([]);
    expect((await post("https://shop-c.example/dbsc/refresh"))?.status).toBe(421);
    expect((await post(`${shopA}/dbsc/refresh`, { host: "shop-b.example" }))?.status).toBe(421);
    expect(refusals()).toMatchObject(Array(2).fill({ reason: "HOST_UNKNOWN" }));
  });

  it("names the host that was called in its refusals", async () => {
    const { notes } = await world();
    for (const [host, issuer] of [
      ["shop-a.example", shopA],
      ["shop-b.example", shopB],
    ] as const) {
      const refused = await notes(host);
      expect(refused.headers.get("www-authenticate")).toBe(`Bearer realm="${issuer}"`);
      expect(refused.text).toContain(issuer);
      expect(refused.text).not.toContain("platform.example");
    }
  });

  it("sec:C29 refuses anti-CSRF tokens of another host", async () => {
    const same = { names: { access: "__Host-a", refresh: "__Host-r" } };
    const { signIn, notes } = await world({
      antiCsrf: "token",
      hosts: [
        { issuer: shopA, cookies: same },
        { issuer: shopB, cookies: same },
      ],
    });
    const [a, b] = [await signIn("shop-a.example"), await signIn("shop-b.example")];
    const csrfOf = ({ answer }: typeof a) => answer.headers.get("rpcsession-csrf") ?? "";
    const at = (csrf: string) => notes("shop-a.example", { ...a.headers, "rpcsession-csrf": csrf });
    expect((await at(csrfOf(a))).status).toBe(200);
    expect((await at(csrfOf(b))).status).toBe(401);
  });

  it("ends a stream with its session, and opens none with tokens of another host", async () => {
    const { sessions, bearerOf, clientOf, calls } = await world();
    const { access, headers } = await bearerOf("shop-a.example");
    const client = (host: string) => createClient(NotesService, clientOf(host, headers));
    const text = { note: { text: "first" } };
    await client("shop-a.example").addNote(text);
    const elsewhere = client("shop-b.example").watchNotes({})[Symbol.asyncIterator]();
    await expect(elsewhere.next()).rejects.toMatchObject({ code: Code.Unauthenticated });
    const unknown = client("shop-c.example").watchNotes({})[Symbol.asyncIterator]();
    await expect(unknown.next()).rejects.toMatchObject({ code: Code.PermissionDenied });
    const before = calls.handled;
    const stream = client("shop-a.example").watchNotes({})[Symbol.asyncIterator]();
    // The handler waits after its notes, until the call ends.
    keepOpen(calls);
    expect((await stream.next()).value).toMatchObject(text);
    expect(calls.handled).toBe(before + 1);
    await sessions.revoke(payloadOf(access).sid);
    await expect(stream.next()).rejects.toMatchObject({ code: Code.Unauthenticated });
  });

  it("drains the streams of all hosts", async () => {
    const { sessions, bearerOf, clientOf, calls } = await world();
    keepOpen(calls);
    const ends: Promise<unknown>[] = [];
    for (const host of ["shop-a.example", "shop-b.example"]) {
      const { headers } = await bearerOf(host);
      const client = createClient(NotesService, clientOf(host, headers));
      await client.addNote({ note: { text: "first" } });
      const stream = client.watchNotes({})[Symbol.asyncIterator]();
      await stream.next();
      ends.push(
        (async () => {
          while (!(await stream.next()).done) {
            // The notes of alice, whichever shop she wrote them in.
          }
        })().catch((error: unknown) => error),
      );
    }
    await sessions.drain({ within: "0s" });
    for (const end of ends) {
      expect(await end).toMatchObject({ code: Code.Unavailable });
    }
    expect(sessions.health().status).toBe("draining");
  });

  it("keeps users with the same id apart, unless the hosts have no tenants", async () => {
    const shared = hosts.map((host) => ({ ...host, tenantId: null }));
    for (const [given, expected] of [
      [hosts, 1],
      [shared, 2],
    ] as const) {
      const { bearerOf, clientOf, notes } = await world({ hosts: given });
      const [a, b] = [await bearerOf("shop-a.example"), await bearerOf("shop-b.example")];
      const client = createClient(SessionService, clientOf("shop-a.example", a.headers));
      const { sessions: listed } = await client.listSessions({});
      expect(listed).toHaveLength(expected);
      const { revoked } = await client.revokeSession({ sessionId: payloadOf(b.access).sid });
      expect(revoked).toBe(expected === 2);
      expect((await notes("shop-b.example", b.headers)).status).toBe(expected === 2 ? 401 : 200);
    }
  });

  it("shares its store with a second server, where sessions end at once", async () => {
    const store = memoryStore();
    const clock = createFakeClock();
    const [here, there] = [await world({ store, clock }), await world({ store, clock })];
    const { headers, access, refreshToken } = await here.bearerOf("shop-a.example");
    expect((await there.notes("shop-a.example", headers)).status).toBe(200);
    expect((await there.notes("shop-b.example", headers)).status).toBe(401);
    expect((await there.refresh("shop-a.example", {}, refreshToken)).status).toBe(200);
    await here.sessions.revoke(payloadOf(access).sid);
    clock.advance("5s");
    await expect
      .poll(async () => (await there.notes("shop-a.example", headers)).status, { timeout: 30_000 })
      .toBe(401);
  });

  it("keeps the sessions of a service that lists its own host among others", async () => {
    const store = memoryStore();
    const clock = createFakeClock();
    const before = testSessions({ ...{ issuer: shopA, store, clock, secret } });
    const { tokens } = await before.issue({ userId: "alice", transport: "header" });
    const { notes, refresh } = await world({ ...{ issuer: shopA, store, clock } });
    const headers = { authorization: `Bearer ${tokens.accessToken}` };
    expect((await notes("shop-a.example", headers)).status).toBe(200);
    expect((await notes("shop-b.example", headers)).status).toBe(401);
    expect((await refresh("shop-b.example", {}, tokens.refreshToken)).status).toBe(401);
    expect((await refresh("shop-a.example", {}, tokens.refreshToken)).status).toBe(200);
  });

  it("does no I/O for a warm call, and reads the store for no token of another host", async () => {
    const watched = watchedStore(memoryStore());
    const { bearerOf, notes, refresh } = await world({ store: watched.store });
    const { headers, refreshToken } = await bearerOf("shop-a.example");
    await notes("shop-a.example", headers);
    watched.take();
    expect((await notes("shop-a.example", headers)).status).toBe(200);
    expect((await notes("shop-b.example", headers)).status).toBe(401);
    expect((await refresh("shop-b.example", {}, refreshToken)).status).toBe(401);
    expect((await notes("shop-c.example", headers)).status).toBe(403);
    expect(watched.take()).toEqual([]);
  });

  it("retires a secret for all of its hosts", async () => {
    const { sessions, bearerOf, refresh } = await world({
      secret: [secret, "the next secret of the service, longer"],
    });
    const a = await bearerOf("shop-a.example");
    const b = await bearerOf("shop-b.example");
    const list = await sessions.secrets.list();
    const current = list.find(({ state }) => state === "current");
    await sessions.secrets.retire(current?.id ?? "");
    expect((await refresh("shop-a.example", {}, a.refreshToken)).status).toBe(401);
    expect((await refresh("shop-b.example", {}, b.refreshToken)).status).toBe(401);
    const signing = bearerOf("shop-b.example");
    // The new key signs once every server knows it.
    const next = await onceKnown(sessions.clock, signing);
    expect((await refresh("shop-b.example", {}, next.refreshToken)).status).toBe(200);
  });

  it("publishes keys under which each host's verifier accepts that host alone", async () => {
    const { sessions, bearerOf } = await world();
    const jwks = jwksHandler(sessions);
    const answer = await jwks(new Request(`${shopA}/.well-known/jwks.json`));
    const keys = await answer?.json();
    const verifier = verifySessions({ issuer: shopA, jwks: keys, clock: sessions.clock });
    const read = async (host: string) => {
      const { headers } = await bearerOf(host);
      return verifier.getSession(fromFetch(new Request(shopA, { headers })));
    };
    expect((await read("shop-a.example")).userId).toBe("alice");
    await expect(read("shop-b.example")).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
  });
});

describe("feat:N8 outside RPCs, a service with hosts", () => {
  const at = (url: string, headers: Headers2 = {}) =>
    fromFetch(new Request(`${url}/page`, { method: "POST", headers }));

  it("finds the host of a plain request, and refuses an unknown one with a typed error", async () => {
    const { sessions } = await world();
    const signedIn = at(shopA, { origin: shopA });
    const session = await sessions.create(signedIn, { userId: "alice" });
    expect(session.tenantId).toBe("shop-a.example");
    const cookies = signedIn.responseHeader.getSetCookie();
    expect(cookies.at(-1)).toContain("Domain=shop-a.example");
    const pairs = cookies
      .filter((one) => !one.includes("Max-Age=0"))
      .map((one) => one.split(";")[0]);
    const cookie = pairs.join("; ");
    expect((await sessions.getSession(at(shopA, { origin: shopA, cookie }))).id).toBe(session.id);
    for (const method of ["getSession", "signOut", "reauthenticate", "fork"] as const) {
      const refused = sessions[method](at("https://shop-c.example", { cookie }));
      await expect(refused, method).rejects.toMatchObject({
        ...{ name: "SessionError", kind: "forbidden", reason: "HOST_UNKNOWN", statusCode: 403 },
      });
    }
    for (const host of ["shop-a.example, shop-b.example", "shop-a.example shop-b.example", ""]) {
      const plain = { ...at(shopA), url: "/page", requestHeader: new Headers({ host }) };
      await expect(sessions.signOut(plain)).rejects.toMatchObject({ reason: "HOST_UNKNOWN" });
    }
    const conflict = at(shopA, { origin: shopA, cookie, host: "shop-b.example" });
    await expect(sessions.getSession(conflict)).rejects.toMatchObject({ reason: "HOST_UNKNOWN" });
    await expect(
      sessions.create(at("https://shop-c.example"), { userId: "alice" }),
    ).rejects.toMatchObject({ reason: "HOST_UNKNOWN" });
    expect(await sessions.getSession(at(shopB, { cookie }), { required: false })).toBeUndefined();
  });

  it("issues tokens and redeems tickets for the host that is named", async () => {
    const { sessions, notes } = await world();
    const a = sessions.host("shop-a.example");
    const { session, tokens } = await a.issue({ userId: "alice" });
    const headers = { authorization: `Bearer ${tokens.accessToken}` };
    expect((await notes("shop-a.example", headers)).status).toBe(200);
    const given = await sessions.ticket(at(shopA, headers), { purpose: "x" });
    const elsewhere = sessions.host("SHOP-B.example").redeemTicket(given.ticket, { purpose: "x" });
    await expect(elsewhere).rejects.toMatchObject({
      kind: "unauthorized",
      reason: "TOKEN_INVALID",
    });
    expect((await a.redeemTicket(given.ticket, { purpose: "x" })).id).toBe(session.id);
    await expect(sessions.issue({ userId: "alice" })).rejects.toThrow(
      /^sessions\.issue: with the option hosts, tokens and tickets belong to a host; use sessions\.host/,
    );
    await expect(sessions.redeemTicket(given.ticket, { purpose: "x" })).rejects.toThrow(TypeError);
    const other = {
      ...{ userId: "alice", createdAt: new Date(sessions.clock.now()) },
      externalId: { issuer: "former", sid: "1" },
    };
    await expect(sessions.adopt(other)).rejects.toThrow(/^sessions\.adopt: with the option hosts/);
    expect(payloadOf((await a.adopt(other)).tokens.accessToken).iss).toBe(shopA);
    const traded = at(shopB, { origin: shopB });
    await sessions.adopt(traded, { ...other, externalId: { issuer: "former", sid: "2" } });
    expect(traded.responseHeader.getSetCookie().join()).toContain("__Host-Http-rpcsession-access=");
    expect(() => sessions.host("shop-c.example")).toThrow(
      /^sessions\.host: "shop-c.example" is not in the option hosts/,
    );
    expect(() => testSessions().host("shop-a.example")).toThrow(/list them in the option hosts/);
    expect(await sessions.find(session.id)).toMatchObject({ userId: "alice" });
  });

  it("is not confused by a wrong argument", async () => {
    const { sessions } = await world();
    const request = { method: "POST", headers: { host: "shop-a.example" } };
    await expect(sessions.create(request as never, { userId: "alice" })).rejects.toThrow(
      /^sessions\.create received a request of Node.js or Express; pass fromNode/,
    );
    expect(() => sessions.require({} as never)).toThrow(/^sessions\.require received an object/);
    expect(() => sessions.current(undefined as never)).toThrow(
      /^sessions\.current received undefined/,
    );
    expect(() => sessions.requireFresh({} as never, "5m")).toThrow(
      /^sessions\.requireFresh received/,
    );
    await expect(sessions.requireClaims({} as never, { x: ["y"] })).rejects.toThrow(
      /^sessions\.requireClaims received/,
    );
  });
});

describe("feat:N8 a wrong host is refused at the start", () => {
  const make = (options: object) => () =>
    testSessions({ issuer: "https://platform.example", ...options } as Options);

  it.each([
    [{ hosts: [] }, /^hosts must list 1 to 1000 hosts, got 0/],
    [{ hosts: { a: 1 } }, /^hosts must be an array, got an object/],
    [{ hosts: [{}] }, /^hosts\[0\]\.issuer must be the http or https URL/],
    [{ hosts: ["shop-a.example"] }, /^hosts\[0\]/],
    [
      { hosts: [{ issuer: "shop-a.example" }] },
      /^hosts\[0\]\.issuer must be the http or https URL/,
    ],
    [{ hosts: [{ issuer: shopA, orgins: [] }] }, /^unknown option "orgins" for hosts\[0\]/],
    [
      { hosts: [{ issuer: shopA }, { issuer: `${shopA}/two` }] },
      /^hosts\[1\]\.issuer: "https:\/\/shop-a.example\/two" has the same host as hosts\[0\]/,
    ],
    [
      { hosts: [{ issuer: shopA, audience: "" }] },
      /^hosts\[0\].*audience must be a non-empty string/,
    ],
    [{ hosts: [{ issuer: shopA, tenantId: "" }] }, /^hosts\[0\]\.tenantId must be/],
    [{ hosts: [{ issuer: shopA, origins: "x" }] }, /^hosts\[0\]\.origins must be an array/],
    [
      { hosts: [{ issuer: shopA, origins: [shopB] }] },
      /^hosts\[0\]: origins: https:\/\/shop-b.* is not on the same site as https:\/\/shop-a/,
    ],
    [
      { hosts: [{ issuer: shopA, cookies: { domain: "shop-b.example" } }] },
      /^hosts\[0\]: cookies\.domain must be the issuer's host shop-a\.example/,
    ],
    [
      { issuer: shopB, olderIssuers: [shopA], hosts: [{ issuer: shopA }] },
      /^hosts\[0\]\.issuer: "https:\/\/shop-a.example" is among olderIssuers/,
    ],
    [{ hosts, origins: [shopA] }, /^origins is for a service with one host/],
    [{ hosts, audience: "x" }, /^audience is for a service with one host/],
    [{ hosts, bind: { url: shopA } }, /^bind\.url is one URL/],
    [{ hostOf: () => "x" }, /^hostOf selects one of the hosts, but the option hosts is missing/],
    [{ hosts, hostOf: "x" }, /^hostOf must be a function, got a string/],
    [
      {
        hosts: [
          { issuer: "https://example.com", cookies: { domain: "example.com" } },
          { issuer: "https://b.example.com", cookies: { domain: "example.com" } },
        ],
      },
      /^hosts\[1\]: browsers send the cookies of hosts\[0\] to this host too, under the same names/,
    ],
    [
      { hosts: [{ issuer: "https://shop.example" }, { issuer: "https://shop.example:8443" }] },
      /^hosts\[1\]: browsers send the cookies of hosts\[0\]/,
    ],
  ])("%j", (options, message) => {
    expect(make(options)).toThrow(message);
  });

  it("but not one whose cookies have a name of their own, or stay at their host", () => {
    const names = { access: "__Secure-b", refresh: "__Secure-br" };
    expect(
      make({
        hosts: [
          { issuer: "https://example.com", cookies: { domain: "example.com" } },
          { issuer: "https://b.example.com", cookies: { domain: "example.com", names } },
        ],
      }),
    ).not.toThrow();
    expect(
      make({ hosts: [{ issuer: "https://a.example.com" }, { issuer: "https://b.example.com" }] }),
    ).not.toThrow();
  });

  it("and the message shows no password of a URL", () => {
    let said = "";
    try {
      make({ hosts: [{ issuer: "https://user:pa55word@shop-a.example" }] })();
    } catch (error) {
      said = inspect(error);
    }
    expect(said).toContain("hosts[0].issuer");
    expect(said).not.toContain("pa55word");
  });
});

/** Keeps the streams of `watchNotes` open until the test is over; see `notesApp`. */
function keepOpen(calls: object): void {
  const { promise, resolve } = Promise.withResolvers<void>();
  Object.assign(calls, { watching: promise });
  onTestFinished(() => resolve());
}

/** Waits for work that a new signing key must first be known for, on every server. */
async function onceKnown<T>(clock: FakeClock, work: Promise<T>): Promise<T> {
  let isDone = false;
  const end = work.finally(() => {
    isDone = true;
  });
  while (!isDone) {
    clock.advance("1s");
    await Promise.race([end, new Promise((resolve) => setTimeout(resolve, 20))]);
  }
  return end;
}
