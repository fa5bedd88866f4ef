import {
  Code,
  ConnectError,
  createClient,
  createRouterTransport,
  type Interceptor,
} from "@connectrpc/connect";
import { type } from "arktype";
import {
  cookieTokens,
  createSessionClient,
  memoryTokens,
  type SessionClientOptions,
  type SessionState,
  type TokenStore,
} from "rpc-session/client";
import { testSessions } from "rpc-session/testing";
import * as v from "valibot";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { z } from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

type Transport = "cookie" | "header";
type Claims = { readonly role: string; readonly name?: string };

/** A service whose claims the test can change. The client may see the role and the name. */
function createService() {
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    clientClaims: ({ role = null, name }) => ({ role, ...(name === undefined ? {} : { name }) }),
  });
  const change: { claims: Record<string, string | undefined> | undefined; fails: boolean } = {
    claims: undefined,
    fails: false,
  };
  const failIfSet = (): void => {
    if (change.fails) {
      throw new ConnectError("no such list", Code.NotFound);
    }
  };
  const { routes, ...router } = sessions.protect({
    routes: (r) =>
      r.service(NotesService, {
        async signIn({ user }, ctx) {
          const claims = { role: "reader", hidden: "CANARY" };
          await sessions.create(ctx, { userId: user || "alice", claims });
          return {};
        },
        async addNote(_, ctx) {
          const session = sessions.require(ctx);
          if (change.claims !== undefined) {
            await session.updateClaims(change.claims);
          }
          failIfSet();
          return {};
        },
        async *watchNotes(_, ctx) {
          if (change.claims !== undefined) {
            await sessions.require(ctx).updateClaims(change.claims);
          }
          failIfSet();
          yield {};
        },
        async signOut(_, ctx) {
          await sessions.require(ctx).revoke();
          return {};
        },
      }),
  });
  return { sessions, change, routes, router };
}

type Service = ReturnType<typeof createService>;

/** Imitates a browser: keeps cookies, hides them from scripts, and sends Sec-Fetch-Site. */
function browser(jar: Map<string, string>, raw: Headers[]): Interceptor {
  const keep = (headers: Headers): void => {
    raw.push(headers);
    for (const cookie of headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
      if (value === "") {
        jar.delete(name);
      } else {
        jar.set(name, value);
      }
    }
  };
  return (next) => async (request) => {
    if (jar.size > 0) {
      request.header.set("cookie", [...jar].map((pair) => pair.join("=")).join("; "));
    }
    request.header.set("sec-fetch-site", "same-origin");
    try {
      const response = await next(request);
      keep(response.header);
      return response;
    } catch (error) {
      keep((error as { metadata?: Headers }).metadata ?? new Headers());
      throw error;
    }
  };
}

function connect<C extends object>(
  { sessions, routes, router }: Service,
  by: Transport,
  options: Partial<SessionClientOptions<C>> & { readonly jar?: Map<string, string> } = {},
) {
  const { jar = new Map<string, string>(), ...rest } = options;
  const raw: Headers[] = [];
  const states: SessionState[] = [];
  const session = createSessionClient<C>({
    tokens: by === "cookie" ? cookieTokens() : memoryTokens(),
    clock: sessions.clock,
    transport: (parts) =>
      createRouterTransport(routes, {
        router,
        transport: {
          interceptors: [...parts.interceptors, ...(by === "cookie" ? [browser(jar, raw)] : [])],
        },
      }),
    ...rest,
  });
  onTestFinished(() => session.close());
  session.subscribe((state) => states.push(state));
  return { session, notes: createClient(NotesService, session.transport), jar, raw, states };
}

const schemas = {
  zod: z.object({ role: z.enum(["reader", "admin"]), name: z.string().optional() }),
  valibot: v.object({ role: v.picklist(["reader", "admin"]), name: v.optional(v.string()) }),
  arktype: type({ role: "'reader' | 'admin'", "name?": "string" }),
};

