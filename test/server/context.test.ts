import {
  Code,
  ConnectError,
  createClient,
  createHandlerContext,
  createRouterTransport,
  type HandlerContext,
} from "@connectrpc/connect";
import { SessionError, type SessionEvent } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import {
  Action,
  PolicyViolationsSchema,
  Reason,
  RefreshHintSchema,
  Tokens,
} from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import {
  clearsCookies,
  cookieEffects,
  exchangeOf,
  type Presented,
  requestHeaders,
  withSignatureOf,
} from "../helpers/exchanges.ts";
import { advanced, issueOn } from "../helpers/refreshing.ts";
import { watchedStore } from "../helpers/watched-store.ts";
import { origin, type WireServer, wireServer } from "../helpers/wire-server.ts";

const { listNotes, addNote, watchNotes, signIn } = NotesService.method;

/** A server whose unary and streaming handlers run the work of the test. */
function serve(
  sessions: TestSessions,
  work: (context: HandlerContext) => Promise<void>,
): WireServer {
  return wireServer(
    sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async addNote(_, context) {
            await work(context);
            return {};
          },
          async listNotes(_, context) {
            await work(context);
            return {};
          },
          async *watchNotes(_, context) {
            await work(context);
            yield {};
          },
        }),
    }),
  );
}

describe("a waiting gate ends with its call", () => {
  function waiting(options: { readonly timeoutMs?: number; readonly requestSignal?: AbortSignal }) {
    const watched = watchedStore();
    watched.hanging.add("open");
    const sessions = testSessions({ store: watched.store });
    const context = createHandlerContext({
      service: NotesService,
      method: addNote,
      protocolName: "connect",
      requestMethod: "POST",
      url: `${origin}/notes.v1.NotesService/AddNote`,
      requestHeader: requestHeaders({ bearer: "x" }),
      ...options,
    });
    return sessions.requestGate(context);
  }

  it("with a deadline: DeadlineExceeded", async () => {
    await expect(waiting({ timeoutMs: 5 })).rejects.toMatchObject({ code: Code.DeadlineExceeded });
  });

  it("with an abort: Canceled", async () => {
    const abort = new AbortController();
    const gate = waiting({ requestSignal: abort.signal });
    abort.abort();
    await expect(gate).rejects.toMatchObject({ code: Code.Canceled });
  });

  it("with an abort before the gate started", async () => {
    const gate = waiting({ requestSignal: AbortSignal.abort() });
    await expect(gate).rejects.toMatchObject({ code: Code.Canceled });
  });

  it.each([
    ["the gate, waiting for the store to open", "open", addNote],
    ["Refresh, waiting for the store to read", "load", SessionService.method.refresh],
    ["SignOut, waiting for the store to write", "revoke", SessionService.method.signOut],
  ] as const)("over the wire: %s", async (_, hangs, { parent, name }) => {
    const watched = watchedStore();
    const other = testSessions({ store: watched.store });
    const { access, refresh } = await issueOn(other, "cookie");
    const sessions = testSessions({ store: watched.store, clock: other.clock });
    watched.hanging.add(hangs);
    const server = serve(sessions, async () => {});
    const headers = requestHeaders({ access, refresh });
    headers.set("content-type", "application/json");
    headers.set("connect-timeout-ms", "20");
    const url = `${origin}/${parent.typeName}/${name}`;
    const response = await server.fetch(new Request(url, { method: "POST", headers, body: "{}" }));
    expect(response.status).toBe(504);
    expect(await response.json()).toMatchObject({ code: "deadline_exceeded" });
    // A sign-out clears the cookies in any case.
    const clears = hangs === "revoke" ? clearsCookies : [];
    expect(cookieEffects(response.headers)).toEqual(clears);
  });
});

