// Clients that prove the key of their session, against a real server on loopback.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import type { SessionEvent } from "rpc-session";
import {
  type ClientTokens,
  createSessionClient,
  memoryTokens,
  type TransportParts,
} from "rpc-session/client";
import { type DpopKeyOptions, type DpopKeyStore, dpopKey } from "rpc-session/client/dpop";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { type NotesServer, startNotes, type TestSessionsOptions } from "../helpers/server.ts";

const url = "https://test.example";
const addNote = "notes.v1.NotesService/AddNote";
const watchNotes = "notes.v1.NotesService/WatchNotes";

interface Started extends NotesServer {
  readonly events: SessionEvent[];
}

async function start(options: TestSessionsOptions = {}): Promise<Started> {
  const events: SessionEvent[] = [];
  const server = await startNotes({
    sessions: {
      methods: { [addNote]: { proof: "required" }, [watchNotes]: { proof: "required" } },
      onEvent: (event) => events.push(event),
      ...options,
    },
  });
  onTestFinished(() => server.close());
  return { ...server, events };
}

type Wire = "Connect" | "gRPC" | "gRPC-Web";
const wires: readonly Wire[] = ["Connect", "gRPC", "gRPC-Web"];

function transportTo(server: NotesServer, wire: Wire) {
  const http1 = { baseUrl: `http://127.0.0.1:${server.port.h1}`, httpVersion: "1.1" } as const;
  const http2 = `http://127.0.0.1:${server.port.h2c}`;
  return (parts: Pick<TransportParts, "interceptors">): Transport => {
    if (wire === "Connect") {
      return createConnectTransport({ ...http1, ...parts });
    }
    if (wire === "gRPC-Web") {
      return createGrpcWebTransport({ ...http1, ...parts });
    }
    const sessionManager = new Http2SessionManager(http2);
    onTestFinished(() => sessionManager.abort());
    return createGrpcTransport({ baseUrl: http2, sessionManager, ...parts });
  };
}

/** A client, its sent headers, and what it holds. */
function newClient(
  server: NotesServer,
  options: DpopKeyOptions & { readonly wire?: Wire; readonly tokens?: ClientTokens } = {},
) {
  const { wire = "Connect", tokens, ...rest } = options;
  const key = dpopKey({ url, ...rest });
  const store = memoryTokens(tokens);
  const sent: string[] = [];
  const create = transportTo(server, wire);
  const session = createSessionClient({
    tokens: store,
    clock: server.sessions.clock,
    transport: key.transport((parts) =>
      create({
        interceptors: [
          ...parts.interceptors,
          (next) => (request) => {
            const scheme = request.header.get("authorization")?.split(" ")[0] ?? "none";
            const proof = request.header.has("dpop") ? "proof" : "plain";
            sent.push(`${request.method.name} ${scheme} ${proof}`);
            return next(request);
          },
        ],
      }),
    ),
  });
  onTestFinished(() => session.close());
  const notes = createClient(NotesService, session.transport);
  const held = (): ClientTokens => {
    const kept = store.load() as ClientTokens | undefined;
    if (kept === undefined) {
      throw new Error("the client holds no tokens");
    }
    return kept;
  };
  return { key, session, notes, sent, held };
}

const bread = { note: { text: "bread" } };

