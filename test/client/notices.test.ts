import { describe, expect, it } from "vitest";
import { encodeNotice, header, type SessionNotice } from "../../src/base/wire.ts";
import { isNewer, judge, type KnownSession } from "../../src/client/state/notice-rule.ts";
import { realm } from "./helpers/fake-server.ts";
import { latch, settle, setup, signedIn, transports } from "./helpers/setup.ts";

const order = { generation: 2, claimsVersion: 3, expiresAt: 1000 };
const mark = { epoch: 5, intent: 5, version: 5 };
const here: KnownSession = {
  ...mark,
  transport: "header",
  status: "signedIn",
  realm,
  isPinned: false,
  sessionId: "s1",
  endedSessionId: undefined,
  order,
};
const unknown = { transport: "cookie", status: "unknown", sessionId: undefined, order: undefined };
const out = {
  transport: "cookie",
  status: "signedOut",
  sessionId: undefined,
  endedSessionId: "s1",
};

describe("isNewer(a, b)", () => {
  it.each([
    [{}, false],
    [{ expiresAt: 1001 }, true],
    [{ expiresAt: 999 }, false],
    [{ claimsVersion: 4, expiresAt: 1 }, true],
    [{ claimsVersion: 2, expiresAt: 9999 }, false],
    [{ generation: 3, claimsVersion: 1, expiresAt: 1 }, true],
    [{ generation: 1, claimsVersion: 9, expiresAt: 9999 }, false],
  ])("%j: %s", (change, expected) => {
    expect(isNewer({ ...order, ...change }, order)).toBe(expected);
  });
});

describe("judge(notice, known, { sent, own })", () => {
  it.each<[string, Partial<SessionNotice>, object, object, string]>([
    ["a notice of a newer token", { generation: 3 }, {}, {}, "renew"],
    ["a notice of an older token", { generation: 1 }, {}, {}, "ignore"],
    ["a notice of an equal token", {}, {}, {}, "ignore"],
    ["an equal token in the response to the client's own refresh", {}, {}, { own: true }, "renew"],
    [
      "an older token in the response to the client's own refresh",
      { generation: 1 },
      {},
      { own: true },
      "ignore",
    ],
    [
      "the response to the client's own refresh after a newer token",
      { expiresAt: 1 },
      { version: 6 },
      { own: true },
      "ignore",
    ],
    ["a reissue", { event: "reissued", claimsVersion: 4 }, {}, {}, "renew"],
    ["a token of another session", { session: "s2", generation: 9 }, {}, {}, "ignore"],
    ["a token of another realm", { realm: "x", generation: 9 }, {}, {}, "ignore"],
    ["a token for a call sent before a sign-out", { generation: 3 }, { epoch: 6 }, {}, "stale"],
    ["a sign-in", { event: "created", session: "s2" }, {}, {}, "adopt"],
    ["a sign-in of another realm", { event: "created", realm: "x" }, {}, {}, "adopt"],
    [
      "a sign-in of a realm other than the pinned one",
      { event: "created", realm: "x" },
      { isPinned: true },
      {},
      "foreign",
    ],
    [
      "a sign-in of a new realm that replaces the pinned one",
      { event: "created", realm: "x", olderRealms: ["y", realm] },
      { isPinned: true },
      {},
      "adopt",
    ],
    [
      "the client's own refresh in another realm",
      { realm: "x", generation: 3 },
      {},
      { own: true },
      "renew",
    ],
    [
      "the client's own refresh in a realm other than the pinned one",
      { realm: "x", generation: 3 },
      { isPinned: true },
      { own: true },
      "foreign",
    ],
    [
      "a reissue in a new realm that replaces this one",
      { event: "reissued", realm: "x", olderRealms: [realm], claimsVersion: 4 },
      {},
      {},
      "renew",
    ],
    ["the end of a session of another realm", { event: "ended", realm: "x" }, {}, {}, "ignore"],
    [
      "the end of the session in a new realm that replaces this one",
      { event: "ended", realm: "x", olderRealms: [realm] },
      {},
      {},
      "end",
    ],
    [
      "a sign-in sent before a sign-out by the user",
      { event: "created" },
      { intent: 6 },
      {},
      "stale",
    ],
    [
      "a sign-in sent before a sign-out by the server",
      { event: "created" },
      { epoch: 6 },
      {},
      "adopt",
    ],
    ["the end of the session", { event: "ended" }, {}, {}, "end"],
    ["the end of another session", { event: "ended", session: "s2" }, {}, {}, "ignore"],
    ["the first notice of a session in cookies", {}, unknown, {}, "adopt"],
    [
      "the end of a session in cookies that was not known yet",
      { event: "ended" },
      unknown,
      {},
      "end",
    ],
    [
      "the client's own refresh when the cookies hold another session",
      { session: "s2" },
      { transport: "cookie" },
      { own: true },
      "adopt",
    ],
    [
      "another call when the cookies hold another session",
      { session: "s2" },
      { transport: "cookie" },
      {},
      "ignore",
    ],
    ["a token by cookie after a sign-out", { session: "s2" }, out, {}, "ignore"],
    [
      "the client's own refresh after a sign-out, for a new session",
      { session: "s2" },
      out,
      { own: true },
      "adopt",
    ],
    [
      "the client's own refresh after a sign-out, for the old session",
      {},
      out,
      { own: true },
      "ignore",
    ],
  ])("%s", (_name, change, now, how, expected) => {
    const notice = { event: "refreshed", session: "s1", realm, ...order, expiresIn: 1, ...change };
    const context = { ...here, ...now };
    expect(judge(notice as SessionNotice, context, { sent: mark, own: false, ...how })).toBe(
      expected,
    );
  });
});

