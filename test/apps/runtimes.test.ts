// The packed library in Node.js 22, 24 and 26, Bun, Deno and workerd, the runtime of Cloudflare
// Workers. All of them come from npm, by exact versions.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { build } from "vite";
import { beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { createSessionClient, memoryTokens } from "../../src/client/index.ts";
import { freePort } from "../servers/port.ts";
import { App, type AppServer, skipApps, tarball } from "./app.ts";
import { type Capability, capabilities, type Runtime, tested } from "./runtimes-table.ts";
import { password } from "./visit.ts";

// Each package of a runtime brings a program for one platform.
const isHere = process.platform === "linux" && process.arch === "x64";
const missing = isHere ? "" : " (skipped, because it runs on Linux on x64)";

const programs: Readonly<Record<Exclude<Runtime, "Workers">, readonly string[]>> = {
  "Node.js 22": ["node_modules/node-22/bin/node"],
  "Node.js 24": ["node_modules/node-24/bin/node"],
  "Node.js 26": ["node_modules/node-26/bin/node"],
  Bun: ["node_modules/@oven/bun-linux-x64/bin/bun"],
  Deno: [
    ...["node_modules/@deno/linux-x64-glibc/deno", "run", "--allow-all", "--no-check"],
    "--node-modules-dir=manual",
  ],
};
const workerd = "node_modules/@cloudflare/workerd-linux-64/bin/workerd";

describe.skipIf(skipApps || !isHere)(`the library in other runtimes${missing}`, () => {
  let app: App;
  /** A service in Node.js that the clients of all runtimes visit. */
  let other: AppServer;
  beforeAll(async () => {
    app = App.copy("runtimes");
    const quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"];
    await app.run("npm", ["install", ...quiet, tarball], { repeatOnce: true });
    other = await serve(app, "Node.js 24", "other.db");
  });

  describe.each(Object.keys(programs) as (keyof typeof programs)[])("%s", (runtime) => {
    const database = `${runtime}.db`;
    let server: AppServer;
    beforeAll(async () => {
      server = await serve(app, runtime, database);
    });
    const [program = "", ...args] = programs[runtime];

    const tests: Readonly<Record<Capability, () => Promise<void>>> = {
      async store() {
        const visitor = await signIn(server.url);
        await server.stop();
        server = await serve(app, runtime, database, server.port);
        expect(await visitor.user()).toBe("ada");
      },
      ...serving(() => server),
      streamEnds: () => endsStreams(server.url),
      async verification() {
        const port = /verifying on (\d+)/.exec(server.output())?.[1];
        await verifies(server.url, `http://localhost:${port}`);
      },
      async client() {
        const ran = await app.run(program, [...args, "client.mjs", other.url]);
        expect(JSON.parse(ran.stdout)).toEqual(visited);
      },
      async cli() {
        const cli = "node_modules/rpc-session/dist/src/cli/main.js";
        const ran = await app.run(program, [...args, cli, "migrate", `cli-${database}`]);
        expect(ran.output).toContain("up to date");
      },
    };
    it.each(tested[runtime].map((capability) => [capabilities[capability], capability] as const))(
      "%s",
      async (_, capability) => {
        await expect(tests[capability]()).resolves.toBeUndefined();
      },
    );
  });

  it.each([
    ["Node.js 22", 1],
    ["Node.js 24", 1],
    ["Node.js 26", 1],
    // It does not tell whether the process listens; docs/server-rendering.md says so.
    ["Bun", 0],
    ["Deno", 1],
  ] as const)(
    "a client that all visitors of a server share: %s prints %d warnings",
    async (runtime, count) => {
      const [program = "", ...args] = programs[runtime];
      const env = { NODE_ENV: "production", NODE_OPTIONS: "" };
      const ran = await app.run(program, [...args, "shared.mjs", other.url], { env });
      expect(
        ran.output.match(/all visitors of this server share this session/g) ?? [],
      ).toHaveLength(count);
    },
  );

  describe("Workers", () => {
    let server: AppServer;
    beforeAll(async () => {
      await bundleWorker(app.folder);
      const port = await freePort();
      const config = readFileSync(join(app.folder, "worker.capnp"), "utf8");
      writeFileSync(
        join(app.folder, "here.capnp"),
        config.replaceAll("PORT", String(port)).replace('"OTHER"', JSON.stringify(other.url)),
      );
      // With a control channel it says when it listens.
      server = await app.serve(workerd, ["serve", "here.capnp", "--control-fd=1"], {
        ready: new RegExp(`"port":${port}`),
        port,
      });
    });

    const tests: Readonly<Record<Exclude<Capability, "streamEnds" | "cli">, () => Promise<void>>> =
      {
        async store() {
          expect(await (await signIn(server.url)).user()).toBe("ada");
        },
        ...serving(() => server),
        verification: () => verifies(other.url, server.url),
        async client() {
          const response = await fetch(`${server.url}/visit`);
          expect(await response.json()).toEqual(visited);
        },
      };
    it.each(tested.Workers.map((capability) => [capabilities[capability], capability] as const))(
      "%s",
      async (_, capability) => {
        await expect(tests[capability as keyof typeof tests]()).resolves.toBeUndefined();
      },
    );
  });
});

/** What the client of visitor.mjs sees. */
const visited = ["signedIn", "ada", "refreshed", "ada", "signedOut", "Unauthenticated"];

async function serve(
  app: App,
  runtime: keyof typeof programs,
  database: string,
  port?: number,
): Promise<AppServer> {
  const [program = "", ...args] = programs[runtime];
  return await app.serve(program, [...args, "server.mjs"], {
    env: { DATABASE: database, NODE_OPTIONS: "" },
    ready: /listening/,
    ...(port !== undefined && { port }),
  });
}

/** Bundles the worker as wrangler does, with the packed library. */
async function bundleWorker(root: string): Promise<void> {
  await build({
    root,
    configFile: false,
    logLevel: "error",
    resolve: { conditions: ["workerd", "worker", "browser", "import", "default"] },
    build: {
      outDir: ".",
      emptyOutDir: false,
      target: "es2024",
      lib: { entry: "worker.mjs", formats: ["es"], fileName: () => "worker.js" },
    },
  });
}

/** The tests of a service that need no more than its address. */
function serving(
  server: () => AppServer,
): Pick<Record<Capability, () => Promise<void>>, "signIn" | "refresh" | "revocation" | "stream"> {
  return {
    async signIn() {
      const { url } = server();
      const stranger = createClient(NotesService, createConnectTransport({ baseUrl: url }));
      const refused = stranger.signIn({ user: "ada", password: "wrong" });
      expect(await codeOf(refused)).toBe(Code.PermissionDenied);
      expect(await codeOf(stranger.listNotes({}))).toBe(Code.Unauthenticated);
      expect(await (await signIn(url)).user()).toBe("ada");
    },
    async refresh() {
      const visitor = await signIn(server().url);
      const before = visitor.accessToken();
      await visitor.session.refresh();
      expect(visitor.accessToken()).not.toBe(before);
      expect(await visitor.user()).toBe("ada");
    },
    async revocation() {
      const [one, two] = [await signIn(server().url), await signIn(server().url)];
      await createClient(SessionService, one.session.transport).revokeOtherSessions({});
      expect(await codeOf(two.user())).toBe(Code.Unauthenticated);
      expect(await one.user()).toBe("ada");
    },
    async stream() {
      const { notes } = await signIn(server().url);
      for await (const { note } of notes.watchNotes({})) {
        expect(note?.text).toBe("ada");
        return;
      }
      throw new Error("the stream ended without a message");
    },
  };
}

async function endsStreams(url: string): Promise<void> {
  const [one, two] = [await signIn(url), await signIn(url)];
  const messages = two.notes.watchNotes({})[Symbol.asyncIterator]();
  await messages.next();
  const end = codeOf(messages.next());
  await createClient(SessionService, one.session.transport).revokeOtherSessions({});
  expect(await end).toBe(Code.Unauthenticated);
}

/** Calls a service that only verifies, with a session of the issuer, and without one. */
async function verifies(issuer: string, verifier: string): Promise<void> {
  const visitor = await signIn(issuer);
  const call = (token: string | undefined): Promise<unknown> => {
    const transport = createConnectTransport({
      baseUrl: verifier,
      interceptors: [
        (next) => (request) => {
          request.header.set("x-verify", "1");
          if (token !== undefined) {
            request.header.set("authorization", `Bearer ${token}`);
          }
          return next(request);
        },
      ],
    });
    return createClient(NotesService, transport).listNotes({});
  };
  expect(await call(visitor.accessToken())).toMatchObject({ notes: [{ text: "ada" }] });
  expect(await codeOf(call(undefined))).toBe(Code.Unauthenticated);
  expect(await codeOf(call(`${visitor.accessToken()}x`))).toBe(Code.Unauthenticated);
}

async function signIn(baseUrl: string) {
  const tokens = memoryTokens();
  const session = createSessionClient({
    tokens,
    transport: (parts) => createConnectTransport({ baseUrl, ...parts }),
  });
  const notes = createClient(NotesService, session.transport);
  await notes.signIn({ user: "ada", password });
  return {
    ...{ session, notes },
    user: async () => (await notes.listNotes({})).notes[0]?.text,
    accessToken: () => {
      const kept = tokens.load();
      return kept instanceof Promise ? undefined : kept?.accessToken;
    },
  };
}

async function codeOf(call: Promise<unknown>): Promise<Code | undefined> {
  return await call.then(
    () => undefined,
    (error: unknown) => ConnectError.from(error).code,
  );
}