describe("a client with a key", () => {
  it.each(wires)("feat:S10 signs in, calls, refreshes and signs out over %s", async (wire) => {
    const server = await start();
    const { key, session, notes, sent, held } = newClient(server, { wire });
    await notes.signIn({ user: "alice" });
    expect(session.state.status).toBe("signedIn");
    expect(held().refreshToken).toContain(await key.thumbprint());
    await notes.listNotes({});
    await notes.addNote(bread);
    await notes.addNote(bread);
    const texts: (string | undefined)[] = [];
    const hints: (string | null)[] = [];
    const onHeader = (headers: Headers) => void hints.push(headers.get("rpcsession-hint"));
    for await (const { note } of notes.watchNotes({}, { onHeader })) {
      texts.push(note?.text);
    }
    // The caller does not see the headers of the refusal.
    expect(hints).toEqual([null]);
    expect(texts).toEqual(["bread", "bread"]);
    server.sessions.clock.advance("20m");
    expect((await notes.listNotes({})).notes).toHaveLength(2);
    await session.signOut();
    expect(server.events.map(({ type }) => type)).toContain("revoked");
    expect(sent).toEqual([
      // The first answer brings a nonce.
      ...["SignIn none proof", "SignIn none proof"],
      "ListNotes Session plain",
      // The policy asks, and the client remembers that.
      ...["AddNote Session plain", "AddNote DPoP proof", "AddNote DPoP proof"],
      ...["WatchNotes Session plain", "WatchNotes DPoP proof"],
      // The nonce has expired.
      ...["Refresh none proof", "Refresh none proof", "ListNotes Session plain"],
      "SignOut DPoP proof",
    ]);
  });

  it("feat:S10 gets another nonce in the middle of its work, on calls and streams", async () => {
    const server = await start({ lifetimes: { access: "30m" } });
    const { notes, sent } = newClient(server);
    await notes.signIn({ user: "alice" });
    await notes.addNote(bread);
    server.sessions.clock.advance("5m");
    sent.length = 0;
    await notes.addNote(bread);
    server.sessions.clock.advance("5m");
    for await (const _ of notes.watchNotes({})) {
      break;
    }
    expect(sent).toEqual([
      ...["AddNote DPoP proof", "AddNote DPoP proof"],
      ...["WatchNotes Session plain", "WatchNotes DPoP proof"],
    ]);
    server.sessions.clock.advance("5m");
    for await (const _ of notes.watchNotes({})) {
      break;
    }
    expect(sent.slice(4)).toEqual(["WatchNotes DPoP proof", "WatchNotes DPoP proof"]);
  });

  it("feat:S10 refreshes once for parallel calls", async () => {
    const server = await start();
    const { notes, sent } = newClient(server);
    await notes.signIn({ user: "alice" });
    server.sessions.clock.advance("20m");
    await Promise.all([notes.listNotes({}), notes.listNotes({}), notes.addNote(bread)]);
    // Sent twice because of the nonce; answered once.
    expect(sent.filter((call) => call.startsWith("Refresh"))).toHaveLength(2);
    expect(server.events.filter(({ type }) => type === "refreshed")).toHaveLength(1);
  });

  it("feat:S10 works when its clock is wrong by a day", async () => {
    for (const days of [-1, 1]) {
      const server = await start();
      const real = server.sessions.clock;
      const wrong = { ...real, now: () => real.now() + days * 86_400_000 };
      const { notes } = newClient(server, { clock: wrong });
      await notes.signIn({ user: "alice" });
      await notes.addNote(bread);
      server.sessions.clock.advance("20m");
      expect((await notes.listNotes({})).notes).toHaveLength(1);
    }
  });

  it("feat:S10 names GET in proofs of methods that its transport calls by GET", async () => {
    const listNotes = "notes.v1.NotesService/ListNotes";
    const server = await start({ methods: { [listNotes]: { proof: "required" } } });
    const key = dpopKey({ url, useHttpGet: true });
    const htms: string[] = [];
    const session = createSessionClient({
      tokens: memoryTokens(),
      transport: key.transport(({ interceptors }) =>
        createConnectTransport({
          ...{ baseUrl: `http://127.0.0.1:${server.port.h1}`, httpVersion: "1.1" },
          useHttpGet: true,
          interceptors: [
            ...interceptors,
            (next) => (request) => {
              const [, payload = ""] = (request.header.get("dpop") ?? "..").split(".");
              const text = Buffer.from(payload, "base64url").toString();
              htms.push(`${request.method.name} ${text === "" ? "" : JSON.parse(text).htm}`);
              return next(request);
            },
          ],
        }),
      ),
    });
    onTestFinished(() => session.close());
    const notes = createClient(NotesService, session.transport);
    await notes.signIn({ user: "alice" });
    await notes.listNotes({});
    expect(htms).toEqual(["SignIn POST", "SignIn POST", "ListNotes ", "ListNotes GET"]);
  });

  it("feat:S10 uses the URL of each call without the option url", async () => {
    const events: SessionEvent[] = [];
    const server = await startNotes({ sessions: { onEvent: (event) => events.push(event) } });
    onTestFinished(() => server.close());
    const { notes } = newClient(server, { url: undefined } as never);
    // The service is called by another name than its issuer, and says so.
    const refused: unknown = await notes.signIn({ user: "alice" }).catch((error) => error);
    expect(ConnectError.from(refused).rawMessage).toContain("htu");
  });
});

