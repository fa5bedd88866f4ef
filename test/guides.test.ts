// What the guides of docs/ promise, with their own files: nginx, buf and Vite run here.
import { execFile, spawn, spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import http from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { createClient } from "@connectrpc/connect";
import {
  connectNodeAdapter,
  createConnectTransport as createNodeTransport,
} from "@connectrpc/connect-node";
import { createConnectTransport } from "@connectrpc/connect-web";
import type { SessionError } from "rpc-session";
import { createSessionClient, memoryTokens } from "rpc-session/client";
import { sessionFetch } from "rpc-session/client/fetch";
import { fromNode } from "rpc-session/http";
import { testSessions } from "rpc-session/testing";
import { createServer, type UserConfig } from "vite";
import { describe, expect, it, onTestFinished } from "vitest";
import { InboxService } from "../examples/gen/inbox/v1/inbox_pb.ts";
import { NotesService } from "../examples/gen/notes/v1/notes_pb.ts";
import { blocksIn } from "./helpers/doc-blocks.ts";
import { freePort } from "./servers/port.ts";

const root = join(import.meta.dirname, "..");

describe("docs/proxies.md", () => {
  const isThere = spawnSync("nginx", ["-v"], { stdio: "ignore" }).error === undefined;
  const skipped = isThere ? "" : " (skipped: install nginx)";

  it.skipIf(!isThere)(`the configuration for nginx passes nginx -t${skipped}`, async () => {
    const blocks = codeOf("docs/proxies.md", "nginx");
    expect(blocks).toHaveLength(2);
    expect(await testConfiguration(blocks.join("\n"))).toContain("test is successful");
  });

  it.skipIf(!isThere)(
    `behind nginx, a client signs in, refreshes and reads a stream${skipped}`,
    async () => {
      const port = await freePort();
      const sessions = testSessions({
        issuer: `https://localhost:${port}`,
        public: [InboxService.method.signIn],
        methods: { "inbox.v1.InboxService/Watch": { stream: "endOnRevoke" } },
      });
      const ended = Promise.withResolvers<void>();
      const routes = sessions.protect({
        routes: (router) =>
          router.service(InboxService, {
            async signIn({ user }, context) {
              await sessions.create(context, { userId: user });
              return {};
            },
            async *watch(_request, context) {
              yield { number: 1, text: sessions.require(context).userId };
              await ended.promise; // a message that nginx held back would never arrive
            },
          }),
      });
      const service = await listen(http.createServer(connectNodeAdapter(routes)));
      await startNginx(codeOf("docs/proxies.md", "nginx")[0] ?? "", {
        "127.0.0.1:8080": service.replace("http://localhost", "127.0.0.1"),
        "listen 443": `listen 127.0.0.1:${port}`,
      });
      const session = createSessionClient({
        clock: sessions.clock,
        transport: (parts) =>
          createNodeTransport({
            baseUrl: `https://127.0.0.1:${port}`,
            httpVersion: "2",
            nodeOptions: { rejectUnauthorized: false },
            ...parts,
          }),
      });
      const inbox = createClient(InboxService, session.transport);
      await inbox.signIn({ user: "ada" });
      sessions.clock.advance("20m");
      await session.refresh();
      for await (const { text } of inbox.watch({})) {
        expect(text).toBe("ada");
        ended.resolve();
      }
      expect(session.state).toMatchObject({ status: "signedIn", userId: "ada" });
    },
  );

  it.skipIf(!isThere)(`a wrong line for nginx is noticed${skipped}`, async () => {
    await expect(testConfiguration("proxy_bufering off;")).rejects.toThrow(/unknown directive/);
  });
});

describe("docs/vite.md", () => {
  it("the two YAML files generate a schema that states policies", async () => {
    const folder = newFolder();
    const [buf = "", gen = ""] = codeOf("docs/vite.md", "yaml");
    writeFileSync(join(folder, "buf.yaml"), buf);
    writeFileSync(join(folder, "buf.gen.yaml"), gen);
    mkdirSync(join(folder, "node_modules/rpc-session"), { recursive: true });
    cpSync(join(root, "proto"), join(folder, "node_modules/rpc-session/proto"), {
      recursive: true,
    });
    cpSync(join(root, "test/proto/auth"), join(folder, "proto/auth"), { recursive: true });
    const bin = join(root, "node_modules/.bin");
    const env = { ...process.env, NODE_OPTIONS: "", PATH: `${bin}:${process.env.PATH}` };
    await promisify(execFile)(join(bin, "buf"), ["generate"], { cwd: folder, env });

    const code = readFileSync(join(folder, "src/gen/auth/v1/auth_pb.ts"), "utf8");
    expect(code).toContain('from "rpc-session/gen/rpcsession/v1/options_pb.js"');
  });

  it("through its proxy, a page of Vite signs in and calls, and another site does not", async () => {
    const { port, origin, config } = await viteConfig();
    const sessions = testSessions({
      issuer: origin,
      cookies: { insecure: true },
      public: [NotesService.method.signIn],
    });
    const routes = sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async signIn({ user }, context) {
            await sessions.create(context, { userId: user });
            return {};
          },
          listNotes: (_request, context) => ({
            notes: [{ text: sessions.require(context).userId }],
          }),
        }),
    });
    const service = await listen(http.createServer(connectNodeAdapter(routes)));
    const vite = await createServer(config(service));
    onTestFinished(() => vite.close());
    await vite.listen(port);

    const call = (path: string, body: object, more: Record<string, string> = {}) =>
      fetch(`${origin}/${path}`, {
        method: "POST",
        body: JSON.stringify(body),
        headers: {
          ...{ "content-type": "application/json", origin, "sec-fetch-site": "same-origin" },
          ...more,
        },
      });
    const signedIn = await call("notes.v1.NotesService/SignIn", { user: "ada" });
    const cookie = signedIn.headers
      .getSetCookie()
      .map((line) => line.split(";")[0])
      .join("; ");
    expect(signedIn.headers.getSetCookie()).toHaveLength(2);

    const list = await call("notes.v1.NotesService/ListNotes", {}, { cookie });
    expect(await list.json()).toEqual({ notes: [{ text: "ada" }] });
    const refresh = await call("rpcsession.v1.SessionService/Refresh", {}, { cookie });
    expect(refresh.status).toBe(200);
    const foreign = { cookie, origin: "https://evil.example", "sec-fetch-site": "cross-site" };
    expect((await call("notes.v1.NotesService/ListNotes", {}, foreign)).status).toBe(403);
  });
});

