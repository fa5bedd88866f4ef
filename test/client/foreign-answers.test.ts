import type { ServerResponse } from "node:http";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { type InboxWorld, inboxWires, startInbox } from "./helpers/inbox.ts";
import { settle } from "./helpers/setup.ts";
import { range, until, watch } from "./helpers/watching.ts";

const statuses = [
  ...[400, 401, 403, 404, 405, 408, 413, 429, 499, 500, 502, 503, 504],
  ...[520, 521, 522, 523, 524, 525, 526, 527, 530, 200],
];

/** A page as gateways send it. */
function page(response: ServerResponse, status: number): true {
  response.writeHead(status, { "content-type": "text/html; charset=utf-8" });
  response.end(`<!doctype html><html><head><title>${status}</title></head><body></body></html>`);
  return true;
}

/** A page as gateways for APIs send it. */
function jsonPage(response: ServerResponse, status: number): true {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify({ message: "Forbidden" }));
  return true;
}

/** Waits until `count` interruptions were reported, and moves the clock over each pause. */
async function pauses(world: InboxWorld, seen: readonly unknown[], count: number): Promise<void> {
  while (seen.length < count) {
    const { length } = seen;
    await until(() => seen.length > length);
    await settle();
    world.clock.advance("31s");
  }
}

describe.each(inboxWires)("what is not an answer of the service, %s", (wire) => {
  it("feat:Q4: a body that ends cleanly before the end of the protocol interrupts a resumed stream", async () => {
    const world = await startInbox(wire);
    const watching = watch(world);
    for (let sent = 1; sent <= 3; sent++) {
      world.inbox.add("hello");
      await until(() => watching.numbers.length === sent || watching.state === "over");
      world.endBodies();
      await until(() => world.opened.at(-1)?.reason !== undefined || watching.state === "over");
      await settle();
      world.clock.advance("1s");
      await until(() => world.opened.length === sent + 1 || watching.state === "over");
    }
    expect(watching.state).toBe("on");
    expect(watching.numbers).toEqual([1, 2, 3]);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
  });

  it("feat:Q4: the pages of a gateway interrupt a resumed stream, and sign nobody out", async () => {
    const world = await startInbox(wire);
    const seen: Code[] = [];
    const onInterrupted = ({ code }: ConnectError): void => void seen.push(code);
    const watching = watch(world, { onInterrupted, giveUpAfter: "24h" });
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    const next = [...statuses];
    world.answer = ({ url }, response) =>
      url?.endsWith("/Watch") === true && next.length > 0 && page(response, next.shift() as number);
    world.cut();
    await Promise.race([pauses(world, seen, statuses.length + 1), watching.ended]);
    expect([watching.state, next]).toEqual(["on", []]);
    world.inbox.add("again");
    await until(() => watching.numbers.length === 2);
    expect(watching.numbers).toEqual(range(2));
    expect(world.session.state.status).toBe("signedIn");
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
  });

  it("feat:Q4: an answer to Refresh that is the page of a gateway is Unavailable for every caller", async () => {
    const world = await startInbox(wire);
    let status = 0;
    world.answer = ({ url }, response) =>
      url?.endsWith("/Refresh") === true && page(response, status);
    for (status of statuses) {
      const refresh = world.session.refresh().catch((error: unknown) => error);
      expect(await refresh, String(status)).toMatchObject({
        code: Code.Unavailable,
        // The answer that came instead, such as "HTTP 404" where nobody serves SessionService.
        rawMessage: expect.stringMatching(/^the session could not be refreshed and is kept \(.+\)/),
      });
      expect(world.session.state.status).toBe("signedIn");
    }
    // A resumed stream goes on.
    const seen: ConnectError[] = [];
    const onInterrupted = (error: ConnectError): void => void seen.push(error);
    const watching = watch(world, { onInterrupted });
    world.inbox.add("hello");
    await until(() => watching.numbers.length === 1);
    status = 401;
    world.clock.advance("15m");
    await until(() => seen.length > 0 || watching.state === "over");
    expect(seen[0]).toMatchObject({ code: Code.Unavailable });
    world.answer = undefined;
    await settle();
    world.clock.advance("31s");
    world.inbox.add("again");
    await until(() => watching.numbers.length === 2 || watching.state === "over");
    expect(watching.numbers).toEqual([1, 2]);
    watching.leave = true;
    world.inbox.add("bye");
    await watching.ended;
  });

  it("feat:Q4: a JSON page of a gateway counts like any other page, also as an answer to Refresh and SignOut", async () => {
    const world = await startInbox(wire);
    let [path, status] = ["", 0];
    world.answer = ({ url }, response) =>
      url?.endsWith(path) === true && jsonPage(response, status);
    for (status of statuses.filter((one) => one !== 200)) {
      path = "/Refresh";
      const refresh = world.session.refresh().catch((error: unknown) => error);
      expect(await refresh, String(status)).toMatchObject({ code: Code.Unavailable });
      expect(world.session.state.status).toBe("signedIn");
    }
    [path, status] = ["/SignOut", 403];
    await expect(world.session.signOut()).rejects.toMatchObject({ code: Code.Unavailable });
  });

  it("what the service itself refuses around Refresh reaches the caller", async () => {
    const world = await startInbox(wire);
    for (const code of [Code.PermissionDenied, Code.Unauthenticated, Code.Unimplemented]) {
      world.onRefresh = () => {
        throw new ConnectError("banned", code);
      };
      const error = ConnectError.from(await world.session.refresh().catch((e: unknown) => e));
      expect([error.code, error.rawMessage]).toEqual([code, "banned"]);
    }
    expect(world.session.state.status).toBe("signedIn");
  });

  it("an answer to SignOut that is the page of a gateway is Unavailable", async () => {
    const world = await startInbox(wire);
    world.answer = ({ url }, response) => url?.endsWith("/SignOut") === true && page(response, 403);
    await expect(world.session.signOut()).rejects.toMatchObject({ code: Code.Unavailable });
    expect(world.session.state.status).toBe("signedOut");
  });

  it.each([
    ["Canceled", Code.Canceled],
    ["Unimplemented", Code.Unimplemented],
    ["PermissionDenied", Code.PermissionDenied],
    ["Unknown", Code.Unknown],
    ["Internal", Code.Internal],
    ["DataLoss", Code.DataLoss],
    ["ResourceExhausted", Code.ResourceExhausted],
  ])("%s of the handler itself ends a resumed stream", async (_, code) => {
    const world = await startInbox(wire);
    world.onWatch = () => {
      throw new ConnectError("enough", code);
    };
    const error = ConnectError.from(await watch(world).ended);
    expect([error.code, error.rawMessage]).toEqual([code, "enough"]);
    expect(world.opened).toHaveLength(1);
  });
});