describe("plain requests", () => {
  it.each(["Session", "DPoP"])(
    "feat:S10 carry a bound session by the scheme %s",
    async (scheme) => {
      const http = createServer();
      await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
      const origin = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
      const sessions = testSessions({ issuer: origin });
      onTestFinished(async () => {
        http.closeAllConnections();
        http.close();
        await sessions.close();
      });
      const sent: string[] = [];
      const answer = async (request: IncomingMessage, response: ServerResponse) => {
        const { authorization = "", dpop } = request.headers;
        const given = String(authorization.split(" ")[0]);
        sent.push(`${given} ${dpop === undefined ? "plain" : "proof"}`);
        const responseHeader = new Headers();
        const requestHeader = new Headers({ authorization, ...(dpop && { dpop: String(dpop) }) });
        const call = {
          requestHeader,
          responseHeader,
          requestMethod: "POST",
          url: request.url ?? "",
        };
        // A handler that wants a proof accepts no other scheme.
        const wanted = scheme === "DPoP" && given !== "DPoP";
        if (wanted) {
          requestHeader.set("authorization", authorization.replace(given, "DPoP"));
        }
        const found = await sessions.getSession(call).then(
          ({ userId }) => [200, userId] as const,
          () => [401, "refused"] as const,
        );
        response.writeHead(found[0], Object.fromEntries(responseHeader)).end(found[1]);
      };
      http.on("request", (request, response) => void answer(request, response));
      const key = dpopKey();
      const { tokens } = await sessions.issue({
        ...{ userId: "alice", transport: "header", boundKey: await key.thumbprint() },
      });
      const send = () =>
        key.fetch(`${origin}/files?name=a`, {
          method: "POST",
          headers: { authorization: `Bearer ${tokens.accessToken}` },
          body: "text",
        });
      const first = await send();
      expect([first.status, await first.text()]).toEqual([200, "alice"]);
      expect(await (await send()).text()).toBe("alice");
      expect(sent).toEqual(
        scheme === "Session"
          ? ["Session plain", "Session plain"]
          : ["Session plain", "DPoP proof", "DPoP proof"],
      );
    },
  );
});

describe("a thief", () => {
  it.each(wires)("feat:S10 with all tokens and no key gets nothing over %s", async (wire) => {
    const server = await start();
    const owner = newClient(server, { wire });
    await owner.notes.signIn({ user: "alice" });
    const thief = newClient(server, { wire, tokens: owner.held() });
    const refresher = newClient(server, { wire, tokens: owner.held() });
    const plain = createSessionClient({
      tokens: memoryTokens(owner.held()),
      clock: server.sessions.clock,
      transport: transportTo(server, wire),
    });
    onTestFinished(() => plain.close());
    const handled = server.calls.handled;
    const refusals = await Promise.all([
      thief.notes.addNote(bread).catch((error) => ConnectError.from(error).code),
      createClient(NotesService, plain.transport)
        .addNote(bread)
        .catch((error) => ConnectError.from(error).code),
      refresher.session.refresh().catch((error) => ConnectError.from(error).code),
      plain.refresh().catch((error) => ConnectError.from(error).code),
    ]);
    expect(refusals).toEqual(Array(4).fill(Code.Unauthenticated));
    expect(server.calls.handled).toBe(handled);
    expect(server.events.filter(({ type }) => type === "proofRefused").length).toBeGreaterThan(0);
    // The owner notices nothing.
    server.sessions.clock.advance("20m");
    await owner.notes.addNote(bread);
  });
});

