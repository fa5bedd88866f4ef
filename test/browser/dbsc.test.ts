// Sessions that are bound to a real browser: Chromium with Device Bound Session Credentials (DBSC) and keys
// in software. It needs https, and a certificate that it believes.
import { createHash, X509Certificate } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import type { SessionEvent } from "rpc-session";
import { dbscFallback } from "rpc-session/http";
import { testSessions } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { notesApp } from "../helpers/notes.ts";
import { until } from "./engines.ts";
import { bundlePage, startApi, startPages } from "./servers.ts";

const refreshPath = "/rpcsession.v1.SessionService/Refresh";
const proofCookie = /^__Http-rpcsession-proof/;
const held = ["/dbsc/refresh 403", "/dbsc/refresh 200", `${refreshPath} 200`];
const fixture = (name: string) => readFileSync(join(import.meta.dirname, "../fixtures", name));
const folder = process.env.DBSC_CHROMIUM ?? "";
const executablePath = join(folder, "usr/lib/chromium/chromium");
const isMissing = folder === "" || !existsSync(executablePath);
const how =
  "run sh tools/get-chromium.sh ./chromium on Debian, and set DBSC_CHROMIUM to ./chromium";
if (isMissing) {
  console.warn(`The tests with a bound browser are skipped, because it is missing: ${how}.`);
}

/** The keys are in software, because a test machine has no security chip. */
const softwareKeys = "EnableBoundSessionCredentialsSoftwareKeysForManualTesting";

/** @param quota whether the browser limits proofs in a row, as it does for its users */
function launch(quota = false) {
  const features = [`DeviceBoundSessions:RefreshQuota/${quota}`, softwareKeys];
  const { publicKey } = new X509Certificate(fixture("localhost.crt"));
  const spki = createHash("sha256").update(publicKey.export({ type: "spki", format: "der" }));
  return chromium.launch({
    executablePath,
    args: [
      `--enable-features=${features.join()}`,
      // Ignoring all errors of certificates would switch DBSC off.
      `--ignore-certificate-errors-spki-list=${spki.digest("base64")}`,
      "--host-resolver-rules=MAP app.example.com 127.0.0.1,MAP api.example.com 127.0.0.1",
    ],
    env: {
      ...(process.env as Record<string, string>),
      LD_LIBRARY_PATH: readFileSync(join(folder, "ldpath"), "utf8").trim(),
    },
  });
}