describe("errors of a handler", () => {
  const violations = [{ claim: "role", requirement: "equals admin", message: "admins only" }];
  interface Row {
    readonly error: SessionError;
    readonly code: Code;
    readonly hint?: Readonly<Record<string, unknown>>;
    readonly flag: string | null;
  }
  const rows: readonly Row[] = [
    {
      error: new SessionError("unauthorized", "SESSION_EXPIRED", {
        message: "it is over",
        sessionId: "s",
      }),
      code: Code.Unauthenticated,
      hint: { action: Action.SIGN_IN, tokens: Tokens.KEEP, session: "s" },
      flag: "sign-in",
    },
    {
      error: new SessionError("unauthorized", "SESSION_REVOKED", {
        message: "gone",
        clearTokens: true,
      }),
      code: Code.Unauthenticated,
      hint: { action: Action.SIGN_IN, tokens: Tokens.KEEP },
      flag: "sign-in",
    },
    {
      error: new SessionError("tryRefreshToken", "TOKEN_EXPIRED", { message: "refresh" }),
      code: Code.Unauthenticated,
      hint: { action: Action.REFRESH, tokens: Tokens.KEEP },
      flag: "refresh",
    },
    {
      error: new SessionError("forbidden", "CLAIM_REJECTED", { message: "no", violations }),
      code: Code.PermissionDenied,
      hint: { action: Action.UNSPECIFIED },
      flag: null,
    },
    {
      error: new SessionError("forbidden", "STEP_UP_REQUIRED", { message: "again" }),
      code: Code.PermissionDenied,
      hint: { action: Action.STEP_UP },
      flag: "step-up",
    },
    {
      error: new SessionError("unavailable", "AUTH_UNAVAILABLE", {
        message: "later",
        retryAfter: 1500,
      }),
      code: Code.Unavailable,
      hint: {
        action: Action.RETRY_LATER,
        retryAfter: expect.objectContaining({ seconds: 1n, nanos: 500_000_000 }),
      },
      flag: "retry-later",
    },
    {
      error: new SessionError("general", "INTERNAL", {
        message: "CANARY",
        cause: new Error("CANARY"),
      }),
      code: Code.Internal,
      flag: null,
    },
  ];

  it.each(rows)(
    "feat:B3 feat:N4 a SessionError is mapped to a ConnectError: $error.kind $error.reason",
    async ({ error, code, hint, flag }) => {
      const sessions = testSessions();
      const { access } = await issueOn(sessions, "cookie");
      const server = serve(sessions, () => Promise.reject(error));
      for (const answer of [
        await server.call(addNote, {}, { access }),
        await server.stream(watchNotes, {}, { access }),
      ]) {
        expect(answer.error?.code).toBe(code);
        expect(answer.headers.get("rpcsession-hint")).toBe(flag);
        // It concerns other tokens than the call's own, which are kept.
        expect(answer.headers.getSetCookie()).toEqual([]);
        expect(answer.body).not.toContain("CANARY");
        const info = answer.error?.findDetails(ErrorInfoSchema)[0];
        if (hint === undefined) {
          expect([answer.error?.rawMessage, answer.error?.details]).toEqual(["internal error", []]);
        } else {
          expect(answer.hint).toMatchObject({ ...hint, realm: "https://test.example" });
          expect(answer.hint?.reason).toBe(Reason[error.reason as keyof typeof Reason]);
          expect(info).toMatchObject({ reason: error.reason, domain: "rpc-session" });
          expect(answer.error?.rawMessage).toBe(error.message);
        }
        expect(
          answer.error?.findDetails(PolicyViolationsSchema)[0]?.violations ?? [],
        ).toMatchObject(error.violations);
      }
    },
  );

  it("a handler's own error is not changed", async () => {
    const sessions = testSessions();
    const { access } = await issueOn(sessions, "header");
    const own = () => new ConnectError("mine", Code.Aborted, { "x-own": "1" });
    const server = serve(sessions, () => Promise.reject(own()));
    const { error, headers } = await server.call(addNote, {}, { bearer: access });
    expect([error?.code, error?.rawMessage, headers.get("x-own")]).toEqual([
      Code.Aborted,
      "mine",
      "1",
    ]);
  });

  it("the message of an error that is not a ConnectError stays hidden", async () => {
    const sessions = testSessions();
    const { access } = await issueOn(sessions, "header");
    const server = serve(sessions, () => Promise.reject(new Error("CANARY")));
    const { error, body } = await server.call(addNote, {}, { bearer: access });
    expect(error?.code).toBe(Code.Internal);
    expect(body).not.toContain("CANARY");
  });
});

