import type { ConnectRouter } from "@connectrpc/connect";
import type { RefusalMessage, SessionEvent } from "rpc-session";
import { testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import { cells } from "../helpers/kinds.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { callWire, wireName } from "../helpers/wire.ts";
import { wireServer } from "../helpers/wire-server.ts";

const english = "the call needs a session; sign in first";
const german = "Bitte melden Sie sich an – der Aufruf braucht eine Sitzung.";
const refused = { method: NotesService.method.listNotes, messages: [{}] };
const wire = { protocol: "connect-json", http: "h1" } as const;

describe("feat:K3 refusalMessage", () => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes({
      sessions: {
        refusalMessage: ({ reason, requestHeader }) =>
          reason === "SESSION_MISSING" && requestHeader.get("accept-language") === "de"
            ? german
            : undefined,
      },
    });
  });
  afterAll(() => server.close());

  for (const { kind, wire: over } of cells) {
    it(`replaces the message and nothing else: ${kind.name}, ${wireName(over)}`, async () => {
      const ask = (language: string) =>
        callWire(server, over, { ...kind, headers: { "accept-language": language } });
      const [de, en] = [await ask("de"), await ask("en")];
      expect([de.message, en.message]).toEqual([german, english]);
      expect([de.code, de.httpStatus]).toEqual(["unauthenticated", en.httpStatus]);
      expect(de.details).toEqual(en.details);
      expect(de.details.length).toBeGreaterThan(0);
      for (const name of ["rpcsession-hint", "www-authenticate"]) {
        expect(de.headers.get(name)).toBe(en.headers.get(name));
      }
    });
  }

  it("gets the reason, the method, the message in English and the headers of the request", async () => {
    const seen: Parameters<RefusalMessage>[0][] = [];
    const refusalMessage: RefusalMessage = (refusal) => {
      seen.push(refusal);
      return undefined;
    };
    const other = await startNotes({ sessions: { refusalMessage } });
    await callWire(other, wire, { ...refused, headers: { "accept-language": "fr" } });
    await other.close();
    expect(seen).toEqual([
      {
        reason: "SESSION_MISSING",
        procedure: "notes.v1.NotesService/ListNotes",
        message: english,
        requestHeader: expect.any(Headers),
      },
    ]);
    expect(seen[0]?.requestHeader.get("accept-language")).toBe("fr");
  });

  it.each([
    [
      "throws",
      "threw an error",
      () => {
        throw new Error("no texts");
      },
    ],
    [
      "returns a promise",
      "returned something else",
      async () => {
        throw new Error("late");
      },
    ],
    ["returns an empty text", "returned something else", () => ""],
    ["returns a number", "returned something else", () => 7],
    ["returns a long text", "returned something else", () => "x".repeat(1_001)],
  ])("keeps the message in English if it %s, and reports that", async (_name, problem, answer) => {
    const events: SessionEvent[] = [];
    const other = await startNotes({
      sessions: {
        refusalMessage: answer as unknown as RefusalMessage,
        onEvent: (event) => events.push(event),
      },
    });
    const { code, message } = await callWire(other, wire, { ...refused, headers: {} });
    await other.close();
    expect([code, message]).toEqual(["unauthenticated", english]);
    expect(events.flatMap((e) => (e.type === "failed" ? [e.error.message] : []))).toEqual([
      expect.stringMatching(new RegExp(`^the option refusalMessage ${problem}`)),
    ]);
  });

  it("is not asked about internal errors", async () => {
    let asked = 0;
    const other = await startNotes({
      sessions: {
        clientIp: () => {
          throw new Error("CANARY");
        },
        refusalMessage: () => {
          asked += 1;
          return german;
        },
      },
    });
    const method = NotesService.method.signIn;
    const result = await callWire(other, wire, {
      method,
      messages: [{ user: "alice" }],
      headers: {},
    });
    await other.close();
    expect([result.code, result.message, asked]).toEqual(["internal", "internal error", 0]);
  });

  it("must be a function", () => {
    const wrong = "Bitte anmelden" as unknown as RefusalMessage;
    expect(() => testSessions({ refusalMessage: wrong })).toThrow(
      "refusalMessage must be a function, got a string",
    );
  });

  it("works in a service that only verifies, and must be a function", async () => {
    const issuing = testSessions();
    const options = { issuer: "https://test.example", jwks: await issuing.jwks() };
    const verifying = verifySessions({ ...options, refusalMessage: () => german });
    const routes = (router: ConnectRouter) => router.service(NotesService, {});
    const wired = wireServer(verifying.protect({ routes, readMaxBytes: 1024 }));
    const { error, hint } = await wired.call(NotesService.method.listNotes, {}, {});
    expect(error?.rawMessage).toBe(german);
    expect(hint?.reason).toBe(Reason.SESSION_MISSING);
    expect(() => verifySessions({ ...options, refusalMessage: "no" as never })).toThrow(
      "verifySessions: refusalMessage must be a function, got string",
    );
  });
});
