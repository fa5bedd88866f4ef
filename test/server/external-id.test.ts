import { inspect } from "node:util";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ExternalId, SessionEvent } from "rpc-session";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { accessOf, apiOf } from "../helpers/api.ts";
import { sorted } from "../helpers/sorted.ts";

const issuer = "https://login.example.com";
const externalId = { issuer, sid: "sid-1", sub: "sub-1" };

function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    ...options,
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const add = async (given?: ExternalId, tenantId?: string) => {
    const { session, tokens } = await sessions.issue({
      userId: "alice",
      ...(given && { externalId: given }),
      ...(tenantId !== undefined && { tenantId }),
    });
    sessions.clock.advance("1s");
    return { id: session.id, session, ...tokens };
  };
  return { sessions, api, events, add };
}

describe("feat:A14 externalId", () => {
  it("is stored at a sign-in, and shown by find, list and info; members that are undefined are left out", async () => {
    const { sessions, api } = createWorld();
    let id = "";
    await api.open({}, async (ctx) => {
      const session = await sessions.create(ctx, {
        userId: "alice",
        transport: "header",
        externalId: { ...externalId, sid: undefined },
      });
      id = session.id;
    });
    const found = await sessions.find(id);
    expect(found?.externalId).toStrictEqual({ issuer, sub: "sub-1" });
    const { sessions: listed } = await sessions.list({ userId: "alice" });
    expect(listed.map((one) => one.externalId)).toStrictEqual([{ issuer, sub: "sub-1" }]);
    const { session } = await sessions.issue({ userId: "bob" });
    expect((await session.info()).externalId).toBeUndefined();
  });

  it("is in no token and in no response to the client", async () => {
    const { api, sessions, add } = createWorld();
    const { accessToken, refreshToken } = await add({ issuer, sid: "CANARY-1", sub: "CANARY-2" });
    sessions.clock.advance("61s");
    const answer = await api.refresh("header", refreshToken);
    const renewed = accessOf(answer);
    expect(renewed).toBeDefined();
    const tokens = [accessToken, refreshToken, renewed ?? ""];
    const decoded = tokens.flatMap((token) =>
      token.split(".").map((part) => Buffer.from(part, "base64url").toString()),
    );
    const said = inspect([tokens, decoded, answer], { depth: 20, maxStringLength: null });
    expect(said).not.toContain("CANARY");
  });

  it("is kept by fork, by reauthenticate and by refreshes, so that a logout ends all of them", async () => {
    const { sessions, api, add } = createWorld();
    const { accessToken, refreshToken } = await add(externalId);
    const forked = await api.call({ bearer: accessToken }, (ctx) => sessions.fork(ctx));
    const again = await api.call({ bearer: accessToken }, (ctx) => sessions.reauthenticate(ctx));
    expect((await forked.result?.session.info())?.externalId).toEqual(externalId);
    expect((await again.result?.info())?.externalId).toEqual(externalId);
    expect(refreshToken).not.toBe(forked.result?.tokens.refreshToken);
    const ended = await sessions.revokeAll({ externalId: { issuer, sid: "sid-1" } });
    expect(sorted(ended)).toEqual(sorted([forked.result?.session.id, again.result?.id]));
  });

  it.each<[string, unknown, RegExp]>([
    ["no issuer", { sid: "a" }, /^externalId\.issuer must be a string of 1 to 255/],
    ["an issuer with a space", { issuer: "a b", sid: "a" }, /^externalId\.issuer must not contain/],
    ["neither sid nor sub", { issuer }, /^externalId: specify sid, sub or both/],
    ["an empty sid", { issuer, sid: "" }, /^externalId\.sid must be a string of 1 to 255/],
    ["a long sub", { issuer, sub: "x".repeat(256) }, /^externalId\.sub must be a string of 1/],
    ["a sub with NUL", { issuer, sub: "\u0000" }, /^externalId\.sub must be well-formed/],
    ["a sid that is a number", { issuer, sid: 1 }, /^externalId\.sid must be a string/],
    ["a text", "sid-1", /^externalId must be an object/],
    ["null", null, /^externalId must be an object, got null/],
    [
      "the claims of an ID token",
      { iss: issuer, sub: "a" },
      /^unknown option "iss" for externalId/,
    ],
  ])("with %s throws a TypeError, at a sign-in and at revokeAll", async (_, wrong, message) => {
    const { sessions } = createWorld();
    const given = wrong as ExternalId;
    await expect(sessions.issue({ userId: "alice", externalId: given })).rejects.toThrow(message);
    await expect(sessions.revokeAll({ externalId: given })).rejects.toThrow(message);
    await expect(sessions.list({ externalId: given })).rejects.toThrow(message);
    await expect(sessions.issue({ userId: "alice", externalId: given })).rejects.toThrow(TypeError);
  });

  it("with a wrong form is a fault of the service in an RPC", async () => {
    const { sessions, api } = createWorld();
    const { error } = await api.open({}, (ctx) =>
      sessions.create(ctx, { userId: "alice", externalId: { issuer } }),
    );
    expect(ConnectError.from(error).code).toBe(Code.Internal);
  });
});

