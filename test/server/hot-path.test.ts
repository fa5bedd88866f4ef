import {
  createContextValues,
  createHandlerContext,
  type HandlerContext,
} from "@connectrpc/connect";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { afterEach, describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";
import { type Presented, requestHeaders } from "../helpers/exchanges.ts";
import { type Issued, issueOn } from "../helpers/refreshing.ts";
import { spyOnVerify } from "../helpers/spy-on-verify.ts";

afterEach(() => {
  vi.restoreAllMocks();
});

function contextOf(presented: Presented, requestSignal?: AbortSignal): HandlerContext {
  return createHandlerContext({
    service: NotesService,
    method: NotesService.method.listNotes,
    protocolName: "connect",
    requestMethod: "POST",
    url: "https://test.example/notes.v1.NotesService/ListNotes",
    requestHeader: requestHeaders(presented),
    contextValues: createContextValues(),
    ...(requestSignal === undefined ? {} : { requestSignal }),
  });
}

/** Sends a call through the gate, and reports whether the gate had to wait for anything. */
async function passGate(sessions: TestSessions, presented: Presented) {
  const context = contextOf(presented);
  const listen = vi.spyOn(context.signal, "addEventListener");
  let passed = false;
  const passing = (async () => {
    await sessions.requestGate(context);
    passed = true;
  })();
  // Runs once all microtasks have run, and before any I/O.
  await new Promise<void>((resolve) => process.nextTick(resolve));
  const waited = !passed;
  await passing;
  // Listening to the signal of the call takes longer than a whole call without waits.
  return { waited, listened: listen.mock.calls.length, session: sessions.require(context) };
}

const transports: readonly [string, (issued: Issued) => Presented][] = [
  ["cookie", ({ access, refresh }) => ({ access, refresh })],
  ["header", ({ access }) => ({ bearer: access })],
];

describe.each(transports)("a call whose token was verified before, by %s", (transport, present) => {
  const world = async (clock: FakeClock = createFakeClock()) => {
    const sessions = testSessions({ clock });
    const issued = await issueOn(sessions, transport as "cookie" | "header");
    return { sessions, issued, presented: present(issued) };
  };

  it("passes the gate without waiting for I/O, and without computing a signature", async () => {
    const { sessions, presented } = await world();
    const verify = spyOnVerify();
    expect(await passGate(sessions, presented)).toMatchObject({ listened: 1 });
    const { waited, listened, session } = await passGate(sessions, presented);
    expect({ waited, listened }).toEqual({ waited: false, listened: 0 });
    expect(session.userId).toBe("alice");
    expect(verify).toHaveBeenCalledTimes(1);
  });

  it("reads each clock once, even when its generation is confirmed", async () => {
    const clock = createFakeClock();
    const { sessions, presented } = await world(clock);
    await passGate(sessions, presented);
    clock.advance("2m");
    await passGate(sessions, presented);
    await new Promise((resolve) => setImmediate(resolve));
    const reads = [vi.spyOn(clock, "now"), vi.spyOn(clock, "monotonic")];
    await passGate(sessions, presented);
    expect(reads.map(({ mock }) => mock.calls.length)).toEqual([1, 1]);
  });

  it("sec:V06 is refused once the session is revoked", async () => {
    const { sessions, issued, presented } = await world();
    await passGate(sessions, presented);
    await issued.revoke();
    await expect(passGate(sessions, presented)).rejects.toThrow(/the session was ended/);
    const again = async () => sessions.requestGate(contextOf(presented));
    await expect(again()).rejects.toThrow(/the session was ended/);
  });

  it("sec:V06 is refused once the token has expired", async () => {
    const { sessions, presented } = await world();
    await passGate(sessions, presented);
    sessions.clock.advance("16m");
    await expect(passGate(sessions, presented)).rejects.toThrow(/expired/);
  });

  it("is refused if it has already ended", async () => {
    const { sessions, presented } = await world();
    await passGate(sessions, presented);
    const ended = async () => sessions.requestGate(contextOf(presented, AbortSignal.abort()));
    await expect(ended()).rejects.toThrow(/canceled/);
  });
});

it("revocation removes the tokens of its own session from the cache", async () => {
  const sessions = testSessions();
  const [one, two] = [await issueOn(sessions, "header"), await issueOn(sessions, "header")];
  const verify = spyOnVerify();
  const use = ({ access }: Issued) => passGate(sessions, { bearer: access });
  await use(one);
  await use(two);
  await one.revoke();
  await expect(use(one)).rejects.toThrow(/ended/);
  expect(verify).toHaveBeenCalledTimes(3);
  await use(two);
  expect(verify).toHaveBeenCalledTimes(3);
});

it("changes by one handler to its session object do not reach the next call", async () => {
  const sessions = testSessions();
  const { tokens } = await sessions.issue({ userId: "alice", claims: { role: "user" } });
  const presented = { bearer: tokens.accessToken };
  const { session } = await passGate(sessions, presented);
  expect(Reflect.set(session.claims, "role", "admin")).toBe(false);
  session.authTime.setTime(0);
  session.accessExpiresAt.setTime(0);
  const next = (await passGate(sessions, presented)).session;
  expect(next.claims).toEqual({ role: "user" });
  expect(next.authTime.getTime()).toBeGreaterThan(0);
  expect(next.accessExpiresAt.getTime()).toBeGreaterThan(0);
});

it("without the cache every call computes a signature and still passes", async () => {
  const sessions = testSessions({ verifiedCache: { entries: 0 } });
  const { access } = await issueOn(sessions, "header");
  const verify = spyOnVerify();
  await passGate(sessions, { bearer: access });
  await passGate(sessions, { bearer: access });
  expect(verify).toHaveBeenCalledTimes(2);
});

it("the option verifiedCache is checked", () => {
  expect(() => testSessions({ verifiedCache: { entries: -1 } })).toThrow(/verifiedCache\.entries/);
});