describe("feat:Q5 errors of another service", () => {
  /** A backend with its own sessions, and the errors that it returns to us. */
  function upstream(error?: SessionError) {
    const sessions = testSessions({
      issuer: "https://upstream.example",
      public: error ? [addNote] : [],
    });
    const { routes, ...router } = sessions.protect({
      routes: (r) =>
        r.service(NotesService, {
          addNote: () => Promise.reject(error ?? new Error("unreachable")),
        }),
    });
    return createClient(NotesService, createRouterTransport(routes, { router }));
  }

  it.each([
    ["without tokens", undefined, Code.Unauthenticated],
    [
      "with violations",
      new SessionError("forbidden", "CLAIM_REJECTED", {
        message: "no",
        violations: [{ claim: "role", requirement: "r", message: "m" }],
      }),
      Code.PermissionDenied,
    ],
  ] as const)("%s: relayed errors carry no details about our session", async (_, error, code) => {
    const client = upstream(error);
    const direct = await client.addNote({}).then(
      () => undefined,
      (reason: unknown) => ConnectError.from(reason),
    );
    expect(direct?.findDetails(RefreshHintSchema)).toHaveLength(1);
    expect(direct?.findDetails(PolicyViolationsSchema)).toHaveLength(error ? 1 : 0);
    const sessions = testSessions();
    const { access } = await issueOn(sessions, "header");
    const server = serve(sessions, async () => {
      await client.addNote({});
    });
    for (const relayed of [
      await server.call(addNote, {}, { bearer: access }),
      await server.stream(watchNotes, {}, { bearer: access }),
    ]) {
      expect(relayed.error?.code).toBe(code);
      expect(relayed.hint).toBeUndefined();
      expect(relayed.error?.findDetails(PolicyViolationsSchema)).toEqual([]);
      expect(relayed.headers.get("rpcsession-hint")).toBeNull();
      // ErrorInfo is for generic tools and names its realm.
      expect(relayed.error?.findDetails(ErrorInfoSchema)).toHaveLength(1);
    }
    const own = await server.call(addNote, {});
    expect(own.hint?.realm).toBe("https://test.example");
  });
});

