// The unchanged SDKs of SuperTokens in Chromium and Firefox, on a server with rpc-session.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { SessionEvent, SessionsOptions } from "rpc-session";
import { superTokens } from "rpc-session/compat/supertokens";
import { createFakeClock, type JsonObject, testSessions } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { engines, type RunningEngine, type Tab, waitFor } from "../browser/engines.ts";
import { App, skipApps } from "./app.ts";
import { bundlePage } from "./bundle-page.ts";

// WebKit keeps no Secure cookies of http://localhost.
const browsers = engines.filter(({ traits }) => traits.secureOnLocalhost);

/** What test/apps/supertokens/page.js puts into the page. */
interface Sdk {
  readonly session: {
    doesSessionExist(): Promise<boolean>;
    getUserId(): Promise<string>;
    getAccessTokenPayloadSecurely(): Promise<Record<string, unknown>>;
    signOut(): Promise<void>;
  };
  readonly notes: {
    signIn(request: object): Promise<unknown>;
    addNote(request: object): Promise<unknown>;
  };
  readonly ways: Readonly<Record<Way, () => Promise<unknown>>>;
  readonly events: string[];
  settle(work: Promise<unknown>): Promise<unknown>;
}
type Way = "connect" | "fetch" | "xhr" | "axios";
declare const st: Sdk;

const modes = ["cookie", "header"] as const;

