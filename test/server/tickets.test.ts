import { once } from "node:events";
import { createServer, request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import { inspect } from "node:util";
import { Code } from "@connectrpc/connect";
import type { SessionEvent } from "rpc-session";
import { fromFetch } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { encodeBase64url, openSecretRing, readSecretOption } from "../../src/base/crypto.ts";
import { apiOf } from "../helpers/api.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const secret = "a secret of the tickets, of 32 bytes";
const purpose = "download";

/** Two servers on one store, and a session in cookies. */
async function world() {
  const watched = watchedStore(memoryStore());
  const clock = createFakeClock();
  const events: SessionEvent[] = [];
  const options = {
    ...{ store: watched.store, clock, secret, public: [NotesService.method.signIn] },
    onEvent: (event: SessionEvent) => void events.push(event),
  };
  const here = testSessions(options);
  const there = testSessions(options);
  await there.ready();
  const api = apiOf(here);
  const { session, tokens } = await here.issue({
    ...{ userId: "alice", claims: { role: "editor" }, transport: "cookie" },
  });
  const presented = { access: tokens.accessToken };
  const ticket = async (given: Parameters<typeof here.ticket>[1] = { purpose }) => {
    const { result, error } = await api.call(presented, (ctx) => here.ticket(ctx, given));
    expect(error).toBeUndefined();
    return result?.ticket ?? "";
  };
  return {
    ...{
      here,
      there,
      api,
      clock,
      events,
      watched,
      options,
      session,
      presented,
      ticket,
    },
  };
}

const invalid = { kind: "unauthorized", reason: "TOKEN_INVALID", clearTokens: false };

describe("feat:E5 a ticket", () => {
  it("of a page whose tokens are in cookies gives the session once, on any server", async () => {
    const { here, there, session, ticket } = await world();
    const given = await ticket();
    const found = await there.redeemTicket(given, { purpose });
    expect(found).toEqual(await here.find(session.id));
    expect(found.claims).toEqual({ role: "editor" });
    for (const server of [here, there]) {
      await expect(server.redeemTicket(given, { purpose })).rejects.toMatchObject({
        ...invalid,
        message: "the ticket has been used; ask for a new one",
      });
    }
    expect((await here.redeemTicket(await ticket(), { purpose })).id).toBe(session.id);
  });

  it("is given to exactly one of many callers at once", async () => {
    const { here, there, ticket } = await world();
    const given = await ticket();
    const all = Array.from({ length: 20 }, (_, i) =>
      (i % 2 === 0 ? here : there).redeemTicket(given, { purpose }),
    );
    const settled = await Promise.allSettled(all);
    expect(settled.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  });

  it("is not stored, and fits a query and a WebSocket subprotocol", async () => {
    const { watched, ticket } = await world();
    watched.take();
    expect(await ticket({ purpose: "x".repeat(255) })).toMatch(/^[\w.-]{130,193}$/);
    expect(watched.take()).toEqual(["load"]);
  });

  it.each([
    [undefined, 30_000],
    ["1s", 1_000],
    ["5m", 300_000],
  ] as const)("ends after its time: %s", async (within, expected) => {
    const { here, there, api, presented, clock } = await world();
    const make = () =>
      api.call(presented, (ctx) =>
        here.ticket(ctx, { purpose, ...(within === undefined ? {} : { within }) }),
      );
    const [early, late] = [(await make()).result, (await make()).result];
    const life = (early?.expiresAt.getTime() ?? 0) - clock.now();
    expect(life).toBe(expected);
    clock.advance(`${life - 1}ms`);
    await there.redeemTicket(early?.ticket, { purpose });
    clock.advance("1ms");
    await expect(there.redeemTicket(late?.ticket, { purpose })).rejects.toMatchObject({
      ...{ kind: "unauthorized", reason: "TOKEN_EXPIRED", clearTokens: false },
    });
  });

  it("stays used until long after its end, also when the store is swept", async () => {
    const { here, clock, ticket, watched } = await world();
    const given = await ticket();
    await here.redeemTicket(given, { purpose });
    clock.advance("29s");
    await watched.store.prune(100);
    await expect(here.redeemTicket(given, { purpose })).rejects.toMatchObject(invalid);
  });

  it("of a session that is over is refused, on a server that has not heard of it too", async () => {
    const { here, there, ticket, session } = await world();
    const given = await ticket();
    await here.revoke(session.id);
    await expect(there.redeemTicket(given, { purpose })).rejects.toMatchObject({
      ...{ kind: "unauthorized", reason: "SESSION_REVOKED", clearTokens: false },
    });
  });

  it("is no good for another purpose, service, session or time, and a refusal costs no I/O and no use", async () => {
    const { here, there, ticket, watched, options } = await world();
    const given = await ticket();
    const [secretId = "", expires = "", nonce = "", id = "", ...macs] = given.split(".");
    const other = testSessions({ ...options, issuer: "https://other.example" });
    const foreign = testSessions({ ...options, secret: "another secret, of 32 bytes and more" });
    await other.ready();
    await foreign.ready();
    watched.take();
    const wrong = [
      there.redeemTicket(given, { purpose: "upload" }),
      other.redeemTicket(given, { purpose }),
      foreign.redeemTicket(given, { purpose }),
      ...[
        [secretId, String(Number(expires) + 1), nonce, id, ...macs],
        [secretId, expires, `${nonce.slice(0, -1)}${nonce.endsWith("A") ? "B" : "A"}`, id, ...macs],
        [secretId, expires, nonce, `${id}x`, ...macs],
        [secretId, expires, nonce, id, ...macs.toReversed()],
        [secretId, expires, nonce, id, macs[0]],
      ].map((parts) => there.redeemTicket(parts.join("."), { purpose })),
    ];
    await Promise.all(wrong.map(async (attempt) => expect(attempt).rejects.toMatchObject(invalid)));
    expect(watched.take()).toEqual([]);
    await here.redeemTicket(given, { purpose });
  });

  it("sec:R19 cannot be made by a leaked secret alone: the proof needs the row of the session", async () => {
    const { here, there, ticket } = await world();
    const { current } = await openSecretRing(readSecretOption(secret), "https://test.example");
    const given = await ticket();
    const [secretId = "", expires = "", , id = "", , proof = ""] = given.split(".");
    expect(secretId).toBe(current.id);
    const body = `${expires}.${"n".repeat(16)}.${id}`;
    const mac = async (text: string) => encodeBase64url(await current.ticket.sign(text));
    const check = await mac(`${body}\u0000${purpose}`);
    const guesses = ["", "null", "undefined"].map((root) =>
      mac(`${body}\u0000${purpose}\u0000${root}`),
    );
    for (const forged of [proof, check, ...(await Promise.all(guesses))]) {
      const attempt = there.redeemTicket(`${secretId}.${body}.${check}.${forged}`, { purpose });
      await expect(attempt).rejects.toMatchObject(invalid);
    }
    await here.redeemTicket(given, { purpose });
  });

  it.each([
    ["nothing", undefined],
    ["null", null],
    ["an empty text", ""],
    ["a number", 7],
    ["an object", {}],
    ["a list", ["x"]],
    ["a text of a megabyte", "a".repeat(2 ** 20)],
    ["dots", "....".repeat(9)],
    ["a token", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"],
  ])("that is junk is refused, not an outage: %s", async (_, junk) => {
    const { here, watched } = await world();
    watched.take();
    const attempt = here.redeemTicket(junk as string, { purpose });
    await expect(attempt).rejects.toMatchObject(invalid);
    expect(watched.take()).toEqual([]);
  });

  it.each(["load", "lease"] as const)(
    "is neither accepted nor refused while the store fails: %s",
    async (method) => {
      const { here, ticket, watched } = await world();
      const given = await ticket();
      watched.failing.add(method);
      const attempt = here.redeemTicket(given, { purpose });
      await expect(attempt).rejects.toMatchObject({ kind: "unavailable" });
      watched.failing.clear();
      await here.redeemTicket(given, { purpose });
    },
  );

  it("is in no event and no error", async () => {
    const { here, there, ticket, events } = await world();
    const given = await ticket();
    await here.redeemTicket(given, { purpose });
    const errors = await Promise.all([
      here.redeemTicket(given, { purpose }).catch((error: unknown) => error),
      there.redeemTicket(given, { purpose: "upload" }).catch((error: unknown) => error),
      there.redeemTicket(`${given}x`, { purpose }).catch((error: unknown) => error),
    ]);
    const said = inspect([errors, events], { depth: 20, maxStringLength: null });
    for (const index of [2, 4, 5]) {
      const part = given.split(".")[index] ?? "";
      expect(part.length).toBeGreaterThan(10);
      expect(said).not.toContain(part);
    }
  });

  it("is for nobody without a session, and for no other site", async () => {
    const { here, api, presented } = await world();
    const none = await api.open({}, (ctx) => here.ticket(ctx, { purpose }));
    expect(none.hint?.reason).toBeDefined();
    expect(none.result).toBeUndefined();
    const exchange = (origin: string) =>
      fromFetch(
        new Request("https://test.example/ticket", {
          method: "POST",
          headers: { cookie: `__Host-rpcsession-access=${presented.access}`, origin },
        }),
      );
    const own = await here.ticket(exchange("https://test.example"), { purpose });
    expect((await here.redeemTicket(own.ticket, { purpose })).userId).toBe("alice");
    await expect(here.ticket(exchange("https://evil.example"), { purpose })).rejects.toMatchObject({
      kind: "forbidden",
      reason: "CROSS_SITE",
    });
  });

  it.each([
    [{}, /^purpose must be a string of 1 to 255/],
    [{ purpose: "" }, /^purpose must be a string of 1 to 255/],
    [{ purpose: "x".repeat(256) }, /^purpose must be a string of 1 to 255/],
    [{ purpose: "a\u0000b" }, /^purpose must be/],
    [{ purpose, within: "999ms" }, /^within must be at least 1s, got "999ms"/],
    [{ purpose, within: "301s" }, /^within must be at most 5m, got "301s"/],
    [{ purpose, within: 30 }, /^within: 30 is not a valid duration/],
    [{ purpose, ttl: "30s" }, /^unknown option "ttl" for sessions\.ticket/],
  ])("with a wrong option is the mistake of the service: %j", async (given, message) => {
    const { here, api, presented } = await world();
    const answer = await api.call(presented, (ctx) =>
      here.ticket(ctx, given as unknown as { purpose: string }),
    );
    expect(answer.result).toBeUndefined();
    expect(answer.error?.code).toBe(Code.Internal);
    expect(answer.error?.rawMessage).toMatch(message);
    if (!("within" in given)) {
      const redeem = here.redeemTicket("x", given as unknown as { purpose: string });
      await expect(redeem).rejects.toThrow(TypeError);
    }
  });

  it("opens a WebSocket, whose request carries no header of its own", async () => {
    const { here, ticket } = await world();
    const server = createServer();
    server.on("upgrade", (request, socket) => {
      const [, given] = (request.headers["sec-websocket-protocol"] ?? "").split(", ");
      const answer = (status: string) =>
        socket.end(`HTTP/1.1 ${status}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n`);
      here.redeemTicket(given, { purpose: "socket" }).then(
        () => answer("101 Switching Protocols"),
        () => answer("401 Unauthorized"),
      );
    });
    await once(server.listen(0, "127.0.0.1"), "listening");
    onTestFinished(() => void server.close());
    const { port } = server.address() as AddressInfo;
    const open = async (given: string) => {
      const headers = {
        ...{ connection: "upgrade", upgrade: "websocket" },
        "sec-websocket-protocol": `notes.v1, ${given}`,
      };
      const sent = httpRequest({ host: "127.0.0.1", port, headers }).end();
      const [answer] = await Promise.race([once(sent, "upgrade"), once(sent, "response")]);
      sent.destroy();
      return answer.statusCode as number;
    };
    const given = await ticket({ purpose: "socket" });
    expect(await open(given)).toBe(101);
    expect(await open(given)).toBe(401);
  });
});
