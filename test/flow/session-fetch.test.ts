// Plain requests of a client, to a real server that calls sessions.getSession.
import http from "node:http";
import type { AddressInfo } from "node:net";
import { Code, createClient } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createConnectTransport } from "@connectrpc/connect-web";
import type { TokenTransport } from "rpc-session";
import { SessionError } from "rpc-session";
import {
  type Clock,
  cookieTokens,
  createSessionClient,
  memoryTokens,
  type SessionClientEvent,
} from "rpc-session/client";
import { sessionFetch } from "rpc-session/client/fetch";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

/** A request that the plain handler received. */
interface Received {
  readonly method: string | undefined;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: string;
  readonly user: string | undefined;
}

async function listen(server: http.Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://localhost:${(server.address() as AddressInfo).port}`;
}

/** @param clientClock the clock of the client, if it is not that of the server */
async function world(via: TokenTransport, clientClock?: Clock) {
  const clock = createFakeClock();
  const server = http.createServer();
  const origin = await listen(server);
  const sessions = testSessions({
    ...{ issuer: origin, clock, public: [NotesService.method.signIn] },
    browserHeaderTransport: true,
  });
  const received: Received[] = [];
  const rpcs = connectNodeAdapter(
    sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async signIn({ user }, context) {
            await sessions.create(context, { userId: user });
            return {};
          },
        }),
    }),
  );
  const plain = async (request: http.IncomingMessage, response: http.ServerResponse) => {
    let body = "";
    for await (const chunk of request) {
      body += String(chunk);
    }
    const { method, headers } = request;
    const responseHeader = new Headers();
    let [status, user] = [200, undefined as string | undefined];
    try {
      const session = await sessions.getSession({
        requestHeader: new Headers(
          Object.entries(headers).flatMap(([name, value]) =>
            typeof value === "string" ? [[name, value] as [string, string]] : [],
          ),
        ),
        responseHeader,
        requestMethod: method ?? "GET",
      });
      user = session.userId;
    } catch (error) {
      status = error instanceof SessionError && error.kind === "unavailable" ? 503 : 401;
    }
    received.push({ method, headers, body, user });
    if (request.url === "/moved") {
      [status] = [302];
      responseHeader.set("location", "http://127.0.0.1:9/");
    }
    response.writeHead(status, [...responseHeader].flat());
    response.end(`${user}:${body}`);
  };
  server.on("request", (request, response) => {
    if (request.url?.includes(".v1.")) {
      rpcs(request, response);
    } else {
      void plain(request, response);
    }
  });

  // What a browser does with the cookies of its page.
  const jar = new Map<string, string>();
  const send: typeof fetch = async (input, init) => {
    const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : {}));
    headers.set("sec-fetch-site", "same-origin");
    if (init?.credentials === "include") {
      headers.set("cookie", [...jar].map(([name, value]) => `${name}=${value}`).join("; "));
    }
    const { credentials: _, ...rest } = init ?? {};
    const response = await fetch(input, { ...rest, headers });
    for (const cookie of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
      if (value === "") {
        jar.delete(name);
      } else {
        jar.set(name, value);
      }
    }
    return response;
  };
  const events: SessionClientEvent[] = [];
  const session = createSessionClient({
    transport: (parts) =>
      createConnectTransport({
        ...{ baseUrl: origin, ...parts },
        fetch: (input, init) =>
          send(input, { ...init, credentials: via === "cookie" ? "include" : "omit" }),
      }),
    tokens: via === "cookie" ? cookieTokens() : memoryTokens(),
    clock: clientClock ?? clock,
    onEvent: (event) => events.push(event),
  });
  onTestFinished(() => session.close());
  await createClient(NotesService, session.transport).signIn({ user: "ada" });
  const refreshes = () => events.filter(({ type }) => type === "refreshed").length;
  return {
    ...{ origin, clock, sessions, session, received, send, jar, refreshes, events },
    fetch: sessionFetch(session, { baseUrl: origin, fetch: send }),
  };
}

