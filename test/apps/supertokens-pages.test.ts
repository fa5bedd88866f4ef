// Cases of the test suite of supertokens-website, written again by what they show, and what old and new
// pages see of each other. The server is the one that docs/supertokens.md describes.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { cors as connectCors } from "@connectrpc/connect";
import { expressConnectMiddleware } from "@connectrpc/connect-express";
import express, { type Request, type Response } from "express";
import { createRemoteJWKSet, jwtVerify } from "jose";
import { type SessionsOptions, sessionCors } from "rpc-session";
import { superTokens, superTokensAnswer } from "rpc-session/compat/supertokens";
import { fromNode } from "rpc-session/http";
import { createFakeClock, type JsonObject, testSessions } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { engines, type RunningEngine, type Tab, waitFor } from "../browser/engines.ts";
import { App, skipApps } from "./app.ts";
import { bundlePage } from "./bundle-page.ts";

const browsers = engines.filter(({ traits }) => traits.secureOnLocalhost);
const modes = ["cookie", "header"] as const;
const ways = ["fetch", "xhr", "axios", "axios with interceptors"] as const;
const each = modes.flatMap((mode) => ways.map((way) => [mode, way] as const));

/** What test/apps/supertokens/page.js puts into the page. */
declare const st: {
  readonly session: {
    doesSessionExist(): Promise<boolean>;
    getUserId(): Promise<string>;
    getAccessToken(): Promise<string | undefined>;
    signOut(): Promise<void>;
  };
  readonly events: string[];
  request(way: string, url: string, init?: RequestOfPage): Promise<[status: number, body: string]>;
  own(): {
    load(): Promise<{ status: string; userId?: string }>;
    signOut(): Promise<void>;
    subscribe(listener: () => void): void;
  };
  ownNotes(): {
    signIn(request: object): Promise<unknown>;
    listNotes(request: object): Promise<{ notes: { text: string }[] }>;
  };
};
interface RequestOfPage {
  readonly method?: string;
  readonly body?: string;
  readonly baseURL?: string;
  readonly all?: boolean;
}

/** A page on the host of the service, or on another host of the same site. */
interface Where {
  readonly page: string;
  readonly api: string;
}
const oneHost: Where = { page: "app.example.com", api: "app.example.com" };
const twoHosts: Where = { page: "app.example.com", api: "api.example.com" };

