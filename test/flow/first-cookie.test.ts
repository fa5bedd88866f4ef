import { type IncomingMessage, request, type ServerResponse } from "node:http";
import { CookieJar } from "tough-cookie";
import { expect, onTestFinished, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { realm, sameOrigin } from "../helpers/presented.ts";
import { startNotes } from "../helpers/server.ts";
import { callWire, type WireCall } from "../helpers/wire.ts";

const { signIn, addNote } = NotesService.method;
const { refresh } = SessionService.method;
const url = `${realm}/`;

/** A proxy in front of a port, which passes on only the first `Set-Cookie` while it is `lossy`. */
async function startProxy(port: number) {
  const proxy = { lossy: false, url: "" };
  const pass = (answer: IncomingMessage, response: ServerResponse): void => {
    const cookies = answer.headers["set-cookie"];
    const headers = { ...answer.headers };
    if (cookies !== undefined && proxy.lossy) {
      headers["set-cookie"] = cookies.slice(0, 1);
    }
    response.writeHead(answer.statusCode ?? 502, headers);
    answer.pipe(response);
  };
  proxy.url = await listenForTest((incoming, response) => {
    const { method, url: path, headers } = incoming;
    const outgoing = request({ host: "127.0.0.1", port, method, path, headers, agent: false });
    outgoing.on("response", (answer) => pass(answer, response));
    outgoing.on("error", () => response.destroy());
    incoming.pipe(outgoing);
  });
  return proxy;
}

/** A browser, and a notes service behind such a proxy. */
async function startWorld() {
  const server = await startNotes();
  onTestFinished(() => server.close());
  const proxy = await startProxy(server.port.h1);
  const target = { port: { h1: Number(new URL(proxy.url).port), h2c: 0 }, h2: () => server.h2() };
  const jar = new CookieJar(undefined, { allowSpecialUseDomain: true });
  const call = async (method: WireCall["method"]): Promise<string> => {
    const result = await callWire(
      target,
      { protocol: "connect-json", http: "h1" },
      {
        method,
        messages: [method === signIn ? { user: "alice" } : {}],
        headers: { ...sameOrigin, cookie: await jar.getCookieString(url) },
      },
    );
    for (const cookie of result.setCookie) {
      await jar.setCookie(cookie, url);
    }
    return result.code;
  };
  const { clock } = server.sessions;
  /** Lets the access token expire, refreshes, and makes calls until the next generation has settled. */
  const period = async (): Promise<readonly string[]> => {
    clock.advance("15m");
    const codes = [await call(addNote), await call(refresh), await call(addNote)];
    clock.advance("2m");
    codes.push(await call(addNote));
    clock.advance("1m");
    return [...codes, await call(addNote)];
  };
  return { proxy, jar, call, period };
}

const fine = ["unauthenticated", "ok", "ok", "ok", "ok"];

test("feat:D16 a proxy that passes on only the first Set-Cookie signs nobody out, through many refreshes", async () => {
  const { proxy, call, period } = await startWorld();
  expect(await call(signIn)).toBe("ok");
  proxy.lossy = true;
  for (let quarter = 0; quarter < 8; quarter++) {
    expect(await period()).toEqual(fine);
  }
});

test("refresh tokens rotate again once that proxy passes on both cookies", async () => {
  const { proxy, jar, call, period } = await startWorld();
  expect(await call(signIn)).toBe("ok");
  proxy.lossy = true;
  await period();
  await period();
  const stuck = await jar.getCookieString(url);
  proxy.lossy = false;
  expect(await period()).toEqual(fine);
  expect(await period()).toEqual(fine);
  expect(await jar.getCookieString(url)).not.toBe(stuck);
  // The refresh token from before is out of use: whoever presents it now has stolen it.
  for (const cookie of stuck.split("; ")) {
    await jar.setCookie(`${cookie}; Path=/; Secure; HttpOnly`, url);
  }
  expect(await call(refresh)).toBe("unauthenticated");
});
