import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { header } from "../../src/base/wire.ts";
import { latch, settle, setup, signedIn, transports } from "./helpers/setup.ts";

describe.each(transports)("a failed refresh, %s mode", (via) => {
  it.each([
    [Code.Unavailable, Code.Unavailable],
    [Code.DeadlineExceeded, Code.Unavailable],
    [Code.Unknown, Code.Unavailable],
    [Code.Internal, Code.Unavailable],
    [Code.ResourceExhausted, Code.Unavailable],
    [Code.PermissionDenied, Code.PermissionDenied],
    [Code.Unimplemented, Code.Unimplemented],
    [Code.Unauthenticated, Code.Unauthenticated],
  ])("with code %s keeps the session, and the call throws code %s", async (given, seen) => {
    const { server, notes, session, eventTypes } = await signedIn(via);
    server.expireAll();
    // The header shows that the service has answered, not a gateway in front of it.
    server.refreshError = () =>
      new ConnectError("out of order", given, { "rpcsession-hint": "none" });
    const error = ConnectError.from(await notes.addNote({}).catch((reason) => reason));
    expect(error.code).toBe(seen);
    expect(seen === given || error.cause instanceof ConnectError).toBe(true);
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
    expect(eventTypes()).toContain("refreshFailed");
    server.refreshError = undefined;
    await notes.addNote({});
  });

  it("after reuse detection signs out and fails the waiting calls", async () => {
    const { server, notes, session } = await signedIn(via);
    server.expireAll();
    server.refreshError = (id) => server.over(undefined, id);
    const calls = await Promise.allSettled([notes.addNote({}), notes.addNote({})]);
    for (const call of calls) {
      expect(call).toMatchObject({ status: "rejected", reason: { code: Code.Unauthenticated } });
    }
    expect(session.state.status).toBe("signedOut");
    const refreshes = server.count("Refresh");
    await expect(notes.addNote({})).rejects.toThrow(/refused/);
    expect(server.count("Refresh")).toBe(refreshes);
  });

  it("ends after refreshTimeout and keeps the session", async () => {
    const { clock, server, notes, session } = await signedIn(via, { refreshTimeout: "60s" });
    server.expireAll();
    const never = latch();
    server.hold.Refresh = never.promise;
    const call = notes.addNote({});
    call.catch(() => {});
    await settle();
    expect(server.last("Refresh").get("connect-timeout-ms")).toBe("60000");
    clock.advance(60_000);
    await expect(call).rejects.toMatchObject({ code: Code.Unavailable });
    expect(session.state.status).toBe("signedIn");
    server.hold = {};
    await notes.addNote({});
    never.open();
  });
});

describe.each(transports)("session.refresh(), %s mode", (via) => {
  it("refreshes, or joins the running refresh", async () => {
    const { server, session, notes } = await signedIn(via);
    server.expireAll();
    await Promise.all([session.refresh(), session.refresh(), notes.addNote({})]);
    expect(server.count("Refresh")).toBe(1);
  });

  it("releases one caller without ending the refresh for the others", async () => {
    const { clock, server, session } = await signedIn(via);
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const abort = new AbortController();
    const gone = session.refresh({ signal: abort.signal });
    const late = session.refresh({ timeoutMs: 50 });
    const patient = session.refresh();
    for (const call of [gone, late]) {
      call.catch(() => {});
    }
    await settle();
    abort.abort();
    clock.advance(50);
    await expect(gone).rejects.toMatchObject({ code: Code.Canceled });
    await expect(late).rejects.toMatchObject({ code: Code.DeadlineExceeded });
    slow.open();
    await patient;
    expect(server.count("Refresh")).toBe(1);
  });

  it("rejects after a sign-out without calling the server", async () => {
    const { server, session } = await signedIn(via);
    await session.signOut();
    await expect(session.refresh()).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(server.count("Refresh")).toBe(0);
  });

  it("replaces a refused token with one that expires earlier, because lifetimes are jittered", async () => {
    const { server, notes, clock } = await signedIn(via);
    server.life -= 45_000;
    server.sameGeneration = true;
    clock.advance(1_000);
    server.expireAll();
    await notes.addNote({});
    expect(server.count("Refresh")).toBe(1);
  });
});

describe("a refresh in header mode", () => {
  it("is not attempted without a refresh token", async () => {
    const { server, notes, session } = setup("header");
    server.refuse = (context) => server.hint(context, { action: 1 });
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(session.state.status).toBe("signedOut");
    expect(server.count("Refresh")).toBe(0);
  });

  it("keeps the refresh token if the response contains none", async () => {
    const { server, notes, session } = await signedIn("header");
    server.sameGeneration = true;
    await session.refresh();
    server.expireAll();
    await notes.addNote({});
    expect(server.count("Refresh")).toBe(2);
  });

  it("explains what to do if the response is not readable", async () => {
    const { server, session, events } = await signedIn("header");
    const write = server.write.bind(server);
    server.write = (headers, ...rest) => {
      write(headers, ...rest);
      headers.delete(header.accessToken);
    };
    await expect(session.refresh()).rejects.toThrow(/expose the rpcsession-\*/);
    expect(session.state.status).toBe("signedIn");
    expect(events).toContainEqual({ type: "answerDropped", sessionId: "s1", why: "unreadable" });
  });
});

describe("a refresh in cookie mode", () => {
  it("succeeds without a readable notice", async () => {
    const { server, notes } = await signedIn("cookie");
    const write = server.write.bind(server);
    server.write = (headers, ...rest) => {
      write(headers, ...rest);
      headers.delete(header.session);
    };
    server.expireAll();
    await Promise.all([notes.addNote({}), notes.addNote({})]);
    expect(server.count("Refresh")).toBe(1);
  });

  it("feat:P4 identifies the session after a page load", async () => {
    const before = await signedIn("cookie");
    const { server, clock, jar } = before;
    const { session, notes } = setup("cookie", { server, clock, jar });
    expect(session.state).toEqual({ status: "unknown" });
    server.expireAll();
    await notes.addNote({});
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
  });

  it("turns the unknown state into signedOut if the session is over", async () => {
    const { server, clock, jar } = await signedIn("cookie");
    const { session, notes } = setup("cookie", { server, clock, jar });
    server.refuse = (context) => server.over(context, "s1");
    await expect(notes.addNote({})).rejects.toThrow(/refused/);
    expect(session.state.status).toBe("signedOut");
  });

  it("is attempted after a sign-out if a hint shows that the cookies hold another session", async () => {
    const first = await signedIn("cookie");
    const { server, clock, jar, session, notes } = first;
    await session.signOut();
    await signedIn("cookie", { server, clock, jar });
    server.expireAll();
    await expect(notes.addNote({})).rejects.toThrow(/refused/);
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s2" });
    await notes.addNote({});
  });

  it("brings the anti-CSRF token, which is sent on every later call", async () => {
    const { server, notes } = await signedIn("cookie");
    server.csrf = "c1";
    server.expireAll();
    await notes.addNote({});
    expect(server.last("AddNote").get(header.csrf)).toBe("c1");
  });
});