describe("docs/moving.md", () => {
  it("feat:O7 a former session is traded once, and the client knows who is signed in", async () => {
    const server = http.createServer();
    const origin = await listen(server);
    const sessions = testSessions({ issuer: origin });
    const createdAt = new Date(sessions.clock.now() - 86_400_000);
    const former = new Map([["former=1", { userId: "ada", id: "1", createdAt }]]);
    const rpcs = connectNodeAdapter(sessions.protect({ routes: () => {} }));
    const trade = async (request: http.IncomingMessage, response: http.ServerResponse) => {
      const old = former.get(request.headers.cookie ?? "");
      const refusal =
        old &&
        (await sessions
          .adopt(fromNode(request, response), {
            userId: old.userId,
            externalId: { issuer: "former", sid: old.id },
            createdAt: old.createdAt,
          })
          .then(() => undefined)
          .catch((error: SessionError) => error.statusCode));
      response.writeHead(old === undefined ? 401 : (refusal ?? 204)).end();
    };
    server.on("request", (request, response) => {
      if (request.url === "/trade") {
        trade(request, response).catch((error) => response.destroy(error));
      } else {
        rpcs(request, response);
      }
    });
    const start = async () => {
      const session = createSessionClient({
        transport: (parts) => createConnectTransport({ baseUrl: origin, ...parts }),
        tokens: memoryTokens(),
        clock: sessions.clock,
      });
      const fetchWithSession = sessionFetch(session, { baseUrl: origin });
      if ((await session.load()).status === "signedOut") {
        const init = { method: "POST", headers: { cookie: "former=1" } };
        const answer = await fetchWithSession("/trade", init);
        if (answer.status === 401) {
          await session.load();
        }
      }
      return session.state;
    };

    expect(await start()).toMatchObject({ status: "signedIn", userId: "ada" });
    expect(await start()).toMatchObject({ status: "signedOut" });
    const { sessions: live } = await sessions.list({ userId: "ada" });
    expect(live.map((session) => session.createdAt)).toEqual([createdAt]);
  });
});

function codeOf(page: string, language: string): string[] {
  return blocksIn(page, readFileSync(join(root, page), "utf8"))
    .filter((block) => block.language === language)
    .map(({ code }) => code);
}

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-guide-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Runs `nginx -t`, with a certificate in place of those that the configuration names. */
async function testConfiguration(servers: string): Promise<string> {
  const args = await nginxArguments(servers);
  return (await promisify(execFile)("nginx", ["-t", ...args])).stderr;
}

/** Starts nginx until the test is over, with texts of the configuration replaced. */
async function startNginx(servers: string, replaced: Readonly<Record<string, string>>) {
  const given = Object.entries(replaced).reduce((text, [a, b]) => text.replaceAll(a, b), servers);
  const args = await nginxArguments(given);
  const nginx = spawn("nginx", [...args, "-g", "daemon off; master_process off;"], {
    stdio: "ignore",
  });
  onTestFinished(() => void nginx.kill());
  const port = Number(/listen 127\.0\.0\.1:(\d+)/.exec(given)?.[1]);
  await expect.poll(() => isListening(port)).toBe(true);
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}

async function nginxArguments(servers: string): Promise<string[]> {
  const folder = newFolder();
  const [key, certificate] = [join(folder, "api.key"), join(folder, "api.crt")];
  const subject = ["-subj", "/CN=api.example.com", "-days", "1", "-nodes"];
  const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
  const made = ["req", "-x509", ...kind, ...subject, "-keyout", key, "-out", certificate];
  await promisify(execFile)("openssl", made);
  const http = servers.replaceAll("/etc/ssl/api", join(folder, "api"));
  const file = join(folder, "nginx.conf");
  writeFileSync(file, `pid ${folder}/pid;\nevents {}\nhttp {\naccess_log off;\n${http}\n}\n`);
  return ["-p", folder, "-c", file, "-e", "stderr"];
}

async function listen(server: http.Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://localhost:${(server.address() as AddressInfo).port}`;
}

/** The configuration on the page, on a free port and for the address of a service. */
async function viteConfig() {
  const port = await freePort();
  const code = codeOf("docs/vite.md", "ts").find((block) => block.includes("defineConfig")) ?? "";
  const folder = newFolder();
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  const file = join(folder, "vite.config.ts");
  writeFileSync(file, code);
  const page = ((await import(file)) as { readonly default: UserConfig }).default;
  expect(page.server?.port).toBe(5173);
  return {
    port,
    origin: `http://localhost:${port}`,
    config: (service: string): UserConfig & { readonly configFile: false } => ({
      ...page,
      server: {
        ...page.server,
        port,
        proxy: Object.fromEntries(
          Object.keys(page.server?.proxy ?? {}).map((path) => [path, service]),
        ),
      },
      configFile: false,
      root: folder,
      logLevel: "error",
    }),
  };
}
