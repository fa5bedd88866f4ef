import { once } from "node:events";
import { connect } from "node:net";
import type { Duplex } from "node:stream";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { Action, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { issue, realm } from "../helpers/presented.ts";
import {
  type Connections,
  connectTo,
  hintOf,
  type Manner,
  type OpenedStream,
  openStream,
  type Run,
  type StreamServer,
  startStreams,
  streamCells,
  streamWires,
  tick,
} from "../helpers/streams.ts";

/** Waits until client and handler have ended, and checks that both received the same reason. */
async function endOf(stream: OpenedStream) {
  const error = await stream.ended;
  await stream.run.over;
  const reason = await stream.run.reason;
  expect(reason).toBeInstanceOf(ConnectError);
  expect(hintOf(reason)).toEqual(hintOf(error));
  const { action, tokens, session, realm: ofRealm, procedure } = hintOf(error) ?? {};
  const why = hintOf(error)?.reason;
  return { code: error?.code, action, reason: why, tokens, session, realm: ofRealm, procedure };
}

const procedures = {
  "server stream": "notes.v1.NotesService/WatchNotes",
  "client stream": "notes.v1.NotesService/ImportNotes",
  bidi: "notes.v1.NotesService/SyncNotes",
} as const;

describe.each(streamCells)("an open $name", ({ kind, wire }) => {
  let server: StreamServer;
  let client: Connections;
  beforeEach(async () => {
    server = await startStreams();
    client = connectTo(server, wire);
  });
  afterEach(async () => {
    client.close();
    await server.close();
  });
  const ended = (session: string, reason: Reason, tokens: Tokens = Tokens.CLEAR) => ({
    ...{ code: Code.Unauthenticated, action: Action.SIGN_IN, reason, tokens, session, realm },
    procedure: procedures[kind],
  });

  it("feat:Q2 ends when its access token expires, and not before", async () => {
    const stream = await openStream(server, client, { kind });
    server.sessions.clock.advance("14m");
    await tick();
    expect(stream.run.isOver).toBe(false);
    server.sessions.clock.advance("1m");
    expect(await endOf(stream)).toEqual({
      ...ended(stream.session, Reason.TOKEN_EXPIRED, Tokens.KEEP),
      action: Action.REFRESH,
    });
  });

  it("feat:G7 ends when its session is revoked; other streams continue", async () => {
    const stream = await openStream(server, client, { kind });
    const other = await openStream(server, client, { kind });
    await stream.revoke();
    expect(await endOf(stream)).toEqual(ended(stream.session, Reason.SESSION_REVOKED));
    await tick();
    expect(other.run.isOver).toBe(false);
    other.cancel();
    await other.run.over;
    expect(
      hintOf(await other.run.reason.then((reason) => ConnectError.from(reason))),
    ).toBeUndefined();
  });

  it("feat:G7 ends even if its handler neither reads nor writes", async () => {
    const manner =
      kind === "server stream" ? "waits for its signal" : "waits while handling a request";
    const stream = await openStream(server, client, { kind, manner });
    await stream.revoke();
    expect(await endOf(stream)).toEqual(ended(stream.session, Reason.SESSION_REVOKED));
  });

  it("feat:G7 ends when its user signs out with another call", async () => {
    const { session, tokens } = await issue(server, "header");
    const headers = { authorization: `Bearer ${tokens.access}` };
    const stream = await openStream(server, client, { kind, headers });
    await createClient(SessionService, client.transport).signOut({}, { headers });
    // The response to the sign-out clears the tokens, not the stream.
    expect(await endOf(stream)).toEqual(ended(session.id, Reason.SESSION_REVOKED, Tokens.KEEP));
  });

  it("feat:G7 ends when reuse of a refresh token is detected", async () => {
    const { session, tokens } = await issue(server, "header");
    const service = createClient(SessionService, client.transport);
    let refreshToken = tokens.refresh;
    let access = tokens.access;
    const refresh = () =>
      service.refresh(
        { refreshToken },
        {
          onHeader(header) {
            refreshToken = header.get("rpcsession-refresh-token") ?? refreshToken;
            access = header.get("rpcsession-access-token") ?? access;
          },
        },
      );
    // Confirm the token by using it, rotate it, confirm its successor, then let the overlap pass.
    for (let i = 0; i < 3; i++) {
      server.sessions.clock.advance("2m");
      await refresh();
    }
    server.sessions.clock.advance("31s");
    const headers = { authorization: `Bearer ${access}` };
    const stream = await openStream(server, client, { kind, headers });
    refreshToken = tokens.refresh;
    await expect(refresh()).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(await endOf(stream)).toEqual(ended(session.id, Reason.TOKEN_THEFT));
  });

  it("releases its handler when the client disconnects", async () => {
    const stream = await openStream(server, client, { kind });
    stream.cancel();
    await stream.run.over;
    expect((await stream.ended)?.code).toBe(Code.Canceled);
  });
});

describe.each(streamWires)("a server stream over $name", (wire) => {
  let server: StreamServer;
  let client: Connections;
  beforeEach(async () => {
    server = await startStreams();
    client = connectTo(server, wire);
  });
  afterEach(async () => {
    client.close();
    await server.close();
  });

  it.each<Manner>(["waits for its signal", "ignores its signal", "keeps sending"])(
    "feat:Q2 ends even if its handler %s, and sends no more messages",
    async (manner) => {
      const stream = await openStream(server, client, { kind: "server stream", manner });
      await stream.revoke();
      const made = stream.run.count;
      expect((await stream.ended)?.code).toBe(Code.Unauthenticated);
      expect(stream.run.isOver).toBe(manner !== "ignores its signal");
      server.service.ignoresUntil.resolve();
      await stream.run.over;
      // One message may already have been on its way to the transport.
      expect(stream.run.count - made).toBeLessThanOrEqual(1);
      expect(stream.messages.length).toBeLessThanOrEqual(made);
    },
  );
});

describe.each(["h1", "h2c"] as const)("a client that stops reading, over %s", (http) => {
  it("feat:Q2 does not block its handler", async () => {
    const server = await startStreams();
    onTestFinished(() => server.close());
    const { tokens } = await issue(server, "header");
    const client = await readNothing(server, http, {
      authorization: `Bearer ${tokens.access}`,
      "x-manner": "fills the pipe",
    });
    onTestFinished(() => client.end());
    const run = await blocked(server);
    server.sessions.clock.advance("15m");
    await run.over;
    // The client still reads the buffered messages, then the reason.
    expect(await client.readOn()).toContain("the access token has expired");
  });

  it("and then disconnects releases its handler", async () => {
    const server = await startStreams();
    onTestFinished(() => server.close());
    const { tokens } = await issue(server, "header");
    const client = await readNothing(server, http, {
      authorization: `Bearer ${tokens.access}`,
      "x-manner": "fills the pipe",
    });
    const run = await blocked(server);
    client.end();
    await run.over;
    expect(run.isOver).toBe(true);
  });

  it("past the deadline of its call receives DeadlineExceeded, not an early end", async () => {
    const server = await startStreams();
    onTestFinished(() => server.close());
    const { tokens } = await issue(server, "header");
    const client = await readNothing(server, http, {
      authorization: `Bearer ${tokens.access}`,
      "x-manner": "fills the pipe",
      "connect-timeout-ms": "5000",
    });
    onTestFinished(() => client.end());
    const run = await blocked(server);
    await run.over;
    expect(await client.readOn()).toContain("deadline_exceeded");
  });
});

/** Waits until the handler is blocked at a `yield`, because its messages are not read. */
async function blocked(server: StreamServer): Promise<Run> {
  const { runs } = server.service;
  for (let count = -1; runs[0] === undefined || count !== runs[0].count; ) {
    count = runs[0]?.count ?? -1;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect(runs[0].isOver).toBe(false);
  return runs[0];
}

/** Sends a server-streaming call but reads the response only on `readOn`. */
async function readNothing(
  server: StreamServer,
  http: "h1" | "h2c",
  headers: Readonly<Record<string, string>>,
) {
  const path = "/notes.v1.NotesService/WatchNotes";
  const body = Buffer.from([0, 0, 0, 0, 2, 123, 125]);
  const all = { ...headers, "content-type": "application/connect+json" };
  let stream: Duplex;
  if (http === "h2c") {
    stream = server.h2().request({ ":method": "POST", ":path": path, ...all });
    stream.end(body);
  } else {
    const socket = connect(server.port.h1, "127.0.0.1");
    await once(socket, "connect");
    const lines = Object.entries({ host: "test.example", ...all, "content-length": body.length });
    const head = lines.map(([name, value]) => `${name}: ${value}\r\n`).join("");
    socket.write(`POST ${path} HTTP/1.1\r\n${head}\r\n`);
    socket.write(body);
    stream = socket;
  }
  stream.pause();
  return {
    /** Reads the rest of the response and returns its last part. */
    async readOn(): Promise<string> {
      let last = "";
      for await (const chunk of stream) {
        last = (last + (chunk as Buffer).toString("latin1")).slice(-10_000);
        if (last.endsWith("0\r\n\r\n")) {
          break;
        }
      }
      return last;
    },
    end: () => void stream.destroy(),
  };
}