describe.each(["cookie", "header"] as const)("session.claims, %s mode", (by) => {
  it.each(Object.entries(schemas))(
    "feat:E6 feat:L7 follow sign-in, change, refresh and sign-out with a %s schema",
    async (_, claims) => {
      const service = createService();
      const { session, notes, states } = connect<Claims>(service, by, {
        claims: claims as z.ZodType<Claims>,
      });
      expect(session.claims).toBeUndefined();
      await notes.signIn({});
      expect(session.claims).toEqual({ role: "reader" });
      // A page may compare claims by identity.
      expect(session.claims).toBe(session.claims);
      service.change.claims = { role: "admin", name: "Ada" };
      await notes.addNote({});
      expect(session.claims).toEqual({ role: "admin", name: "Ada" });
      expect(states.at(-1)).toMatchObject({
        status: "signedIn",
        claims: { role: "admin", name: "Ada" },
      });
      service.change.claims = { role: "reader", name: undefined };
      for await (const _message of notes.watchNotes({})) {
        expect(session.claims).toEqual({ role: "reader" });
      }
      // A change made elsewhere arrives with the next refresh.
      await service.sessions.updateClaims(session.state.sessionId ?? "", { role: "admin" });
      expect(session.claims).toEqual({ role: "reader" });
      await session.refresh();
      expect(session.claims).toEqual({ role: "admin" });
      service.change.claims = undefined;
      await notes.addNote({});
      expect(session.claims).toEqual({ role: "admin" });
      await session.signOut();
      expect([session.claims, session.state.claims]).toEqual([undefined, undefined]);
      expect(states.map((state) => state.claims?.role)).toEqual([
        "reader",
        "admin",
        "reader",
        "admin",
        undefined,
      ]);
    },
  );

  it("feat:E6 feat:L7 contain only the claims that clientClaims returns", async () => {
    const service = createService();
    const { session, notes } = connect(service, by);
    await notes.signIn({});
    await session.refresh();
    expect(JSON.stringify(session.state)).not.toContain("CANARY");
    expect(Object.keys(session.claims ?? {})).toEqual(["role"]);
  });

  it("feat:E6 feat:L7 change at once when another user signs in, and are undefined after the server has ended the session", async () => {
    const service = createService();
    const { session, notes } = connect(service, by);
    await notes.signIn({});
    service.change.claims = { role: "admin" };
    await notes.addNote({});
    await notes.signIn({ user: "bob" });
    expect(session.claims).toEqual({ role: "reader" });
    await service.sessions.revoke(session.state.sessionId ?? "");
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect([session.state.status, session.claims]).toEqual(["signedOut", undefined]);
  });

  it("feat:L6 feat:L7 are updated by failed unary calls, failed streams and refused calls too", async () => {
    const service = createService();
    const { session, notes } = connect(service, by);
    await notes.signIn({});
    service.change.fails = true;
    service.change.claims = { role: "admin" };
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.NotFound });
    expect(session.claims).toEqual({ role: "admin" });
    service.change.claims = { role: "owner" };
    const stream = async () => {
      for await (const _message of notes.watchNotes({})) {
        expect.unreachable();
      }
    };
    await expect(stream()).rejects.toMatchObject({ code: Code.NotFound });
    expect(session.claims).toEqual({ role: "owner" });
    // Changed elsewhere. The call that brings the change fails for a reason of its own.
    service.change.claims = undefined;
    await service.sessions.updateClaims(session.state.sessionId ?? "", { role: "reader" });
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.NotFound });
    expect(session.claims).toEqual({ role: "reader" });
    service.change.fails = false;
    await expect(notes.addNote({})).resolves.toBeDefined();
  });

  it("feat:E6 feat:A5 are read from a sign-in that updates its own claims", async () => {
    const sessions = testSessions({
      public: [NotesService.method.signIn],
      clientClaims: ({ role = null }) => ({ role }),
    });
    const { routes, ...router } = sessions.protect({
      routes: (r) =>
        r.service(NotesService, {
          async signIn(_, ctx) {
            const session = await sessions.create(ctx, { userId: "alice" });
            await session.updateClaims({ role: "admin" });
            return {};
          },
          addNote: () => ({}),
        }),
    });
    const service = { sessions, routes, router, change: { claims: undefined, fails: false } };
    const { session, notes } = connect(service, by);
    await notes.signIn({});
    expect([session.state.status, session.claims]).toEqual(["signedIn", { role: "admin" }]);
    await expect(notes.addNote({})).resolves.toBeDefined();
    await expect(session.refresh()).resolves.toBeUndefined();
  });

  it("feat:E6 feat:L7 are undefined if they do not match the client's schema, while the session continues", async () => {
    const service = createService();
    const { session, notes } = connect(service, by, { claims: schemas.zod });
    await notes.signIn({});
    service.change.claims = { role: "superuser" };
    await notes.addNote({});
    expect([session.claims, session.state.claims]).toEqual([undefined, { role: "superuser" }]);
    service.change.claims = { role: "admin" };
    await notes.addNote({});
    expect(session.claims).toEqual({ role: "admin" });
  });
});