describe("Cache-Control and Vary", () => {
  const vary = "Cookie, Authorization, Sec-Fetch-Site, Origin, Referer";
  const asked = async (
    presented: (access: string, ended: string) => Presented,
    method = listNotes,
  ) => {
    const sessions = testSessions({ public: [signIn] });
    const { access } = await issueOn(sessions, "cookie");
    const ended = await issueOn(sessions, "cookie");
    await ended.revoke();
    const server = serve(sessions, async (context) => {
      context.responseHeader.append("vary", "X-Own");
    });
    return server.call(method, {}, presented(access, ended.access));
  };

  it.each<[string, (access: string, ended: string) => Presented, string, string | null]>([
    ["POST", (access) => ({ access }), "no-store", "X-Own"],
    ["GET", (access) => ({ access, method: "GET" }), "private, no-store", `${vary}, X-Own`],
    ["POST, refused", () => ({}), "no-store", null],
    ["GET, refused", () => ({ method: "GET" }), "private, no-store", vary],
    ["GET, cleared cookies", (_, access) => ({ access, method: "GET" }), "no-store", vary],
  ])("%s", async (_, presented, cacheControl, varies) => {
    const { headers } = await asked(presented);
    expect([headers.get("cache-control"), headers.get("vary")]).toEqual([cacheControl, varies]);
  });

  it("the Vary header of the handler is kept", async () => {
    const { headers } = await asked((access) => ({ access, method: "GET" }));
    expect(headers.get("vary")).toBe(`${vary}, X-Own`);
  });

  it("are also set on a stream", async () => {
    const sessions = testSessions();
    const { access } = await issueOn(sessions, "cookie");
    const { headers } = await serve(sessions, async () => {}).stream(watchNotes, {}, { access });
    expect([headers.get("cache-control"), headers.get("vary")]).toEqual(["no-store", null]);
  });

  const kept = "public, max-age=60";
  type Work = (context: HandlerContext, sessions: TestSessions) => Promise<unknown>;
  const works: readonly (readonly [string, Work, string])[] = [
    ["nothing else", async () => {}, kept],
    [
      "a cookie of its own",
      async ({ responseHeader }) => responseHeader.append("set-cookie", "theme=dark"),
      "no-store",
    ],
    ["a sign-in", (context, sessions) => sessions.create(context, { userId: "bob" }), "no-store"],
    [
      "a sign-in, and then fails",
      async (context, sessions) => {
        await sessions.create(context, { userId: "bob" });
        throw new ConnectError("no such note", Code.NotFound);
      },
      "no-store",
    ],
    ["a sign-out", async (context, sessions) => sessions.require(context).revoke(), "no-store"],
  ];
  it.each(works)(
    "feat:Q6 sec:C19 a handler may make its GET response cacheable, but not with %s",
    async (_, work, cacheControl) => {
      const sessions = testSessions({ public: [signIn] });
      const { access } = await issueOn(sessions, "cookie");
      const server = serve(sessions, async (context) => {
        try {
          await work(context, sessions);
        } finally {
          context.responseHeader.set("cache-control", kept);
        }
      });
      const { headers } = await server.call(listNotes, {}, { access, method: "GET" });
      expect(headers.get("cache-control")).toBe(cacheControl);
    },
  );

  it("feat:Q6 sec:C19 a handler may not make a notice of the session cacheable, which names the user", async () => {
    const sessions = testSessions();
    const { access, id } = await issueOn(sessions, "cookie");
    const server = serve(sessions, async (context) => {
      context.responseHeader.set("cache-control", kept);
    });
    const callAs = async (known: string) => {
      const headers = { "rpcsession-session": known };
      const reply = await server.call(listNotes, {}, { access, method: "GET", headers });
      return [reply.headers.has("rpcsession-session"), reply.headers.get("cache-control")];
    };
    expect(await callAs("unknown")).toEqual([true, "no-store"]);
    expect(await callAs(id)).toEqual([false, kept]);
  });

  it("a public method may be cached unless its handler reads the session", async () => {
    const sessions = testSessions({ public: [addNote] });
    const plain = await serve(sessions, async () => {}).call(addNote, {});
    expect([plain.headers.get("cache-control"), plain.headers.get("vary")]).toEqual([null, null]);
    const looking = serve(sessions, async (context) => {
      await sessions.getSession(context, { required: false });
      await sessions.getSession(context, { required: false });
    });
    const { headers } = await looking.call(addNote, {});
    expect(headers.get("cache-control")).toBe("no-store");
  });
});