describe.skipIf(skipApps).each(browsers)(
  "feat:P20 the SDKs of SuperTokens in $name $missing",
  ({ launch }) => {
    const it = launch === undefined ? test.skip : test;
    let browser: RunningEngine;
    let script: string;
    beforeAll(async () => {
      if (launch !== undefined) {
        const app = await App.install("supertokens");
        script = await bundlePage(app.folder);
        browser = await launch();
      }
    });
    afterAll(() => browser?.close());

    async function world(options: Partial<SessionsOptions> = {}) {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
      const issuer = `http://localhost:${(server.address() as AddressInfo).port}`;
      const events: SessionEvent["type"][] = [];
      const clock = createFakeClock(Date.now());
      const sessions = testSessions({
        ...{ issuer, clock, browserHeaderTransport: true, public: [NotesService.method.signIn] },
        clientClaims: ({ role }: JsonObject) => ({ role }),
        onEvent: ({ type }) => events.push(type),
        ...options,
      });
      const rpcs = connectNodeAdapter(
        sessions.protect({
          routes: (router) =>
            router.service(NotesService, {
              async signIn({ user }, ctx) {
                await sessions.create(ctx, { userId: user, claims: { role: "reader" } });
                return {};
              },
              listNotes: (_, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
              async addNote({ note }, ctx) {
                await sessions.require(ctx).updateClaims({ role: note?.text ?? "" });
                return {};
              },
            }),
        }),
      );
      const state = {
        ...{ down: false, offline: false, refreshes: 0, refused: 0 },
        /** Refreshes wait for it at the server. */
        held: Promise.resolve(),
      };
      const former = async (token: string) =>
        token === "former-refresh"
          ? {
              ...{ userId: "grace", claims: { role: "reader" } },
              externalId: { issuer: "supertokens", sid: "former-session" },
              createdAt: new Date(clock.now() - 60_000),
            }
          : undefined;
      const handle = superTokens(sessions, { issuer, former }).node(
        (request: IncomingMessage, response: ServerResponse) => {
          if (request.url?.startsWith("/former-")) {
            signInAtSuperTokens(request.url === "/former-cookie", response);
            return;
          }
          if (request.method === "GET") {
            const type = request.url === "/page.js" ? "text/javascript" : "text/html";
            response.setHeader("content-type", type);
            const page =
              '<!doctype html><title>ready</title><script type="module" src="/page.js"></script>';
            response.end(request.url === "/page.js" ? script : page);
            return;
          }
          rpcs(request, response);
        },
      );
      server.on("request", (request, response) => {
        if (state.offline) {
          request.socket.destroy();
          return;
        }
        if (request.url === "/auth/session/refresh") {
          state.refreshes += 1;
          if (state.down) {
            response.writeHead(503).end();
            return;
          }
          void state.held.then(() => handle(request, response));
          return;
        }
        response.once("finish", () => {
          state.refused += response.statusCode === 401 ? 1 : 0;
        });
        handle(request, response);
      });
      const visitor = await browser.visitor();
      onTestFinished(async () => {
        await visitor.close();
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
        await sessions.close();
      });
      const open = async (mode: string, sdk = "website") => {
        const page = await visitor.newTab();
        await page.goto(`${issuer}/?mode=${mode}&sdk=${sdk}`);
        await loaded(page);
        return page;
      };
      return { sessions, clock, events, state, open, visitor, issuer };
    }

    const loaded = (page: Tab) => waitFor(page, () => "st" in globalThis);
    const signIn = (page: Tab) => page.evaluate(() => st.notes.signIn({ user: "ada" }));
    const by = (page: Tab, way: Way) => page.evaluate((name: Way) => st.ways[name](), way);
    const exists = (page: Tab) => page.evaluate(() => st.session.doesSessionExist());
    const seen = (page: Tab) => page.evaluate(() => st.events);

    it.each(["website", "web-js"].flatMap((sdk) => modes.map((mode) => [sdk, mode] as const)))(
      "%s signs in, refreshes once for parallel calls of every kind, and signs out, by %s",
      async (sdk, mode) => {
        const { clock, state, open, events } = await world();
        const page = await open(mode, sdk);
        expect(await exists(page)).toBe(false);
        await signIn(page);
        expect(await exists(page)).toBe(true);
        expect(await page.evaluate(() => st.session.getUserId())).toBe("ada");
        for (const way of ["connect", "fetch", "xhr", "axios"] as const) {
          expect(await by(page, way)).toBe("ada");
        }
        state.refreshes = 0;
        clock.advance("20m");
        const answers = await page.evaluate(() =>
          Promise.all(
            Object.values(st.ways).flatMap((call) => [call(), call(), call(), call(), call()]),
          ),
        );
        expect(answers).toEqual(Array(20).fill("ada"));
        expect(state.refreshes).toBe(1);
        expect(await seen(page)).toContain("REFRESH_SESSION");
        await page.evaluate(() => st.session.signOut());
        expect(await exists(page)).toBe(false);
        expect(await seen(page)).toContain("SIGN_OUT");
        expect(await by(page, "fetch")).toBe(401);
        expect(events).not.toContain("theft");
      },
    );

    it.each(modes)("a payload change reaches the page at once, by %s", async (mode) => {
      const { open } = await world();
      const page = await open(mode);
      await signIn(page);
      const payload = () => page.evaluate(() => st.session.getAccessTokenPayloadSecurely());
      expect(await payload()).toMatchObject({ role: "reader", sub: "ada" });
      await page.evaluate(() => st.notes.addNote({ note: { text: "editor" } }));
      expect(await payload()).toMatchObject({ role: "editor", sub: "ada" });
      expect(await seen(page)).toContain("ACCESS_TOKEN_PAYLOAD_UPDATED");
    });

    /** Two tabs with an expired token. The refresh of the first is under way, and waits at the server. */
    async function twoTabs(mode: string) {
      const { clock, state, open, events } = await world();
      const one = await open(mode);
      await signIn(one);
      const two = await open(mode);
      // A use confirms the refresh token once it has settled, so the next refresh replaces it.
      clock.advance("5m");
      expect(await by(two, "fetch")).toBe("ada");
      clock.advance("20m");
      const { promise, resolve: release } = Promise.withResolvers<void>();
      Object.assign(state, { refreshes: 0, refused: 0, held: promise });
      const first = callEachWay(one);
      await expect.poll(() => state).toMatchObject({ refreshes: 1, refused: 3 });
      // The SDK's lock between tabs is in localStorage, which reaches the other tab a little later.
      await waitFor(two, (key) => localStorage.getItem(key) !== null, lockKey);
      return { one, two, state, events, first, release };
    }
    const lockKey = "browser-tabs-lock-key-REFRESH_TOKEN_USE";
    const callEachWay = (page: Tab) =>
      page.evaluate(() => Promise.all([st.ways.fetch(), st.ways.xhr(), st.ways.axios()]));

    it.each(modes)("two tabs share one refresh and one sign-out, by %s", async (mode) => {
      const { one, two, state, first, release } = await twoTabs(mode);
      const second = callEachWay(two);
      await expect.poll(() => state.refused).toBe(6);
      release();
      expect(await Promise.all([first, second])).toEqual(Array(2).fill(Array(3).fill("ada")));
      expect(state.refreshes).toBe(1);
      await one.evaluate(() => st.session.signOut());
      expect(await exists(two)).toBe(false);
    });

    // The lock of the SDK relies on pauses of 30 ms, so on a busy machine two tabs may both get it. Here the
    // second tab never sees the lock of the first.
    it.each(modes)("two tabs that refresh at once stay signed in, by %s", async (mode) => {
      const { one, two, state, events, first, release } = await twoTabs(mode);
      await two.evaluate((key) => {
        const shared = localStorage;
        const own = (name: string) => (name === key ? "the lock of this tab" : name);
        Object.defineProperty(globalThis, "localStorage", {
          value: {
            key: (index: number) => shared.key(index),
            getItem: (name: string) => shared.getItem(own(name)),
            setItem: (name: string, value: string) => shared.setItem(own(name), value),
            removeItem: (name: string) => shared.removeItem(own(name)),
          },
        });
      }, lockKey);
      const second = callEachWay(two);
      await expect.poll(() => state).toMatchObject({ refreshes: 2, refused: 6 });
      release();
      expect(await Promise.all([first, second])).toEqual(Array(2).fill(Array(3).fill("ada")));
      expect(state.refreshes).toBe(2);
      expect(events).not.toContain("theft");
      await one.evaluate(() => st.session.signOut());
      expect(await exists(two)).toBe(false);
    });

    it("anti-CSRF tokens are kept, sent, and renewed when they are lost", async () => {
      const { open } = await world({ antiCsrf: "token" });
      const page = await open("cookie");
      await signIn(page);
      for (const way of ["connect", "fetch", "xhr", "axios"] as const) {
        expect(await by(page, way)).toBe("ada");
      }
      await page.evaluate(() => {
        // biome-ignore lint/suspicious/noDocumentCookie: the SDK keeps it there
        document.cookie = "sAntiCsrf=; expires=Thu, 01 Jan 1970 00:00:00 GMT; path=/";
      });
      await page.reload();
      await loaded(page);
      expect(await by(page, "fetch")).toBe("ada");
    });

    it.each(modes)("a refused claim is the event API_INVALID_CLAIM, by %s", async (mode) => {
      const { open } = await world({
        methods: { "notes.v1.NotesService/ListNotes": { claims: { role: ["admin"] } } },
      });
      const page = await open(mode);
      await signIn(page);
      expect(await by(page, "fetch")).toBe(403);
      expect(await seen(page)).toContain("API_INVALID_CLAIM");
      expect(await exists(page)).toBe(true);
    });

    it.each(modes)(
      "an outage and a lost network during a refresh keep the session, by %s",
      async (mode) => {
        const { clock, state, open } = await world();
        const page = await open(mode);
        await signIn(page);
        clock.advance("20m");
        state.down = true;
        expect(await by(page, "fetch")).toBe(503);
        state.offline = true;
        expect(await page.evaluate(() => st.settle(st.ways.fetch()))).not.toBe("ada");
        state.offline = false;
        state.down = false;
        expect(await by(page, "fetch")).toBe("ada");
      },
    );

    it.each(modes)(
      "a session that SuperTokens issued is traded without a sign-in, by %s",
      async (mode) => {
        const { open, state } = await world();
        const page = await open(mode);
        await page.evaluate(async (path) => {
          await fetch(path);
        }, `/former-${mode}`);
        expect(await page.evaluate(() => st.session.getUserId())).toBe("grace");
        state.refreshes = 0;
        const answers = await page.evaluate(() =>
          Promise.all([st.ways.fetch(), st.ways.xhr(), st.ways.axios(), st.ways.connect()]),
        );
        expect(answers).toEqual(Array(4).fill("grace"));
        expect(state.refreshes).toBe(1);
        await page.reload();
        await loaded(page);
        expect(await by(page, "fetch")).toBe("grace");
        await page.evaluate(() => st.session.signOut());
        expect(await by(page, "fetch")).toBe(401);
      },
    );

    it("in cookie mode a page whose storage was cleared finds its session again", async () => {
      const { open } = await world();
      const page = await open("cookie");
      await signIn(page);
      await page.evaluate(() => {
        for (const cookie of document.cookie.split("; ")) {
          // biome-ignore lint/suspicious/noDocumentCookie: the SDK keeps its storage there
          document.cookie = `${cookie.split("=")[0]}=; expires=Thu, 01 Jan 1970 00:00:00 GMT; path=/`;
        }
        localStorage.clear();
      });
      await page.reload();
      await loaded(page);
      expect(await exists(page)).toBe(true);
      expect(await by(page, "fetch")).toBe("ada");
    });

    it.each(modes)("a stolen refresh token ends the session of both, by %s", async (mode) => {
      const { clock, open, visitor, events, issuer } = await world();
      const page = await open(mode);
      await signIn(page);
      // Script of the page can read the token of header mode, the thief of a jar that of cookie mode.
      const stolen = await visitor.cookies(issuer);
      for (let i = 0; i < 4; i++) {
        clock.advance("20m");
        expect(await by(page, "fetch")).toBe("ada");
        clock.advance("2m");
        expect(await by(page, "fetch")).toBe("ada");
        clock.advance("10s");
      }
      const token = stolen.find(({ name }) =>
        mode === "cookie" ? name.includes("rpcsession-refresh") : name === "st-refresh-token",
      );
      expect(token).toBeDefined();
      const refreshed = await fetch(`${issuer}/auth/session/refresh`, {
        method: "POST",
        headers: {
          ...{ "st-auth-mode": mode, rid: "session", "sec-fetch-site": "same-origin" },
          ...(mode === "cookie"
            ? { cookie: `${token?.name}=${token?.value}` }
            : { authorization: `Bearer ${token?.value}` }),
        },
      });
      expect(refreshed.status).toBe(401);
      expect(events).toContain("theft");
      expect(await by(page, "fetch")).toBe(401);
      expect(await exists(page)).toBe(false);
    });
  },
);

/** Answers as SuperTokens does after a sign-in. */
function signInAtSuperTokens(byCookie: boolean, response: ServerResponse): void {
  const now = Math.round(Date.now() / 1000);
  const front = { uid: "grace", ate: (now + 3600) * 1000, up: { iat: now, exp: now + 3600 } };
  response.setHeader("front-token", Buffer.from(JSON.stringify(front)).toString("base64"));
  if (byCookie) {
    response.setHeader("set-cookie", [
      "sAccessToken=former-access; Path=/; HttpOnly; SameSite=Lax",
      "sRefreshToken=former-refresh; Path=/auth/session/refresh; HttpOnly; SameSite=Lax",
    ]);
  } else {
    response.setHeader("st-access-token", "former-access");
    response.setHeader("st-refresh-token", "former-refresh");
  }
  response.end("{}");
}
