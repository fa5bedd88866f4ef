import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { header } from "../../src/base/wire.ts";
import { latch, settle, setup, signedIn, transports } from "./helpers/setup.ts";

describe.each(transports)("session.signOut(), %s mode", (via) => {
  it("feat:G8, feat:P5 ends the session locally and on the server", async () => {
    const { server, session, notes, jar, eventTypes } = await signedIn(via);
    const signingOut = session.signOut();
    expect(session.state.status).toBe("signedOut");
    await signingOut;
    expect(server.sessions[0]?.live).toBe(false);
    expect(jar.size).toBe(0);
    expect(eventTypes()).toEqual(["signedIn", "signedOut"]);
    await expect(notes.addNote({})).rejects.toThrow(/refused/);
    expect(server.last("AddNote").get("authorization")).toBeNull();
  });

  it("feat:P5 wins over a refresh that completes later", async () => {
    const { server, session, notes, jar } = await signedIn(via);
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const call = notes.addNote({});
    call.catch(() => {});
    await settle();
    const signingOut = session.signOut();
    await settle();
    slow.open();
    await signingOut;
    await expect(call).rejects.toMatchObject({ code: Code.Unauthenticated });
    await settle();
    expect(session.state.status).toBe("signedOut");
    expect(server.count("AddNote")).toBe(1);
    expect(jar.size).toBe(0);
    await expect(notes.addNote({})).rejects.toThrow(/refused/);
    expect(server.last("AddNote").get("authorization")).toBeNull();
  });

  it("wins over a refresh that completes during the sign-out on the server", async () => {
    const { clock, server, session, jar } = await signedIn(via, { refreshTimeout: "5s" });
    const slow = latch();
    server.hold.Refresh = slow.promise;
    server.hold.SignOut = slow.promise;
    const refreshing = session.refresh({ timeoutMs: 60_000 });
    refreshing.catch(() => {});
    await settle();
    const signingOut = session.signOut({ timeoutMs: 1_000 });
    signingOut.catch(() => {});
    await settle();
    if (via === "cookie") {
      // The sign-out stops waiting for the refresh.
      clock.advance(1_000);
      await settle();
    }
    slow.open();
    await signingOut;
    await settle();
    expect(session.state.status).toBe("signedOut");
    expect(server.sessions[0]?.live).toBe(false);
    expect(jar.size).toBe(0);
  });

  it("wins over a sign-in that completes later", async () => {
    const { server, session, notes, jar, events } = setup(via);
    const slow = latch();
    server.hold.SignIn = slow.promise;
    const signingIn = notes.signIn({});
    await settle();
    await session.signOut();
    slow.open();
    await signingIn;
    await settle();
    expect(session.state.status).toBe("signedOut");
    expect(events).toContainEqual({ type: "answerDropped", sessionId: "s1", why: "stale" });
    expect(jar.size).toBe(0);
  });

  it("signs out locally even if the server cannot be reached", async () => {
    const { server, session, notes } = await signedIn(via);
    server.refuse = (context) =>
      context.method.name === "SignOut" ? new ConnectError("down", Code.Unavailable) : undefined;
    await expect(session.signOut()).rejects.toMatchObject({ code: Code.Unavailable });
    expect(session.state.status).toBe("signedOut");
    notes.addNote({}).catch(() => {});
    await settle();
    expect(server.last("AddNote").get("authorization")).toBeNull();
    server.refuse = undefined;
    await session.signOut();
    expect(server.sessions[0]?.live).toBe(via === "header");
  });

  it("does not end a session that began meanwhile", async () => {
    const { server, session, notes } = await signedIn(via);
    const slow = latch();
    server.hold.Refresh = slow.promise;
    // The failed refresh sets no cookies, so those of the new session remain; a SignOut would end it.
    server.refreshError = () => new ConnectError("down", Code.Unavailable);
    session.refresh().catch(() => {});
    await settle();
    const signingOut = session.signOut();
    await notes.signIn({});
    slow.open();
    await signingOut;
    await settle();
    expect(server.sessions[1]?.live).toBe(true);
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s2" });
  });
});

describe("session.signOut()", () => {
  it("sends both tokens of a header session", async () => {
    const { server, session } = await signedIn("header");
    await session.signOut();
    expect(server.last("SignOut").get("authorization")).toMatch(/^Bearer at\.s1/);
    expect(server.last("SignOut").get(header.transport)).toBe("header");
  });

  it("sends nothing if a header client holds no tokens", async () => {
    const { server, session } = setup("header");
    await session.signOut();
    expect(server.count("SignOut")).toBe(0);
  });

  it.each([
    ["s1", { sessionId: "s1" }],
    ["", {}],
  ])(
    "is not needed after a refusal that ends session %j of a page that has just loaded",
    async (named, id) => {
      const { server, session, notes, events } = setup("cookie");
      server.refuse = (context) => server.over(context, named);
      await expect(notes.addNote({})).rejects.toThrow("refused");
      expect(session.state.status).toBe("signedOut");
      expect(events.at(-1)).toEqual({ type: "signedOut", by: "server", ...id });
    },
  );

  it("is not needed after a sign-out through a method of the service", async () => {
    const { session, notes, events } = await signedIn("header");
    await notes.signOut({});
    expect(session.state.status).toBe("signedOut");
    expect(events.at(-1)).toEqual({ type: "signedOut", sessionId: "s1", by: "server" });
  });
});