describe("sec:C10 no failed call returns a secret", () => {
  it("in headers, bodies, details, messages and events", async () => {
    const watched = watchedStore();
    const events: SessionEvent[] = [];
    const sessions = testSessions({
      store: watched.store,
      antiCsrf: "token",
      onEvent: (event) => void events.push(event),
    });
    const cookie = await issueOn(sessions, "cookie");
    const header = await issueOn(sessions, "header");
    const stranger = await issueOn(testSessions({ clock: sessions.clock }), "cookie");
    const { rootHash } = (await watched.store.load(cookie.id)).record ?? {};
    const [, , , , root = ""] = cookie.refresh.split(".");
    const forged = withSignatureOf(cookie.access, header.access);
    const next = await advanced(sessions, cookie.refresh);
    const server = serve(sessions, async () => {});
    const { refresh, signOut, getSession } = SessionService.method;
    const csrf = next.csrf;
    const page = { "sec-fetch-site": "same-origin" };
    const away = { "sec-fetch-site": "cross-site" };

    const answers = [
      await server.call(addNote, {}, { access: cookie.access, refresh: cookie.refresh }),
      await server.call(addNote, {}, { access: cookie.access, csrf: `${csrf}x` }),
      await server.call(addNote, {}, { access: cookie.access, csrf, headers: away }),
      await server.call(addNote, {}, { access: cookie.refresh, refresh: cookie.access }),
      await server.call(addNote, {}, { access: forged, headers: page }),
      await server.call(addNote, {}, { bearer: forged }),
      await server.call(addNote, {}, { bearer: cookie.access }),
      await server.call(addNote, {}, { bearer: header.refresh }),
      await server.call(addNote, {}, { bearer: stranger.access }),
      await server.call(addNote, {}, { access: [forged, forged, forged, cookie.access] }),
      await server.stream(watchNotes, {}, { bearer: forged }),
      await server.stream(watchNotes, {}, { access: forged }),
      await server.call(getSession, {}, { bearer: `${header.access}, ${header.access}` }),
      await server.call(refresh, {}, { access: cookie.access }),
      await server.call(refresh, {}, { refresh: next.refresh, headers: away }),
      await server.call(refresh, {}, { refresh: [cookie.access, header.refresh] }),
      await server.call(refresh, {}, { refresh: stranger.refresh }),
      await server.call(refresh, { refreshToken: cookie.refresh }),
      await server.call(refresh, { refreshToken: `${header.refresh}x` }),
      await server.call(signOut, {}, { refresh: next.refresh, headers: away }),
    ];
    for (const method of ["load", "refresh", "revoke"] as const) {
      watched.failing.add(method);
    }
    answers.push(
      await server.call(refresh, {}, { refresh: next.refresh }),
      await server.call(signOut, {}, { refresh: next.refresh }),
      await server.call(getSession, {}, { bearer: header.access }),
    );
    watched.failing.clear();
    // A theft, and the calls after it.
    await advanced(sessions, next.refresh);
    answers.push(
      await server.call(refresh, {}, { refresh: cookie.refresh }),
      await server.call(refresh, {}, { refresh: next.refresh }),
      await server.call(addNote, {}, { access: next.access, csrf }),
    );
    sessions.clock.advance("16m");
    answers.push(
      await server.call(addNote, {}, { access: next.access, csrf }),
      await server.call(addNote, {}, { bearer: header.access }),
    );

    const codes = answers.map(({ error }) => error?.code);
    expect(codes).not.toContain(undefined);
    expect(codes).not.toContain(Code.Internal);
    const tokens = [cookie, header, stranger, next].flatMap((t) => [t.access, t.refresh, forged]);
    // A token is recognized by its secret part: the signature, or root and MAC.
    const secrets = [
      ...tokens.flatMap((token) => token.split(".").slice(token.split(".").length === 3 ? 2 : 4)),
      ...[csrf.split(".")[1] ?? "", root, rootHash ?? root, "CANARY"],
    ];
    expect(Math.min(...secrets.map(({ length }) => length))).toBeGreaterThanOrEqual(6);
    const said = [
      ...answers.flatMap(({ body, headers, error }) => [
        body,
        JSON.stringify([...headers]),
        String(error),
        String(error?.stack),
        JSON.stringify(error?.details),
        JSON.stringify([...(error?.metadata ?? [])]),
      ]),
      JSON.stringify(events),
    ].join("\n");
    for (const secret of secrets) {
      expect(said).not.toContain(secret);
    }
    expect(events.map(({ type }) => type)).toContain("theft");
  });

  it("in errors that getSession throws", async () => {
    const sessions = testSessions();
    const { access, refresh } = await issueOn(sessions, "cookie");
    for (const presented of [{ access: refresh }, { bearer: access }, { bearer: refresh }, {}]) {
      const error: unknown = await sessions.getSession(exchangeOf(presented)).catch((e) => e);
      const said = `${String(error)} ${JSON.stringify(error)}`;
      expect(said).not.toContain(access.split(".")[2]);
      expect(said).not.toContain(refresh.split(".")[3]);
    }
  });
});