describe.skipIf(isMissing)(
  `a bound browser${isMissing ? `, which is missing: ${how}` : ""}`,
  () => {
    let browser: Awaited<ReturnType<typeof launch>>;
    let script: string;
    beforeAll(async () => {
      [browser, script] = await Promise.all([launch(), bundlePage()]);
    });
    afterAll(() => browser?.close());

    async function open(within = browser) {
      // 1. A service with its own page.
      const log: string[] = [];
      const events: SessionEvent[] = [];
      const server = createServer({
        cert: fixture("localhost.crt"),
        key: fixture("localhost.key"),
      });
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const origin = `https://localhost:${(server.address() as AddressInfo).port}`;
      const sessions = testSessions({
        issuer: origin,
        public: [NotesService.method.signIn],
        onEvent: (event) => events.push(event),
      });
      const adapter = connectNodeAdapter({
        ...sessions.protect({ routes: notesApp(sessions).routes }),
        fallback: dbscFallback(sessions),
      });
      /** An answer in place of the service, by path; "lost" cuts the connection once the service has answered. */
      const faults = new Map<string, number | "lost">();
      server.on("request", (request, response) => {
        const path = request.url?.split("?")[0] ?? "";
        if (path === "/" || path === "/app.js") {
          const type = path === "/" ? "text/html" : "text/javascript";
          response.writeHead(200, { "content-type": type });
          response.end(path === "/" ? pageOf(origin) : script);
          return;
        }
        response.on("finish", () => log.push(`${path} ${response.statusCode}`));
        const fault = faults.get(path);
        if (typeof fault === "number") {
          response.writeHead(fault).end();
          return;
        }
        if (fault === "lost") {
          faults.delete(path);
          response.writeHead = () => {
            response.destroy();
            return response;
          };
        }
        adapter(request, response);
      });

      // 2. A browser without history, and what it says about its bindings.
      const context = await within.newContext();
      onTestFinished(async () => {
        await context.close();
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
        await sessions.close();
      });
      const page = await visit(context, origin);
      const said: string[] = [];
      const devtools = await context.newCDPSession(page);
      devtools.on("Network.deviceBoundSessionEventOccurred" as never, (event: object) =>
        said.push(JSON.stringify(event)),
      );
      await devtools.send("Network.enable");
      await devtools.send("Network.enableDeviceBoundSessions" as never, { enable: true } as never);
      const take = () => log.splice(0).filter((line) => !line.startsWith("/favicon"));

      /** Signs in, and waits until the browser has registered its key. */
      const signIn = async (tab: Page) => {
        await tab.evaluate(async () => {
          await app.notes.signIn({ user: "alice", password: "correct horse" });
        });
        await until(() => log.includes("/dbsc/register 200"), `a registration; ${said.join("\n")}`);
        await until(() => said.some((one) => one.includes('"fetchResult":"Success"')), said.join());
        await use(tab);
        take();
      };
      /** Makes the present refresh token old enough to advance. */
      const use = async (tab: Page) => {
        sessions.clock.advance("61s");
        await tab.evaluate(async () => void (await app.notes.listNotes({})));
        sessions.clock.advance("61s");
      };
      const boundIn = async () => {
        const { sessions: found } = await sessions.list({ userId: "alice" });
        return found.map(({ device }) => device.bound);
      };
      return { origin, context, page, sessions, events, faults, take, signIn, use, boundIn };
    }

    const visit = async (context: BrowserContext, origin: string) => {
      const page = await context.newPage();
      await page.goto(origin);
      await page.waitForFunction(() => "app" in globalThis);
      return page;
    };

    const refresh = (tab: Page) =>
      tab.evaluate(() =>
        app.session.refresh().then(
          () => "refreshed",
          (error: Error) => `${app.session.state.status}: ${error.message}`,
        ),
      );

    test("feat:S11 registers, proves its key before each refresh, and holds no other call", async () => {
      const { page, context, origin, take, signIn, use, boundIn, events } = await open();
      await signIn(page);
      expect(await boundIn()).toEqual([undefined]);
      for (let round = 0; round < 3; round++) {
        expect(await refresh(page)).toBe("refreshed");
        expect(take()).toEqual(held);
        expect(await boundIn()).toEqual(["dbsc"]);
        expect(
          (await context.cookies(origin + refreshPath)).map(({ name }) => name),
        ).not.toContainEqual(expect.stringMatching(proofCookie));
        await use(page);
        expect(take()).toEqual(["/notes.v1.NotesService/ListNotes 200"]);
      }
      expect(events.filter(({ type }) => type === "proofRefused")).toEqual([]);
    });

    test("feat:S11 two tabs that refresh at once make one proof", async () => {
      const { page, context, origin, take, signIn } = await open();
      await signIn(page);
      const other = await visit(context, origin);
      take();
      const outcomes = await Promise.all([refresh(page), refresh(other)]);
      expect(outcomes).toEqual(["refreshed", "refreshed"]);
      expect(take().filter((line) => line === "/dbsc/refresh 200").length).toBeLessThanOrEqual(2);
    });

    test("feat:S11 an outage of the endpoint signs nobody out, and the binding lives on", async () => {
      const { page, faults, take, signIn, use, events } = await open();
      await signIn(page);
      expect(await refresh(page)).toBe("refreshed");
      await use(page);
      faults.set("/dbsc/refresh", 503);
      expect(await refresh(page)).toMatch(/^signedIn: .*unavailable/);
      expect(events.at(-2)).toMatchObject({ type: "proofRefused", why: "skipped" });
      faults.clear();
      take();
      expect(await refresh(page)).toBe("refreshed");
      expect(take()).toEqual(held);
    });

    test("feat:S11 all cookies refresh nothing in another browser", async () => {
      const { page, context, origin, signIn, use, events } = await open();
      await signIn(page);
      await refresh(page);
      await use(page);
      const thief = await browser.newContext();
      onTestFinished(() => thief.close());
      await thief.addCookies(await context.cookies([origin, origin + refreshPath]));
      const stolen = await visit(thief, origin);
      expect(await refresh(stolen)).toMatch(/unavailable/);
      expect(await refresh(stolen)).toMatch(/^signedOut/);
      expect(events.filter(({ type }) => type === "proofRefused")).toMatchObject([
        { why: "missing" },
        { why: "missing" },
      ]);
      expect(await refresh(page)).toBe("refreshed");
    });

    test("feat:S11 recovers from lost answers", async () => {
      const { page, faults, signIn, use, boundIn, events } = await open();
      await signIn(page);
      for (const path of ["/dbsc/refresh", refreshPath]) {
        faults.set(path, "lost");
        // The browser may repeat a request by itself, and then nobody notices.
        expect(await refresh(page)).toMatch(/^refreshed$|^signedIn: .*unavailable/);
        expect(await refresh(page)).toBe("refreshed");
        await use(page);
      }
      expect(await boundIn()).toEqual(["dbsc"]);
      expect(events.filter(({ type }) => type === "theft")).toEqual([]);
    });

    test("feat:S11 proves its key again when the proof has expired before it was used", async () => {
      const { page, context, origin, faults, take, signIn, sessions } = await open();
      await signIn(page);
      faults.set(refreshPath, 503);
      await refresh(page);
      faults.clear();
      const proofs = async () =>
        (await context.cookies(origin + refreshPath)).filter(({ name }) => proofCookie.test(name));
      expect(await proofs()).toHaveLength(1);
      // What the server has not answered may be used. Later it has expired, in the browser first.
      sessions.clock.advance("11m");
      await context.clearCookies({ name: proofCookie });
      take();
      expect(await refresh(page)).toBe("refreshed");
      expect(take()).toEqual(held);
    });

    test("feat:S11 a user with many refreshes in a row is not signed out by the quota", async () => {
      const limited = await launch(true);
      onTestFinished(() => limited.close());
      const { page, signIn, events } = await open(limited);
      await signIn(page);
      const outcomes: string[] = [];
      for (let round = 0; round < 8; round++) {
        outcomes.push(await refresh(page));
      }
      expect(outcomes[0]).toBe("refreshed");
      expect(outcomes.at(-1)).toMatch(/^signedIn: .*unavailable/);
      expect(events.filter(({ type }) => type === "proofRefused").at(-1)).toMatchObject({
        why: "skipped",
      });
    });

    test("feat:S11 a script of the page can send a proof, and cannot name a binding", async () => {
      const { page, signIn } = await open();
      await signIn(page);
      const sent = await page.evaluate(() => {
        const headers = { "secure-session-response": "x", "sec-secure-session-id": "x" };
        return [...new Request("/dbsc/refresh", { headers }).headers.keys()];
      });
      expect(sent).toEqual(["secure-session-response"]);
    });

    test("feat:S11 a page on another origin of the site is bound, too", async () => {
      // 1. A page on app.example.com, and a service on api.example.com.
      let origin = "";
      const pages = await startPages(
        () => `globalThis.appApi = ${JSON.stringify(origin)};\n${script}`,
        {
          host: "app.example.com",
        },
      );
      const events: SessionEvent[] = [];
      const api = await startApi(
        [pages.at()],
        { onEvent: (event) => events.push(event) },
        { host: "api.example.com" },
      );
      origin = api.at();
      const asked: string[] = [];
      const endpoints = dbscFallback(api.sessions, { path: "/plain/dbsc" });
      api.plain = async (request, response) => {
        response.on("finish", () => asked.push(`${request.url} ${response.statusCode}`));
        endpoints(request, response);
      };
      const context = await browser.newContext();
      onTestFinished(async () => {
        await context.close();
        await Promise.all([api.close(), pages.close()]);
      });

      // 2. The same as on one origin.
      const page = await visit(context, pages.at());
      await page.evaluate(async () => {
        await app.notes.signIn({ user: "alice", password: "correct horse" });
      });
      await until(() => asked.includes("/plain/dbsc/register 200"), "a registration");
      api.sessions.clock.advance("61s");
      await page.evaluate(async () => void (await app.notes.listNotes({})));
      api.sessions.clock.advance("61s");
      // The browser may still be reading the answer.
      await until(async () => {
        await refresh(page);
        return asked.includes("/plain/dbsc/refresh 200");
      }, "a proof");
      expect(events.filter(({ type }) => type === "refused")).toEqual([]);
    });

    test("feat:S11 a second sign-in gets a binding of its own", async () => {
      const { page, take, signIn, boundIn } = await open();
      await signIn(page);
      await refresh(page);
      await signIn(page);
      take();
      expect(await refresh(page)).toBe("refreshed");
      expect(take().slice(-3)).toEqual(held);
      expect(await boundIn()).toEqual(["dbsc"]);
    });

    test("feat:S11 a revocation ends the binding, and the user hears of it", async () => {
      const { page, sessions, take, signIn } = await open();
      await signIn(page);
      await refresh(page);
      await sessions.revokeAll({ userId: "alice" });
      take();
      expect(await refresh(page)).toMatch(/^signedOut: .*ended/);
      expect(take()[0]).toBe("/dbsc/refresh 401");
    });
  },
);

function pageOf(origin: string): string {
  return `<!doctype html><title>page</title><script>appApi = ${JSON.stringify(origin)}; appKeepsTokens = false;</script><script type="module" src="/app.js"></script>`;
}