describe.each(["header", "cookie"] as const)("sessionFetch, %s mode", (via) => {
  it("feat:P16 carries the session of the client, and none without it", async () => {
    const { fetch, received, origin, send } = await world(via);
    const response = await fetch("/files", { method: "POST", body: "data" });
    expect([response.status, await response.text()]).toEqual([200, "ada:data"]);
    expect((await send(`${origin}/files`)).status).toBe(401);
    expect(received.map(({ user }) => user)).toEqual(["ada", undefined]);
    expect(received[0]?.headers.authorization === undefined).toBe(via === "cookie");
  });

  it("feat:P16 waits for a refresh if the token has expired, once for all requests", async () => {
    const { fetch, clock, refreshes, received } = await world(via);
    clock.advance("16m");
    const responses = await Promise.all([fetch("/a"), fetch("/b"), fetch("/c")]);
    expect(responses.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect([refreshes(), received.length]).toEqual([1, 3]);
  });

  const bodies: Record<string, () => BodyInit> = {
    "a string": () => "data",
    "a Blob": () => new Blob(["data"]),
    "an ArrayBuffer": () => new TextEncoder().encode("data").buffer,
    "a view": () => new TextEncoder().encode("data"),
    URLSearchParams: () => new URLSearchParams({ data: "" }),
    FormData: () => {
      const form = new FormData();
      form.set("name", "data");
      return form;
    },
  };
  it.each(Object.keys(bodies))(
    "feat:P16 is sent again with its body after a refused token: %s",
    async (name) => {
      const { fetch, session, clock, refreshes, received } = await world(via, createFakeClock());
      // The client's clock stands still, so it does not know that the token has expired.
      clock.advance("16m");
      const response = await fetch("/files", { method: "PUT", body: bodies[name]?.() ?? null });
      expect(response.status).toBe(200);
      expect(await response.text()).toContain("data");
      expect(received.map(({ user, method }) => [user, method])).toEqual([
        [undefined, "PUT"],
        ["ada", "PUT"],
      ]);
      expect([refreshes(), session.state.status]).toEqual([1, "signedIn"]);
    },
  );

  it("feat:P16 refreshes ahead of a body that can be sent only once, and does not send it again", async () => {
    const { fetch, clock, refreshes, received } = await world(via);
    const body = new Blob(["data"]).stream();
    clock.advance("16m");
    const response = await fetch("/files", { method: "POST", body, duplex: "half" } as object);
    expect([response.status, refreshes(), received.length]).toEqual([200, 1, 1]);
  });

  it("feat:P16 does not send a Request with a body again, but refreshes for the next one", async () => {
    const { fetch, clock, refreshes, received, origin } = await world(via, createFakeClock());
    clock.advance("16m");
    const request = new Request(`${origin}/files`, { method: "POST", body: "data" });
    expect([(await fetch(request)).status, received.length]).toEqual([401, 1]);
    await vi.waitFor(() => expect(refreshes()).toBe(1));
    expect((await fetch(new Request(`${origin}/files`))).status).toBe(200);
  });

  it("feat:P16 returns the refusal if the session is over, and the state says so", async () => {
    const { fetch, session, sessions } = await world(via);
    await sessions.revokeAll({ userId: "ada" });
    const response = await fetch("/files");
    expect(response.status).toBe(401);
    await vi.waitFor(() => expect(session.state.status).toBe("signedOut"));
  });

  it("feat:P16 rejects with Unavailable if a refresh is necessary and the service is down", async () => {
    const { fetch, clock, session, origin } = await world(via);
    clock.advance("16m");
    const down = sessionFetch(session, {
      baseUrl: origin,
      fetch: async () =>
        new Response(null, { status: 401, headers: { "rpcsession-hint": "refresh" } }),
    });
    vi.stubGlobal("fetch", async () => {
      throw new TypeError("fetch failed");
    });
    onTestFinished(() => void vi.unstubAllGlobals());
    await expect(down("/files")).rejects.toMatchObject({ code: Code.Unavailable });
    await expect(fetch("/files")).rejects.toThrow();
    expect(session.state.status).toBe("signedIn");
  });

  it("feat:P16 sec:C27 sends nothing of the session to other origins", async () => {
    const { session, origin } = await world(via);
    const sent: (readonly [string, RequestInit | undefined])[] = [];
    const fetch = sessionFetch(session, {
      baseUrl: `${origin}/api/`,
      origins: ["https://files.example.com"],
      fetch: async (input, init) => {
        sent.push([input instanceof Request ? input.url : String(input), init]);
        return new Response();
      },
    });
    for (const url of [
      "https://evil.example/",
      "http://localhost.evil.example/",
      "//evil.example/x",
      origin.replace("http:", "https:"),
      "https://files.example.com:444/",
      // As a link element of a page and the URL of another realm: `fetch` reads them as strings.
      { toString: () => "https://evil.example/link" } as URL,
    ]) {
      await fetch(url, { method: "POST" });
    }
    expect(sent.at(-1)?.[0]).toBe("https://evil.example/link");
    for (const [, init] of sent.splice(0)) {
      expect(init).toEqual({ method: "POST" });
    }
    for (const url of ["x", "/x", new URL(`${origin}/x`), "https://files.example.com/x"]) {
      await fetch(url);
    }
    expect(sent.map(([url]) => url.replace(origin, ""))).toEqual([
      ...["/api/x", "/x", "/x", "https://files.example.com/x"],
    ]);
    for (const [, init] of sent) {
      expect(init?.credentials).toBe(via === "cookie" ? "include" : "omit");
      expect(init?.redirect).toBe("manual");
      expect(new Headers(init?.headers).get("rpcsession-transport")).toBe(via);
    }
  });

  it("feat:P16 refuses redirects unless the call allows them", async () => {
    const { fetch } = await world(via);
    await expect(fetch("/moved")).rejects.toThrow(TypeError);
    expect((await fetch("/moved", { redirect: "manual" })).status).toBe(302);
  });

  it("feat:P16 feat:P15 keeps an authorization header of the caller, without refresh and retry", async () => {
    const { fetch, received, refreshes, session } = await world(via);
    const headers = { authorization: "Bearer key-1" };
    expect((await fetch("/files", { headers })).status).toBe(401);
    expect(received.map((one) => one.headers.authorization)).toEqual(["Bearer key-1"]);
    expect([refreshes(), session.state.status]).toEqual([0, "signedIn"]);
  });

  it("feat:P16 ends with the reason of its signal", async () => {
    const { fetch } = await world(via);
    const reason = new Error("left the page");
    await expect(fetch("/files", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

it("feat:P16 takes up new tokens that a response brings", async () => {
  const { fetch, session, sessions } = await world("header");
  const id = session.state.sessionId ?? "";
  await sessions.updateClaims(id, { role: "admin" });
  expect((await fetch("/files", { method: "POST" })).status).toBe(200);
  await vi.waitFor(() => expect(session.state.status).toBe("signedIn"));
});

it("feat:P16 rejects invalid options with a message that says what to pass", async () => {
  const { session, origin } = await world("header");
  const make = (options: unknown) => () => sessionFetch(session, options as { baseUrl: string });
  expect(make({})).toThrow("baseUrl must be the http or https address of the service");
  expect(make(undefined)).toThrow("baseUrl must be");
  expect(make({ baseUrl: "/relative" })).toThrow("baseUrl must be");
  expect(make({ baseUrl: "file:///x" })).toThrow("baseUrl must be");
  expect(make({ baseUrl: origin, origins: ["https://a.example/path"] })).toThrow("list origins");
  expect(make({ baseUrl: origin, fetch: 1 })).toThrow("fetch must be a function");
  expect(make({ baseUrl: origin, base: 1 })).toThrow(/base/);
  const own = { ...session };
  expect(() => sessionFetch(own, { baseUrl: origin })).toThrow("createSessionClient");
});