describe("a client that has lost its key", () => {
  it("feat:S10 is signed out by its next refresh, and can sign in", async () => {
    const server = await start();
    const before = newClient(server);
    await before.notes.signIn({ user: "alice" });
    const { session, notes, sent } = newClient(server, { tokens: before.held() });
    await session.load();
    server.sessions.clock.advance("20m");
    await expect(notes.listNotes({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(session.state.status).toBe("signedOut");
    sent.length = 0;
    await notes.signIn({ user: "alice" });
    await notes.addNote(bread);
    expect(session.state.status).toBe("signedIn");
    expect(sent[0]).toBe("SignIn none proof");
  });

  it("feat:S10 is signed out by its next call, and leaves the tokens out when it signs in", async () => {
    const server = await start();
    const before = newClient(server);
    await before.notes.signIn({ user: "alice" });
    const tokens = before.held();
    const caller = newClient(server, { tokens });
    await expect(caller.notes.listNotes({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(caller.session.state.status).toBe("signedOut");
    const signer = newClient(server, { tokens });
    await signer.notes.signIn({ user: "alice" });
    expect(signer.sent).toEqual(["SignIn none proof", "SignIn none proof"]);
    await signer.notes.addNote(bread);
    // The first session goes on for whoever has its key.
    await before.notes.addNote(bread);
  });
});

describe("the key", () => {
  it("feat:S10 is kept in a store, made once, and cannot be exported", async () => {
    const server = await start();
    let kept: CryptoKeyPair | undefined;
    const keys: DpopKeyStore = {
      load: async () => kept,
      save: async (pair) => {
        kept ??= pair;
      },
    };
    const first = newClient(server, { keys });
    await first.notes.signIn({ user: "alice" });
    expect(kept?.privateKey.extractable).toBe(false);
    // After a restart.
    const second = newClient(server, { keys, tokens: first.held() });
    await second.notes.addNote(bread);
    await second.session.refresh();
    expect(await second.key.thumbprint()).toBe(await first.key.thumbprint());
  });

  it("feat:S10 is saved before the first sign-in is sent", async () => {
    const server = await start();
    let kept: CryptoKeyPair | undefined;
    const { promise: written, resolve: write } = Promise.withResolvers<void>();
    const { promise: asked, resolve: ask } = Promise.withResolvers<void>();
    const keys: DpopKeyStore = {
      load: () => kept,
      async save(pair) {
        ask();
        await written;
        kept = pair;
      },
    };
    const { notes, sent } = newClient(server, { keys });
    const signedIn = notes.signIn({ user: "alice" });
    await asked;
    expect(sent).toEqual([]);
    write();
    await signedIn;
    expect(sent).toEqual(["SignIn none proof", "SignIn none proof"]);
    // One that cannot be saved binds no session: nothing is sent.
    const full: DpopKeyStore = {
      load: () => undefined,
      save: () => Promise.reject(new Error("the disk is full")),
    };
    const failing = newClient(server, { keys: full });
    await expect(failing.notes.signIn({ user: "alice" })).rejects.toMatchObject({
      code: Code.Unavailable,
    });
    expect(failing.sent).toEqual([]);
  });

  it("feat:S10 a store that fails is an outage: the session is kept, and later it works", async () => {
    const server = await start();
    const pair = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, [
      "sign",
    ]);
    const first = newClient(server, { keys: pair });
    await first.notes.signIn({ user: "alice" });
    let isDown = true;
    const keys: DpopKeyStore = {
      load: () => (isDown ? Promise.reject(new Error("no disk")) : pair),
      save: () => {},
    };
    const second = newClient(server, { keys, tokens: first.held() });
    // Ordinary calls need no key.
    await second.notes.listNotes({});
    await expect(second.session.refresh()).rejects.toMatchObject({ code: Code.Unavailable });
    await expect(second.notes.addNote(bread)).rejects.toMatchObject({ code: Code.Unavailable });
    expect(second.session.state.status).toBe("signedIn");
    isDown = false;
    await second.session.refresh();
    await second.notes.addNote(bread);
  });

  it("feat:S10 wrong options and cookies are refused with what to do", async () => {
    const rsa = await crypto.subtle.generateKey(
      {
        ...{ name: "RSASSA-PKCS1-v1_5", hash: "SHA-256", modulusLength: 2048 },
        publicExponent: new Uint8Array([1, 0, 1]),
      },
      false,
      ["sign", "verify"],
    );
    expect(() => dpopKey({ keys: rsa })).toThrow("keys must be a CryptoKeyPair for ECDSA");
    expect(() => dpopKey({ url: "api.example.com" })).toThrow("url must be the http(s) URL");
    expect(() => dpopKey({ uri: url } as never)).toThrow("uri");
    const server = await start();
    const session = createSessionClient({
      tokens: { transport: "cookie", load: () => undefined, save: () => {} },
      transport: dpopKey({ url }).transport(transportTo(server, "Connect")),
    });
    onTestFinished(() => session.close());
    const notes = createClient(NotesService, session.transport);
    await expect(notes.signIn({ user: "alice" })).rejects.toThrow("tokens in headers");
  });
});
