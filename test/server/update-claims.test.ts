import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { SessionError, type SessionEvent } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { accessOf, apiOf, payloadOf, presentedBy, refreshOf } from "../helpers/api.ts";
import { clearsCookies, cookieEffects, exchangeOf } from "../helpers/exchanges.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const Claims = z.object({
  role: z.enum(["reader", "editor", "admin"]).default("reader"),
  visits: z.number().default(0),
  team: z.string().optional(),
});

type Given = Omit<TestSessionsOptions<typeof Claims>, "claims" | "public" | "onEvent">;

function createWorld(options: Given = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    claims: Claims,
    ...options,
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const signedIn = async (transport: "cookie" | "header", claims: z.input<typeof Claims> = {}) => {
    const { session, tokens } = await sessions.issue({ userId: "alice", claims, transport });
    const { accessToken: access, refreshToken: refresh } = tokens;
    return { id: session.id, access, refresh, presented: presentedBy(transport, access) };
  };
  return { sessions, api, events, signedIn };
}

type World = ReturnType<typeof createWorld>;
const setRole = ({ sessions }: World) => {
  return (context: HandlerContext) => sessions.require(context).updateClaims({ role: "editor" });
};

describe.each(["cookie", "header"] as const)("updateClaims in a %s session", (transport) => {
  it("feat:E1 feat:A2 writes a token with the new claims and the expiry of the former one", async () => {
    const world = createWorld();
    const { presented, access, refresh, id } = await world.signedIn(transport, { team: "a" });
    world.sessions.clock.advance("2m");
    const answer = await world.api.call(presented, async (context) => {
      const session = world.sessions.require(context);
      await session.updateClaims({ role: "editor", visits: 2 });
      return session.claims;
    });
    expect(answer.error).toBeUndefined();
    expect(answer.result).toEqual({ role: "editor", visits: 2, team: "a" });
    const [before, after] = [payloadOf(access), payloadOf(accessOf(answer))];
    expect(after).toMatchObject({ sid: id, role: "editor", visits: 2, team: "a" });
    expect([after.exp, after.cv, after.gen]).toEqual([before.exp, before.cv + 1, before.gen]);
    expect(after.iat).toBe(before.iat + 120);
    expect(refreshOf(answer)).toBeUndefined();
    expect(answer.notice).toMatchObject({
      event: "reissued",
      session: id,
      claimsVersion: after.cv,
      expiresAt: after.exp,
    });
    expect(answer.headers.get("cache-control")).toBe("no-store");
    expect(cookieEffects(answer.headers)).toEqual(transport === "cookie" ? ["access set"] : []);
    const next = await world.api.call(
      presentedBy(transport, accessOf(answer) ?? ""),
      (context) => world.sessions.require(context).claims.role,
    );
    expect(next.result).toBe("editor");
    // The refresh token of the sign-in is still valid.
    const again = await world.api.refresh(transport, refresh);
    expect(payloadOf(accessOf(again))).toMatchObject({ role: "editor", cv: after.cv });
  });

  it("feat:E1 removes members that are undefined and restores defaults of the schema", async () => {
    const world = createWorld();
    const { presented } = await world.signedIn(transport, { team: "a", role: "admin" });
    const answer = await world.api.call(presented, async (context) => {
      const session = world.sessions.require(context);
      await session.updateClaims({ team: undefined, role: undefined });
      return session.claims;
    });
    expect(answer.result).toEqual({ role: "reader", visits: 0 });
    expect(payloadOf(accessOf(answer))).not.toHaveProperty("team");
  });

  it("feat:L6 feat:B6 after a change by id, the next call carries the new token, even if it fails or is refused", async () => {
    const world = createWorld();
    const { presented, id, access } = await world.signedIn(transport);
    await world.sessions.updateClaims(id, { role: "editor" });
    const failed = await world.api.call(presented, (context) => {
      expect(world.sessions.require(context).claims.role).toBe("editor");
      throw new ConnectError("no such list", Code.NotFound);
    });
    expect(failed.error?.code).toBe(Code.NotFound);
    expect(payloadOf(accessOf(failed))).toMatchObject({
      role: "editor",
      exp: payloadOf(access).exp,
    });
    world.sessions.clock.advance("11m");
    const refused = await world.api.call(presented, (context) =>
      world.sessions.requireFresh(context, "10m"),
    );
    expect(refused.hint?.action).toBe(Action.STEP_UP);
    expect(payloadOf(accessOf(refused)).role).toBe("editor");
    // The call changes the claims again: the response carries one token, with the last claims.
    const both = await world.api.call(presented, (context) =>
      world.sessions.require(context).updateClaims({ visits: 5 }),
    );
    expect(payloadOf(accessOf(both))).toMatchObject({ role: "editor", visits: 5, cv: 2 });
    expect(cookieEffects(both.headers)).toEqual(transport === "cookie" ? ["access set"] : []);
  });

  it.each(["call", "stream"] as const)(
    "feat:L6 feat:E1 the new token arrives even if the handler fails: %s",
    async (kind) => {
      const world = createWorld();
      const { presented } = await world.signedIn(transport);
      const answer = await world.api[kind](presented, async (context) => {
        await setRole(world)(context);
        throw new ConnectError("no such list", Code.NotFound);
      });
      expect(answer.error?.code).toBe(Code.NotFound);
      expect(payloadOf(accessOf(answer)).role).toBe("editor");
      expect(answer.notice?.event).toBe("reissued");
    },
  );

  it("feat:E1 several updates in one call produce one token, with the last claims", async () => {
    const world = createWorld();
    const { presented } = await world.signedIn(transport);
    const answer = await world.api.call(presented, async (context) => {
      const session = world.sessions.require(context);
      await session.updateClaims(({ visits, ...rest }) => ({ ...rest, visits: visits + 1 }));
      await session.updateClaims(({ visits, ...rest }) => ({ ...rest, visits: visits + 1 }));
    });
    expect(payloadOf(accessOf(answer))).toMatchObject({ visits: 2, cv: 2 });
    expect(cookieEffects(answer.headers)).toEqual(transport === "cookie" ? ["access set"] : []);
  });

  it("feat:E1 works before the first message of a stream; afterwards it throws and changes nothing", async () => {
    const world = createWorld();
    const { presented, id } = await world.signedIn(transport);
    const early = await world.api.stream(presented, setRole(world));
    expect(payloadOf(accessOf(early)).role).toBe("editor");
    const late = await world.api.stream(
      presentedBy(transport, accessOf(early) ?? ""),
      () => {},
      (context) => world.sessions.require(context).updateClaims({ role: "admin" }),
    );
    expect(late.error?.code).toBe(Code.Internal);
    expect(late.error?.rawMessage).toMatch(
      /headers have already been sent .* earlier, or use sessions\.updateClaims/,
    );
    expect(accessOf(late)).toBeUndefined();
    expect((await world.sessions.find(id))?.claims?.role).toBe("editor");
  });

  it("feat:E1 feat:G1 after the response, updateClaims throws and revoke clears on the next call", async () => {
    const world = createWorld();
    const { presented, id } = await world.signedIn(transport);
    let context: HandlerContext | undefined;
    await world.api.call(presented, (given) => {
      context = given;
      throw new ConnectError("no such list", Code.NotFound);
    });
    const answered = await world.api.call(presented, (given) => given);
    for (const given of [context, answered.result]) {
      const over = given as HandlerContext;
      const late = world.sessions.require(over).updateClaims({ role: "editor" });
      await expect(late).rejects.toThrow(/headers have already been sent/);
      const again = world.sessions.create(over, { userId: "alice" });
      await expect(again).rejects.toThrow(
        /sessions\.create: the response headers have already been sent/,
      );
    }
    expect((await world.sessions.find(id))?.claims?.role).toBe("reader");
    const { result } = await world.api.call(presented, (context) =>
      world.sessions.require(context),
    );
    await result?.revoke();
    const next = await world.api.call(presented, () => {});
    expect(next.hint).toMatchObject({ reason: Reason.SESSION_REVOKED, tokens: Tokens.CLEAR });
    expect(cookieEffects(next.headers)).toEqual(transport === "cookie" ? clearsCookies : []);
  });

  it("feat:E1 keeps the change but writes no token if the token expired during the handler", async () => {
    const world = createWorld();
    const { presented, refresh } = await world.signedIn(transport);
    const answer = await world.api.call(presented, async (context) => {
      world.sessions.clock.advance("16m");
      await setRole(world)(context);
      return world.sessions.require(context).claims.role;
    });
    expect([answer.error, answer.result]).toEqual([undefined, "editor"]);
    expect(accessOf(answer)).toBeUndefined();
    expect(answer.notice).toBeUndefined();
    const next = await world.api.refresh(transport, refresh);
    expect(payloadOf(accessOf(next)).role).toBe("editor");
  });

  it("feat:G1 followed by revoke, the response only reports the end", async () => {
    const world = createWorld();
    const { presented } = await world.signedIn(transport);
    const answer = await world.api.call(presented, async (context) => {
      await setRole(world)(context);
      await world.sessions.require(context).revoke();
    });
    expect(accessOf(answer)).toBeUndefined();
    expect(answer.notice?.event).toBe("ended");
    expect(cookieEffects(answer.headers)).toEqual(transport === "cookie" ? clearsCookies : []);
  });

  it("feat:E1 after revoke: Unauthenticated, and the response still reports the end", async () => {
    const world = createWorld();
    const { presented } = await world.signedIn(transport);
    const answer = await world.api.call(presented, async (context) => {
      await world.sessions.require(context).revoke();
      await setRole(world)(context);
    });
    expect(answer.error?.code).toBe(Code.Unauthenticated);
    expect(answer.hint?.reason).toBe(Reason.SESSION_REVOKED);
    expect([accessOf(answer), answer.notice?.event]).toEqual([undefined, "ended"]);
  });

  it("feat:A5 feat:E1 after create, the response reports a sign-in with both tokens", async () => {
    const world = createWorld();
    const headers = {
      "rpcsession-transport": transport,
      "sec-fetch-site": transport === "cookie" ? "same-origin" : undefined,
    };
    const answer = await world.api.open({ headers }, async (context) => {
      const session = await world.sessions.create(context, { userId: "alice", claims: {} });
      await session.updateClaims({ role: "admin" });
      return session.claims;
    });
    expect(answer.error).toBeUndefined();
    expect(answer.result?.role).toBe("admin");
    expect(payloadOf(accessOf(answer))).toMatchObject({ role: "admin", cv: 1 });
    expect(refreshOf(answer)).toBeDefined();
    expect(answer.notice).toMatchObject({ event: "created", claimsVersion: 1 });
    expect(cookieEffects(answer.headers).sort()).toEqual(
      transport === "cookie" ? ["access set", "refresh set"] : [],
    );
  });

  it("feat:D3 feat:E1 after a refresh whose response was lost, the previous refresh token stays valid", async () => {
    const world = createWorld();
    const { access: first, refresh } = await world.signedIn(transport);
    const exchange = () => world.api.refresh(transport, refresh);
    world.sessions.clock.advance("61s");
    await exchange();
    world.sessions.clock.advance("31s");
    // The server mints the next generation, but the response is lost: the client still holds the first.
    const lost = await exchange();
    expect(payloadOf(accessOf(lost)).gen).toBe(1);
    const answer = await world.api.call(presentedBy(transport, first), setRole(world));
    expect(payloadOf(accessOf(answer))).toMatchObject({ role: "editor", gen: 0 });
    // The client uses its token for longer than `settle`.
    for (const step of ["61s", "31s", "31s"] as const) {
      world.sessions.clock.advance(step);
      const used = await world.api.call(
        presentedBy(transport, accessOf(answer) ?? ""),
        (context) => world.sessions.require(context).claims.role,
      );
      expect(used.result).toBe("editor");
      await new Promise((resolve) => setImmediate(resolve));
    }
    const recovered = await exchange();
    expect(recovered.error).toBeUndefined();
    expect(payloadOf(accessOf(recovered))).toMatchObject({ role: "editor", gen: 1 });
  });
});