describe("feat:L7 the schema of a client", () => {
  it("feat:N4 throws a TypeError at construction if it is not a Standard Schema", () => {
    for (const claims of [{}, "zod", 7, null]) {
      expect(() => connect(createService(), "header", { claims: claims as never })).toThrow(
        /^claims must be a schema of zod, valibot, arktype/,
      );
    }
  });

  it("feat:N4 throws a TypeError on reading if it validates asynchronously", async () => {
    const claims = z.object({ role: z.string().refine(async () => true) });
    const { session, notes } = connect(createService(), "header", { claims });
    await notes.signIn({});
    expect(() => session.claims).toThrow(
      "claims must be a schema that validates synchronously, got a promise",
    );
  });

  it("feat:L7 reads claims from the token store after a restart", async () => {
    const service = createService();
    let kept: Awaited<ReturnType<TokenStore["load"]>>;
    const tokens: TokenStore = {
      transport: "header",
      load: () => kept,
      save(value) {
        kept = value;
      },
    };
    const first = connect(service, "header", { tokens });
    await first.notes.signIn({});
    await vi.waitFor(() => expect(kept).toBeDefined());
    kept = JSON.parse(JSON.stringify(kept));
    const second = connect(service, "header", { tokens, claims: schemas.zod });
    expect(second.session.claims).toEqual({ role: "reader" });
  });
});

describe("feat:E6 feat:P6 session.claims in other tabs", () => {
  const realm = "https://test.example";
  const tabs = (sessions?: Service) => {
    const service = sessions ?? createService();
    const jar = new Map<string, string>();
    const one = connect(service, "cookie", { realm, jar, claims: schemas.zod });
    const two = connect(service, "cookie", { realm, jar, claims: schemas.zod });
    return { service, one, two };
  };
  const holds = (check: () => void) => vi.waitFor(check, { interval: 1 });

  it("feat:E6 feat:P6 follow sign-ins, changes and refreshes", async () => {
    const { service, one, two } = tabs();
    await one.notes.signIn({});
    await holds(() => expect(two.session.claims).toEqual({ role: "reader" }));
    service.change.claims = { role: "admin" };
    await one.notes.addNote({});
    await holds(() => expect(two.session.claims).toEqual({ role: "admin" }));
    await service.sessions.updateClaims(one.session.state.sessionId ?? "", { name: "Ada" });
    await two.session.refresh();
    await holds(() => expect(one.session.claims).toEqual({ role: "admin", name: "Ada" }));
    service.change.claims = undefined;
    await one.session.signOut();
    await holds(() => expect(two.session.claims).toBeUndefined());
  });

  it("feat:E6 feat:P6 of the previous user are removed when another user signs in", async () => {
    const { service, one, two } = tabs();
    await one.notes.signIn({});
    service.change.claims = { role: "admin" };
    await one.notes.addNote({});
    await holds(() => expect(two.session.claims).toEqual({ role: "admin" }));
    await one.notes.signIn({ user: "bob" });
    await holds(() => expect(two.session.state.sessionId).toBe(one.session.state.sessionId));
    expect(two.session.claims).toEqual({ role: "reader" });
  });

  it("feat:E6 feat:P6 ignore messages with malformed claims", async () => {
    const { one } = tabs();
    await one.notes.signIn({});
    const { sessionId: session } = one.session.state;
    const channel = new BroadcastChannel(`rpc-session ${realm}`);
    onTestFinished(() => channel.close());
    const order = { generation: 99, claimsVersion: 9, expiresAt: 9_999_999_999 };
    channel.postMessage({
      type: "refreshed",
      session,
      realm,
      order,
      expiresIn: 1000,
      claims: ["x"],
    });
    channel.postMessage({
      type: "refreshed",
      session,
      realm,
      order,
      expiresIn: 1000,
      claims: { role: "admin" },
    });
    await holds(() => expect(one.session.claims).toEqual({ role: "admin" }));
    expect(one.states.map((state) => state.claims)).toEqual([
      { role: "reader" },
      { role: "admin" },
    ]);
  });
});
