// What the guides of docs/ promise, with their own files: nginx, buf and Vite run here.
import { execFile, spawnSync } from "node:child_process";
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
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createConnectTransport } from "@connectrpc/connect-web";
import { createSessionClient, memoryTokens } from "rpc-session/client";
import { sessionFetch } from "rpc-session/client/fetch";
import { fromNode } from "rpc-session/http";
import { testSessions } from "rpc-session/testing";
import { createServer, type UserConfig } from "vite";
import { describe, expect, it, onTestFinished } from "vitest";
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
  it("a former session is traded once, and the client knows who is signed in", async () => {
    const former = new Map([["former=1", "ada"]]);
    const server = http.createServer();
    const origin = await listen(server);
    const sessions = testSessions({ issuer: origin });
    const rpcs = connectNodeAdapter(sessions.protect({ routes: () => {} }));
    const trade = async (request: http.IncomingMessage, response: http.ServerResponse) => {
      const cookie = request.headers.cookie ?? "";
      const userId = former.get(cookie);
      if (userId !== undefined) {
        await sessions.create(fromNode(request, response), { userId });
        former.delete(cookie);
      }
      response.writeHead(userId === undefined ? 401 : 204).end();
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
        await fetchWithSession("/trade", { method: "POST", headers: { cookie: "former=1" } });
      }
      return session.state;
    };

    expect(await start()).toMatchObject({ status: "signedIn", userId: "ada" });
    expect(await start()).toMatchObject({ status: "signedOut" });
    expect((await sessions.list({ userId: "ada" })).sessions).toHaveLength(1);
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
  const folder = newFolder();
  const [key, certificate] = [join(folder, "api.key"), join(folder, "api.crt")];
  const subject = ["-subj", "/CN=api.example.com", "-days", "1", "-nodes"];
  const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
  const made = ["req", "-x509", ...kind, ...subject, "-keyout", key, "-out", certificate];
  await promisify(execFile)("openssl", made);
  const http = servers.replaceAll("/etc/ssl/api", join(folder, "api"));
  const file = join(folder, "nginx.conf");
  writeFileSync(file, `pid ${folder}/pid;\nevents {}\nhttp {\naccess_log off;\n${http}\n}\n`);
  const { stderr } = await promisify(execFile)("nginx", [
    "-t",
    "-p",
    folder,
    "-c",
    file,
    "-e",
    "stderr",
  ]);
  return stderr;
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