describe("concurrent updates of one session", () => {
  it("feat:E3 64 parallel updates of claims are all kept", async () => {
    const world = createWorld();
    const { id } = await world.signedIn("header");
    await Promise.all(
      Array.from({ length: 64 }, () =>
        world.sessions.updateClaims(id, ({ visits, ...rest }) => ({ ...rest, visits: visits + 1 })),
      ),
    );
    const info = await world.sessions.find(id);
    expect(info?.claims?.visits).toBe(64);
    const versions = world.events.flatMap((e) =>
      e.type === "claimsChanged" ? [e.claimsVersion] : [],
    );
    expect(versions.sort((a, b) => a - b)).toEqual(Array.from({ length: 64 }, (_, i) => i + 1));
  });

  it("feat:E3 64 parallel updates of claims and data from two servers are all kept", async () => {
    const store = memoryStore();
    const one = createWorld({ store });
    const two = createWorld({ store, clock: one.sessions.clock });
    const { id } = await one.signedIn("header");
    await Promise.all(
      Array.from({ length: 32 }, (_, i) => [
        (i % 2 ? one : two).sessions.updateClaims(id, ({ visits, ...rest }) => ({
          ...rest,
          visits: visits + 1,
        })),
        (i % 2 ? two : one).sessions.updateData(id, (data) => ({
          ...data,
          [`item${i}`]: i,
        })),
      ]).flat(),
    );
    expect((await two.sessions.find(id))?.claims?.visits).toBe(32);
    expect(Object.keys((await one.sessions.data(id)) ?? {})).toHaveLength(32);
  });

  it("feat:E3 64 parallel calls, each with its own response, are all kept", async () => {
    const world = createWorld();
    const { id, presented } = await world.signedIn("cookie");
    const answers = await Promise.all(
      Array.from({ length: 64 }, () =>
        world.api.call(presented, (context) =>
          world.sessions
            .require(context)
            .updateClaims(({ visits, ...rest }) => ({ ...rest, visits: visits + 1 })),
        ),
      ),
    );
    expect(answers.filter((a) => a.error !== undefined)).toEqual([]);
    expect((await world.sessions.find(id))?.claims?.visits).toBe(64);
    for (const answer of answers) {
      const { cv, visits } = payloadOf(accessOf(answer));
      expect(visits).toBe(cv);
    }
  });

  it("feat:E3 patches of different members do not undo each other", async () => {
    const world = createWorld();
    const { id } = await world.signedIn("header");
    await Promise.all([
      world.sessions.updateClaims(id, { role: "admin" }),
      world.sessions.updateClaims(id, { team: "b" }),
      world.sessions.updateClaims(id, { visits: 7 }),
    ]);
    expect((await world.sessions.find(id))?.claims).toEqual({
      role: "admin",
      team: "b",
      visits: 7,
    });
  });

  it("feat:E3 feat:F1 a function is called again with the value of a concurrent write", async () => {
    const store = memoryStore();
    const world = createWorld({ store });
    const rival = createWorld({ store, clock: world.sessions.clock });
    const { id } = await world.signedIn("header", { visits: 1 });
    const seen: unknown[] = [];
    await world.sessions.updateClaims(id, async (claims) => {
      seen.push(claims.visits);
      if (seen.length === 1) {
        await rival.sessions.updateClaims(id, { visits: 10, role: "admin" });
      }
      return { ...claims, visits: claims.visits + 1 };
    });
    await rival.sessions.updateData(id, { cart: 1 });
    await world.sessions.updateData(id, async (data) => {
      seen.push(data.cart);
      if (data.cart === 1) {
        await rival.sessions.updateData(id, { cart: 10, note: "x" });
      }
      return { ...data, cart: Number(data.cart) + 1 };
    });
    expect(seen).toEqual([1, 10, 1, 10]);
    expect((await rival.sessions.find(id))?.claims).toEqual({ role: "admin", visits: 11 });
    expect(await rival.sessions.data(id)).toEqual({ cart: 11, note: "x" });
  });

  it("feat:E3 an update that always loses gives up with Unavailable and changes nothing", async () => {
    const store = memoryStore();
    const world = createWorld({ store });
    const rival = createWorld({ store, clock: world.sessions.clock });
    const { id } = await world.signedIn("header");
    let attempts = 0;
    const work = world.sessions.updateClaims(id, async (claims) => {
      attempts += 1;
      await rival.sessions.updateData(id, {});
      return { ...claims, role: "admin" };
    });
    await expect(work).rejects.toMatchObject({ kind: "unavailable" });
    expect(attempts).toBe(1 + 256);
    expect((await world.sessions.find(id))?.claims?.role).toBe("reader");
  });

  it("feat:E3 feat:D4 concurrent refreshes lose no update, and the last token has all of them", async () => {
    const world = createWorld();
    const { id, refresh } = await world.signedIn("header");
    world.sessions.clock.advance("61s");
    const add = () =>
      world.sessions.updateClaims(id, ({ visits, ...rest }) => ({ ...rest, visits: visits + 1 }));
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        i % 2 ? add() : world.api.refresh("header", refresh).then(({ error }) => error),
      ),
    );
    expect(answers.filter((answer) => answer instanceof Error)).toEqual([]);
    const last = await world.api.refresh("header", refresh);
    expect(payloadOf(accessOf(last))).toMatchObject({ visits: 10, cv: 10 });
  });

  it("feat:E3 a concurrent revoke always ends the session", async () => {
    const world = createWorld();
    const { id } = await world.signedIn("header");
    const [updated, revoked] = await Promise.all([
      world.sessions.updateClaims(id, async (claims) => {
        await world.sessions.revoke(id);
        return { ...claims, role: "admin" };
      }),
      world.sessions.revokeAll({ userId: "alice" }),
    ]);
    expect(updated).toBeUndefined();
    expect(revoked.length).toBeLessThanOrEqual(1);
    expect(await world.sessions.find(id)).toBeUndefined();
  });
});