describe.skipIf(skipApps).each(browsers)(
  "feat:P20 pages with an SDK of SuperTokens in $name $missing",
  ({ launch }) => {
    const it = launch === undefined ? test.skip : test;
    let browser: RunningEngine;
    let script: string;
    beforeAll(async () => {
      if (launch !== undefined) {
        script = await bundlePage((await App.install("supertokens")).folder);
        browser = await launch();
      }
    });
    afterAll(() => browser?.close());

    async function world(where: Where, options: Partial<SessionsOptions> = {}) {
      // 1. The sessions. Plain http, where browsers keep no Secure cookies.
      const app = express();
      const server = createServer(app);
      await new Promise<void>((resolve) => server.listen(0, resolve));
      const { port } = server.address() as AddressInfo;
      const page = `http://${where.page}:${port}`;
      const api = `http://${where.api}:${port}`;
      const issuer = `${api}/auth`;
      const clock = createFakeClock(Date.now());
      const sessions = testSessions({
        ...{ issuer, clock, origins: [page], browserHeaderTransport: true },
        ...{ cookies: { insecure: true }, public: [NotesService.method.signIn] },
        clientClaims: ({ role }: JsonObject) => ({ role }),
        ...options,
      });

      // 2. The page, CORS, and the preset in front of everything else.
      const seen = { refreshes: 0 };
      app.use((req, res, next) => {
        if (req.method === "POST" && req.path === "/auth/session/refresh") {
          res.on("finish", () => {
            seen.refreshes += res.statusCode === 200 ? 1 : 0;
          });
        }
        next();
      });
      app.get("/page", (_, res) => {
        res.send('<!doctype html><title>x</title><script type="module" src="/page.js"></script>');
      });
      app.get("/page.js", (_, res) => {
        res.type("js").send(script);
      });
      const compat = superTokens(sessions, { issuer });
      const lists = compat.cors(sessionCors({ ...connectCors, allowedOrigins: [page] }));
      app.use((req, res, next) => {
        if (req.headers.origin === page && page !== api) {
          res.set("access-control-allow-origin", page).vary("origin");
          res.set("access-control-allow-credentials", "true");
          res.set("access-control-expose-headers", lists.exposedHeaders.join(", "));
        }
        if (req.method !== "OPTIONS") {
          next();
          return;
        }
        res.set("access-control-allow-methods", lists.allowedMethods.join(", "));
        res.set("access-control-allow-headers", lists.allowedHeaders.join(", ")).sendStatus(204);
      });
      app.use(compat.middleware);

      // 3. The handlers and the RPCs.
      app.use(express.json());
      const handle = (work: (req: Request, res: Response) => Promise<void>) => {
        return (req: Request, res: Response) =>
          work(req, res).catch((error: unknown) => {
            const { status, body } = superTokensAnswer(error);
            res.status(status).json(body);
          });
      };
      const signIn = handle(async (req, res) => {
        const { userId } = req.body as { userId: string };
        await sessions.create(fromNode(req, res), { userId, claims: { role: "reader" } });
        res.send(userId);
      });
      app.post("/login", signIn);
      const me = handle(async (req, res) => {
        res.send((await sessions.getSession(fromNode(req, res))).userId);
      });
      app.get("/me", me);
      const signOut = handle(async (req, res) => {
        await (await sessions.getSession(fromNode(req, res))).revoke();
        res.send("success");
      });
      app.post("/logout", signOut);
      app.use(
        expressConnectMiddleware(
          sessions.protect({
            routes: (router) =>
              router.service(NotesService, {
                async signIn({ user }, ctx) {
                  await sessions.create(ctx, { userId: user });
                  return {};
                },
                listNotes: (_, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
              }),
          }),
        ),
      );

      // 4. A browser.
      const visitor = await browser.visitor();
      onTestFinished(async () => {
        await visitor.close();
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
        await sessions.close();
      });
      const open = async (mode: string, { sdk = "website", apiDomain = api } = {}) => {
        const tab = await visitor.newTab();
        await tab.goto(`${page}/page?mode=${mode}&sdk=${sdk}&api=${apiDomain}`);
        await waitFor(tab, () => "st" in globalThis);
        return tab;
      };
      return { sessions, clock, seen, api, issuer, open };
    }

    const body = JSON.stringify({ userId: "ada" });
    const ask = (tab: Tab, way: string, url: string, init: RequestOfPage = {}) =>
      tab.evaluate(
        (...args: [string, string, RequestOfPage]) => st.request(...args),
        way,
        url,
        init,
      );
    const login = (tab: Tab, way: string, url: string, init: RequestOfPage = {}) =>
      ask(tab, way, url, { method: "POST", body, ...init });
    const exists = (tab: Tab) => tab.evaluate(() => st.session.doesSessionExist());
    const userId = (tab: Tab) => tab.evaluate(() => st.session.getUserId());

    it.each(each)(
      "on another host, signs in, refreshes once and signs out, by %s and %s",
      async (mode, way) => {
        const { clock, seen, api, open } = await world(twoHosts);
        const tab = await open(mode);
        expect(await login(tab, way, `${api}/login`)).toEqual([200, "ada"]);
        expect(await exists(tab)).toBe(true);
        expect(seen.refreshes).toBe(0);
        clock.advance("20m");
        expect(await ask(tab, way, `${api}/me`)).toEqual([200, "ada"]);
        expect(seen.refreshes).toBe(1);
        expect(await ask(tab, way, `${api}/logout`, { method: "POST" })).toEqual([200, "success"]);
        expect(await exists(tab)).toBe(false);
      },
    );

    it.each(["fetch", "xhr"])(
      "on another host without credentials, no cookie is kept, by %s",
      async (way) => {
        const { seen, api, open } = await world(twoHosts);
        const tab = await open("cookie", { sdk: "without-credentials" });
        expect(await login(tab, way, `${api}/login`)).toEqual([200, "ada"]);
        expect(await exists(tab)).toBe(true); // it has the front-token
        expect((await ask(tab, way, `${api}/me`))[0]).toBe(401);
        expect(await exists(tab)).toBe(false);
        // The application sends them itself.
        const all = { all: true };
        expect(await login(tab, way, `${api}/login`, all)).toEqual([200, "ada"]);
        expect(await ask(tab, way, `${api}/me`, all)).toEqual([200, "ada"]);
        expect(seen.refreshes).toBe(0);
        await ask(tab, way, `${api}/logout`, { method: "POST", ...all });
        expect(await exists(tab)).toBe(false);
      },
    );

    it.each(each)("by relative URLs on its own host, by %s and %s", async (mode, way) => {
      const { clock, seen, api, open } = await world(oneHost);
      const tab = await open(mode);
      expect(await login(tab, way, "/login")).toEqual([200, "ada"]);
      expect(await exists(tab)).toBe(true);
      clock.advance("20m");
      expect(await ask(tab, way, "me")).toEqual([200, "ada"]);
      expect(await ask(tab, way, "/me", { baseURL: api })).toEqual([200, "ada"]);
      expect(seen.refreshes).toBe(1);
    });

    it.each(each)(
      "leaves relative URLs alone if the API is elsewhere, by %s and %s",
      async (mode, way) => {
        const { open } = await world(oneHost);
        const tab = await open(mode, { apiDomain: "http://partner.test:1" });
        expect(await login(tab, way, "/login")).toEqual([200, "ada"]);
        expect(await exists(tab)).toBe(false);
      },
    );

    it.each(modes)(
      "a sign-in that the SDK does not intercept is one of a page, in cookies, by %s",
      async (mode) => {
        const { open } = await world(oneHost);
        const tab = await open(mode);
        const url = "/login#superTokensDoNotDoInterception";
        expect(await login(tab, "fetch", url)).toEqual([200, "ada"]);
        // The SDK does not know of it, asks once, and finds the session in the cookies.
        expect(await exists(tab)).toBe(true);
        expect(await userId(tab)).toBe("ada");
      },
    );

    it.each(modes)(
      "a new signing key changes nothing, and a retired one costs one refresh, by %s",
      async (mode) => {
        const { sessions, clock, seen, api, open } = await world(oneHost, {
          lifetimes: { access: "1h" },
        });
        const tab = await open(mode);
        await login(tab, "fetch", `${api}/login`);
        const [old] = await sessions.keys.list();
        await sessions.keys.rotate();
        clock.advance("20m"); // the new key signs, the token of the old one is still valid
        const me = () =>
          tab.evaluate(
            (url) => Promise.all([...Array(20)].map(() => st.request("fetch", url))),
            `${api}/me`,
          );
        expect(await me()).toEqual(Array(20).fill([200, "ada"]));
        expect(seen.refreshes).toBe(0);
        await sessions.keys.retire(old?.kid ?? "");
        clock.advance("30s"); // every server has read it
        expect(await me()).toEqual(Array(20).fill([200, "ada"]));
        expect(seen.refreshes).toBe(1);
        expect(await exists(tab)).toBe(true);
      },
    );

    it("the issuer of an access token leads to the keys that verify it", async () => {
      const { api, issuer, open } = await world(twoHosts);
      const tab = await open("header");
      await login(tab, "fetch", `${api}/login`);
      const token = (await tab.evaluate(() => st.session.getAccessToken())) ?? "";
      const { iss } = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());
      expect(iss).toBe(issuer);
      // The page reads the discovery document, which CORS allows for everyone.
      const [status, document] = await ask(tab, "fetch", `${iss}/.well-known/openid-configuration`);
      expect(status).toBe(200);
      const { jwks_uri } = JSON.parse(document);
      // Only the browser knows the host.
      const keys = createRemoteJWKSet(new URL(jwks_uri.replace(twoHosts.api, "localhost")));
      const { payload } = await jwtVerify(token, keys, { issuer });
      expect(payload.sub).toBe("ada");
    });

    it("hears from its next call that a page with our client has signed in somebody else", async () => {
      const { api, open } = await world(oneHost);
      const old = await open("cookie");
      await login(old, "fetch", `${api}/login`);
      expect(await userId(old)).toBe("ada");
      const fresh = await open("cookie", { sdk: "none" });
      await fresh.evaluate(() => st.ownNotes().signIn({ user: "bob" }));
      expect(await ask(old, "fetch", `${api}/me`)).toEqual([200, "bob"]);
      expect(await userId(old)).toBe("bob");

      // The other direction: our client is told as well.
      await old.evaluate(() => st.session.signOut());
      await fresh.evaluate(() =>
        st
          .ownNotes()
          .listNotes({})
          .catch(() => {}),
      );
      expect((await fresh.evaluate(() => st.own().load())).status).toBe("signedOut");
      // The SDK has signed out, and takes itself for signed out until a call.
      await fresh.evaluate(() => st.ownNotes().signIn({ user: "eve" }));
      expect(await exists(old)).toBe(false);
      expect(await ask(old, "fetch", `${api}/me`)).toEqual([200, "eve"]);
      expect(await exists(old)).toBe(true);
    });

    it.each([
      ["one host", oneHost],
      ["two hosts", twoHosts],
    ])("asks the service after a new page has removed its marker, on %s", async (_, where) => {
      const { api, open } = await world(where);
      const old = await open("cookie");
      await login(old, "fetch", `${api}/login`);
      const fresh = await open("cookie", { sdk: "none" });
      await fresh.evaluate(() =>
        st.own().subscribe(() => {
          // biome-ignore lint/suspicious/noDocumentCookie: the SDK keeps it there
          document.cookie = "st-last-access-token-update=; Max-Age=0; Path=/";
        }),
      );
      await fresh.evaluate(() => st.ownNotes().signIn({ user: "bob" }));
      expect(await userId(old)).toBe("bob");
      await fresh.evaluate(() => st.own().signOut());
      expect(await exists(old)).toBe(false);
      await fresh.evaluate(() => st.ownNotes().signIn({ user: "eve" }));
      expect(await exists(old)).toBe(true);
      expect(await userId(old)).toBe("eve");
    });

    it.each([
      ["one host", oneHost],
      ["two hosts", twoHosts],
    ])("runs beside our client in one page, on %s", async (_, where) => {
      const { clock, api, open } = await world(where, { antiCsrf: "token" });
      const tab = await open("cookie");
      await login(tab, "fetch", `${api}/login`);
      expect(await tab.evaluate(() => st.own().load())).toMatchObject({ userId: "ada" });
      await tab.evaluate(() => st.ownNotes().signIn({ user: "bob" }));
      expect(await userId(tab)).toBe("bob");
      for (let i = 0; i < 2; i++) {
        clock.advance("20m");
        const listed = await tab.evaluate(() => st.ownNotes().listNotes({}));
        expect(listed.notes[0]?.text).toBe("bob");
        expect(await ask(tab, "fetch", `${api}/me`)).toEqual([200, "bob"]);
      }
      await tab.evaluate(() => st.own().signOut());
      expect(await exists(tab)).toBe(false);
    });
  },
);
