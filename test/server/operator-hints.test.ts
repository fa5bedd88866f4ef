import { Code } from "@connectrpc/connect";
import type { SessionEvent } from "rpc-session";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action } from "../../gen/rpcsession/v1/hint_pb.ts";
import { notesApp } from "../helpers/notes.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { connectTo, openStream, startStreams, streamWires } from "../helpers/streams.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { addNote, listNotes, signIn } = NotesService.method;
const page = "http://localhost:5173";
const fromPage = { headers: { origin: page, "sec-fetch-site": "same-site" } };

function serve(options: TestSessionsOptions = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    public: [signIn],
    onEvent: (event) => events.push(event),
    ...options,
  });
  const server = wireServer(sessions.protect({ ...notesApp(sessions), readMaxBytes: 1024 }));
  return { sessions, server, events };
}

describe("a page that is missing in origins", () => {
  const local = { issuer: "http://localhost", cookies: { insecure: true } } as const;
  const told =
    /In development: add "http:\/\/localhost:5173", the origin of this page, to the option origins of the server$/;
  const event = {
    type: "csrfRefused",
    check: "crossSite",
    origin: page,
    advice: `if the page is yours, add its origin to the option origins: "${page}"`,
  };

  it("feat:N10 is told the option and its origin when it signs in, in development", async () => {
    const { server, events } = serve(local);
    const { error } = await server.call(signIn, { user: "ada" }, fromPage);
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(error?.rawMessage).toMatch(told);
    expect(events).toContainEqual(event);
    // Following the advice mends it.
    const mended = serve({ ...local, origins: ["http://localhost", page] });
    expect((await mended.server.call(signIn, { user: "ada" }, fromPage)).error).toBeUndefined();
  });

  it("feat:N10 is told them when it calls with cookies", async () => {
    const { sessions, server, events } = serve(local);
    const { access } = await issueOn(sessions, "cookie");
    const { error } = await server.call(listNotes, {}, { access, insecure: true, ...fromPage });
    expect(error?.rawMessage).toMatch(told);
    expect(events).toContainEqual(event);
  });

  it("feat:N10 in production only the operator learns it", async () => {
    const { server, events } = serve();
    const { error } = await server.call(signIn, { user: "ada" }, fromPage);
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(error?.rawMessage).not.toContain(page);
    expect(events).toContainEqual(event);
  });

  it.each(["null", "javascript:alert(1)", "https://a.example/?<script>"])(
    "gives no advice for what is no origin: %s",
    async (origin) => {
      const { server, events } = serve(local);
      const headers = { origin, "sec-fetch-site": "cross-site" };
      const { error } = await server.call(signIn, { user: "ada" }, { headers });
      expect(error?.rawMessage).not.toContain(origin);
      expect(events).toContainEqual({ type: "csrfRefused", check: "crossSite", origin });
    },
  );
});

describe("a token of another issuer", () => {
  const other = testSessions({ issuer: "https://staging.example.com" });

  it("feat:N10 verifySessions tells the operator the expected and the seen issuer, and never the token", async () => {
    const events: SessionEvent[] = [];
    const sessions = verifySessions({
      issuer: "https://api.example.com",
      jwks: { keys: [] },
      onEvent: (event) => events.push(event),
    });
    const server = wireServer(
      sessions.protect({
        routes: (router) => router.service(NotesService, {}),
        readMaxBytes: 1024,
      }),
    );
    const { access } = await issueOn(other, "header");
    const answer = await server.call(addNote, {}, { bearer: access });
    expect(answer.hint?.action).toBe(Action.REFRESH);
    expect(answer.body).not.toContain("staging");
    expect(events).toEqual([
      {
        type: "refused",
        procedure: "notes.v1.NotesService/AddNote",
        reason: "TOKEN_INVALID",
        sessionId: undefined,
        userId: undefined,
        expectedIssuer: "https://api.example.com",
        seenIssuer: "https://staging.example.com",
      },
    ]);
    const [, , signature = "?"] = access.split(".");
    expect(JSON.stringify(events)).not.toContain(signature);
  });

  it("feat:N10 so does createSessions, for cookies too; an issuer of any length is cut", async () => {
    const { server, events } = serve();
    const { access } = await issueOn(other, "cookie");
    await server.call(listNotes, {}, { access });
    const long = `https://${"a".repeat(1000)}.example`;
    const part = (value: object): string =>
      Buffer.from(JSON.stringify(value)).toString("base64url");
    const bearer = `${part({ alg: "ES256", typ: "at+jwt", kid: "k" })}.${part({ iss: long })}.AAAA`;
    await server.call(listNotes, {}, { bearer });
    const seen = events.map((event) => "seenIssuer" in event && event.seenIssuer);
    expect(seen).toEqual(["https://staging.example.com", `${long.slice(0, 255)}…`]);
  });

  it("sec:V12 an issuer cannot forge a line of the log, or send commands to a terminal", async () => {
    const { server, events } = serve();
    const part = (value: object): string =>
      Buffer.from(JSON.stringify(value)).toString("base64url");
    const payload = part({ iss: "https://a.example\nrefused a call\u001b[2J\u009b" });
    const bearer = `${part({ alg: "ES256", typ: "at+jwt", kid: "k" })}.${payload}.AAAA`;
    await server.call(listNotes, {}, { bearer });
    const seen = events.map((event) => "seenIssuer" in event && event.seenIssuer);
    expect(seen).toEqual(["https://a.example\ufffdrefused a call\ufffd[2J\ufffd"]);
  });

  it("is not mentioned if the token names this issuer, or none", async () => {
    const { sessions, server, events } = serve();
    const { access } = await issueOn(sessions, "header");
    for (const bearer of [`${access.slice(0, -4)}AAAA`, "junk"]) {
      await server.call(listNotes, {}, { bearer });
    }
    const refused = events.filter(({ type }) => type === "refused");
    expect(refused).toHaveLength(2);
    expect(refused.some((event) => "seenIssuer" in event)).toBe(false);
  });
});

describe("a stream of a server that closes", () => {
  it.each(streamWires.map((wire) => [`${wire.protocol} over ${wire.http}`, wire] as const))(
    "feat:N10 says so, and that it can be opened again: %s",
    async (_name, wire) => {
      const server = await startStreams();
      const client = connectTo(server, wire);
      const { ended } = await openStream(server, client, { kind: "server stream" });
      await server.sessions.close();
      server.sessions.clock.advance("2s");
      const error = await ended;
      expect(error?.code).toBe(Code.Unavailable);
      expect(error?.rawMessage).toBe(
        "this server is about to stop and keeps no streams; open the stream again",
      );
      client.close();
      await server.close();
    },
  );
});