describe.each(transports)("the notice of a response, %s mode", (via) => {
  it("is dropped if it arrives late and concerns the previous session", async () => {
    const { server, notes, session } = await signedIn(via);
    const slow = latch();
    server.hold.AddNote = slow.promise;
    server.onHandler = (context) => {
      const [first] = server.sessions;
      if (context.method.name === "AddNote" && first) {
        first.claimsVersion += 1;
        server.write(context.responseHeader, first, "reissued");
      }
    };
    const late = notes.addNote({});
    await settle();
    await notes.signIn({});
    slow.open();
    await late;
    expect(session.state.sessionId).toBe("s2");
    await notes.listNotes({}).catch(() => {});
    const sent = server.last("ListNotes").get("authorization") ?? "Bearer at.s2";
    expect(sent).toMatch(/^Bearer at\.s2/);
  });

  it("of a sign-in is adopted even if the previous session ended meanwhile", async () => {
    const { server, notes, session } = await signedIn(via);
    const slow = latch();
    server.hold.SignIn = slow.promise;
    const signingIn = notes.signIn({});
    await settle();
    server.refuse = (context) => server.over(context, "s1");
    await expect(notes.addNote({})).rejects.toThrow(/refused/);
    expect(session.state.status).toBe("signedOut");
    slow.open();
    await signingIn;
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s2" });
  });

  it("is read from failed calls as well, and the tokens are removed from the error", async () => {
    const { server, notes, session } = setup(via);
    server.onHandler = (context) => {
      server.create(context);
      throw new Error("later");
    };
    const error = await notes.signIn({}).catch((reason) => reason);
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
    expect(error.metadata.get(header.accessToken)).toBeNull();
    expect(error.metadata.get(header.refreshToken)).toBeNull();
  });

  it("is ignored if its realm differs from the realm option", async () => {
    const { server, notes, session, events } = setup(via, { realm: "https://mine" });
    await notes.signIn({});
    expect(events).toEqual([{ type: "answerDropped", sessionId: "s1", why: "foreign" }]);
    expect(session.state.status).toBe(via === "cookie" ? "unknown" : "signedOut");
    expect(server.sessions).toHaveLength(1);
  });

  it("never puts a token into events or the state", async () => {
    const { server, notes, session, events } = await signedIn(via);
    server.expireAll();
    await notes.addNote({});
    await session.signOut();
    expect(JSON.stringify([events, session.state])).not.toMatch(/[ar]t\.s1/);
  });
});

describe("session.subscribe(listener)", () => {
  it("feat:P10 calls the listener with each new state until it is unsubscribed", async () => {
    const { notes, session } = setup("header");
    const states: unknown[] = [];
    const broken = session.subscribe(() => {
      throw new Error("broken listener");
    });
    const stop = session.subscribe((state) => states.push(state));
    await notes.signIn({});
    await notes.listNotes({});
    expect(session.state).toBe(states[0]);
    await session.signOut();
    stop();
    broken();
    await notes.signIn({});
    expect(states).toEqual([
      { status: "signedIn", sessionId: "s1", userId: "ada", realm },
      { status: "signedOut", realm },
    ]);
  });
});

it("a malformed notice is ignored", async () => {
  const { server, notes, session } = setup("header");
  server.onHandler = (context) => {
    context.responseHeader.set(header.session, encodeNotice({} as SessionNotice));
    throw new Error("no");
  };
  await notes.signIn({}).catch(() => {});
  expect(session.state.status).toBe("signedOut");
});

it.each([
  ["cookie", "s2", "the browser holds the cookies of the last answer"],
  ["header", "s1", "the second answer replaces nothing that the user has chosen"],
] as const)(
  "of two sign-ins at once, a %s client keeps %s: %s",
  async (via, sessionId, _reason) => {
    const { server, session, notes } = setup(via);
    await Promise.all([notes.signIn({}), notes.signIn({})]);
    await settle();
    expect(session.state).toMatchObject({ status: "signedIn", sessionId });
    expect(server.count("SignOut")).toBe(0);
  },
);