describe("failed updates", () => {
  it.each(["cookie", "header"] as const)(
    "feat:A4 feat:E1 claims too large for a %s are reported as misuse and change nothing",
    async (transport) => {
      const world = createWorld();
      const { presented, id } = await world.signedIn(transport);
      const answer = await world.api.call(presented, (context) =>
        world.sessions.require(context).updateClaims({ team: "CANARY".repeat(1500) }),
      );
      expect(answer.error?.code).toBe(Code.Internal);
      expect(answer.error?.rawMessage).toMatch(
        /^updateClaims: the claims are too large: the access token could reach \d+ characters/,
      );
      expect(answer.body).not.toContain("CANARY");
      expect([accessOf(answer), answer.notice]).toEqual([undefined, undefined]);
      expect((await world.sessions.find(id))?.claims).toEqual({ role: "reader", visits: 0 });
      expect(world.events.filter((e) => e.type === "claimsChanged")).toEqual([]);
    },
  );

  it("feat:L5 feat:E1 claims that do not fit the schema: the error contains the name but not the value", async () => {
    const world = createWorld();
    const { presented, id } = await world.signedIn("header");
    const answer = await world.api.call(presented, (context) =>
      world.sessions.require(context).updateClaims({ role: "CANARY" as "admin", visits: 3 }),
    );
    expect(answer.error?.code).toBe(Code.Internal);
    expect(answer.error?.rawMessage).toBe("updateClaims: the claims do not match the schema: role");
    expect(answer.body).not.toContain("CANARY");
    expect((await world.sessions.find(id))?.claims).toEqual({ role: "reader", visits: 0 });
    await expect(
      world.sessions.updateClaims(id, { visits: "CANARY" as never, role: 7 as never }),
    ).rejects.toThrow("updateClaims: the claims do not match the schema: role, visits");
  });

  it("feat:E1 a member that the schema would drop is reported as misuse and changes nothing", async () => {
    const world = createWorld();
    const { id, presented } = await world.signedIn("header", { role: "admin" });
    const demote = { rol: "reader" } as object;
    const { error } = await world.api.call(presented, (context) =>
      world.sessions.require(context).updateClaims(demote),
    );
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toMatch(/^updateClaims: the schema drops the claim "rol"/);
    await expect(world.sessions.updateClaims(id, demote)).rejects.toThrow(/drops the claim "rol"/);
    await world.sessions.updateClaims(id, { rol: undefined, visits: 2 } as object);
    expect((await world.sessions.find(id))?.claims).toEqual({ role: "admin", visits: 2 });
  });

  it("feat:N4 feat:E1 feat:F1 a change that is neither an object nor a function is reported as misuse and changes nothing", async () => {
    const world = createWorld();
    const { id, presented } = await world.signedIn("header", { visits: 1 });
    for (const change of ["CANARY", 7, null, undefined, ["CANARY"], true]) {
      for (const name of ["updateClaims", "updateData"] as const) {
        const { error } = await world.api.call(
          presented,
          async (context) => void (await world.sessions.require(context)[name](change as never)),
        );
        expect(error?.code).toBe(Code.Internal);
        expect(error?.rawMessage).toBe(
          `${name}: the change must be an object with the members to set, or a function`,
        );
        await expect(world.sessions[name](id, change as never)).rejects.toThrow(
          /the change must be an object/,
        );
      }
    }
    expect((await world.sessions.find(id))?.claims?.visits).toBe(1);
    expect(world.events.map(({ type }) => type)).toEqual(["created"]);
  });

  it("feat:E1 an error of the service's function, thrown or rejected, passes unchanged and changes nothing", async () => {
    const world = createWorld();
    const { presented, id } = await world.signedIn("header");
    for (const [thrown, code, text] of [
      [new ConnectError("not you", Code.FailedPrecondition), Code.FailedPrecondition, "not you"],
      [new TypeError("CANARY"), Code.Internal, "internal error"],
      [new Error("CANARY"), Code.Internal, "internal error"],
    ] as const) {
      const changes = [
        () => {
          throw thrown;
        },
        () => Promise.reject(thrown),
      ];
      for (const change of changes) {
        for (const method of ["updateClaims", "updateData"] as const) {
          const answer = await world.api.call(presented, async (context) => {
            await world.sessions.require(context)[method](change);
          });
          expect([answer.error?.code, answer.error?.rawMessage]).toEqual([code, text]);
          expect(answer.body).not.toContain("CANARY");
          expect(accessOf(answer)).toBeUndefined();
        }
      }
    }
    expect((await world.sessions.find(id))?.claims?.role).toBe("reader");
    expect(await world.sessions.data(id)).toEqual({});
  });

  it("feat:B11 an outage: Unavailable, tokens kept, nothing written", async () => {
    for (const method of ["load", "update"] as const) {
      const store = watchedStore();
      const world = createWorld({ store: store.store });
      const { presented } = await world.signedIn("cookie");
      store.failing.add(method);
      const answer = await world.api.call(presented, setRole(world));
      expect(answer.error?.code).toBe(Code.Unavailable);
      expect(answer.hint?.action).toBe(Action.RETRY_LATER);
      expect(answer.headers.getSetCookie()).toEqual([]);
      expect(answer.body).not.toContain("CANARY");
    }
  });

  it("feat:E1 feat:F1 a function may modify and return the copy it receives", async () => {
    const world = createWorld();
    const { id } = await world.signedIn("header", { visits: 1 });
    await world.sessions.updateData(id, { list: [1] });
    await world.sessions.updateClaims(id, (claims) => {
      claims.visits += 1;
      return claims;
    });
    await world.sessions.updateData(id, (data) => {
      (data.list as unknown[]).push(2);
      return data;
    });
    expect((await world.sessions.find(id))?.claims?.visits).toBe(2);
    expect(await world.sessions.data(id)).toEqual({ list: [1, 2] });
  });

  it("feat:E1 handlers cannot change claims by writing into them", async () => {
    const world = createWorld();
    const { presented } = await world.signedIn("header", { visits: 1 });
    for (let call = 0; call < 2; call++) {
      const answer = await world.api.call(presented, (context) => {
        const { claims } = world.sessions.require(context);
        try {
          (claims as { visits: number }).visits += 1;
        } catch {}
        return world.sessions.require(context).claims.visits;
      });
      expect(answer.result).toBe(1);
    }
  });

  it("feat:E1 with getSession, the new token is written to its exchange", async () => {
    const world = createWorld();
    const { access } = await world.signedIn("cookie");
    const exchange = exchangeOf({ access });
    const session = await world.sessions.getSession(exchange);
    await session.updateClaims({ role: "admin" });
    expect(payloadOf(accessOf({ headers: exchange.responseHeader })).role).toBe("admin");
  });

  it("feat:E1 without a response, the store and the session object have the new claims", async () => {
    const world = createWorld();
    const { session } = await world.sessions.issue({ userId: "alice", claims: {} });
    await session.updateClaims({ role: "admin" });
    expect(session.claims.role).toBe("admin");
    expect((await session.info()).claims?.role).toBe("admin");
    await session.revoke();
    await expect(session.updateClaims({ role: "reader" })).rejects.toBeInstanceOf(SessionError);
  });
});