describe("feat:G10, feat:M2 revokeAll and list by externalId", () => {
  it("end by sid the sessions of every tenant, and by sub all sessions of that user", async () => {
    const { sessions, events, add } = createWorld();
    const [a, b] = [await add(externalId), await add(externalId, "acme")];
    const [c, d] = [
      await add({ issuer, sub: "sub-1" }),
      await add({ issuer, sid: "sid-2", sub: "sub-1" }),
    ];
    const other = await add({ issuer: "https://other.example.com", sid: "sid-1", sub: "sub-1" });
    await add();
    const ended = await sessions.revokeAll({ externalId: { issuer, sid: "sid-1" } });
    expect([...ended].sort()).toEqual([a.id, b.id].sort());
    expect(await sessions.revokeAll({ externalId: { issuer, sid: "sid-1" } })).toEqual([]);
    expect(events.filter(({ type }) => type === "revoked")).toEqual(
      ended.map((sessionId) => ({ type: "revoked", sessionId, endedBy: "externalLogout" })),
    );
    // With both: the session without a sid may belong to it, the one with another sid does not.
    expect(await sessions.revokeAll({ externalId })).toEqual([c.id]);
    expect(await sessions.revokeAll({ externalId: { issuer, sub: "sub-1" } })).toEqual([d.id]);
    expect(await sessions.find(other.id)).toBeDefined();
  });

  it("list finds the sessions of a sid or of a sub, page by page", async () => {
    const { sessions, add } = createWorld();
    const [first, second] = [await add(externalId), await add({ issuer, sub: "sub-1" })];
    const bySub = { externalId: { issuer, sub: "sub-1" }, pageSize: 1 };
    const page = await sessions.list(bySub);
    expect(page.sessions.map(({ id }) => id)).toEqual([second.id]);
    const rest = await sessions.list({ ...bySub, pageToken: page.nextPageToken ?? "" });
    expect(rest.sessions.map(({ id }) => id)).toEqual([first.id]);
    const bySid = await sessions.list({ externalId: { issuer, sid: "sid-1" } });
    expect(bySid.sessions.map(({ id }) => id)).toEqual([first.id]);
  });

  it("never act on another selection because of a slip", async () => {
    const { sessions, add } = createWorld();
    const { id } = await add(externalId);
    for (const slip of [
      { externalId: undefined },
      { userId: "alice", externalId: undefined },
      { userId: "alice", externalId },
      { tenantId: "acme", externalId },
      { externalId, except: id },
    ]) {
      await expect(sessions.revokeAll(slip as never)).rejects.toThrow(TypeError);
    }
    await expect(sessions.list({ externalId })).rejects.toThrow("either sid or sub, got both");
    await expect(sessions.list({ userId: "alice", externalId } as never)).rejects.toThrow(
      /^list: specify either externalId/,
    );
    expect(await sessions.find(id)).toBeDefined();
  });
});
