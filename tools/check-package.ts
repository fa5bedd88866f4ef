// npm run test:package: packs the library, installs it into an empty project and uses it as users do:
// with a schema that imports its options, strict types, every entry point and no source condition.
import { execFileSync } from "node:child_process";
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const project = mkdtempSync(join(tmpdir(), "rpc-session-user-"));
process.once("exit", () => rmSync(project, { recursive: true, force: true }));

const peers = [
  "@bufbuild/protobuf",
  "@connectrpc/connect",
  "@connectrpc/connect-node",
  "@marcbachmann/cel-js",
  "@opentelemetry/api",
  "@types/node",
];
const tools = join(root, "node_modules/.bin");
const run = (command: string, args: readonly string[], cwd: string): string =>
  execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

run("npm", ["pack", "--silent", "--ignore-scripts", "--pack-destination", project], root);
const tarball = readdirSync(project).find((file) => file.endsWith(".tgz")) ?? "";
const { devDependencies } = (await import("../package.json", { with: { type: "json" } })).default;
const versions = new Map<string, string>(Object.entries(devDependencies));

write("package.json", JSON.stringify({ name: "user", private: true, type: "module" }));
run(
  "npm",
  [
    "install",
    "--silent",
    "--no-audit",
    "--no-fund",
    `./${tarball}`,
    ...peers.map((peer) => `${peer}@${versions.get(peer)}`),
  ],
  project,
);

const installed = join(project, "node_modules/rpc-session");
const pages = ["README.md", "CHANGELOG.md", "SECURITY.md"];
for (const page of [...pages, ...globSync("docs/*.md", { cwd: installed })]) {
  const text = readFileSync(join(installed, page), "utf8");
  const links = [...text.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, link = ""]) => link);
  const dead = links.filter((link) => !existsSync(join(installed, page, "..", link)));
  if (dead.length > 0) {
    throw new Error(`${page} links to files that the package does not contain: ${dead.join(", ")}`);
  }
}

write(
  "proto/hello/v1/hello.proto",
  `syntax = "proto3";
package hello.v1;
import "rpcsession/v1/options.proto";
service HelloService {
  rpc Hello(HelloRequest) returns (HelloResponse) {
    option (rpcsession.v1.method_policy) = {auth: AUTH_OPTIONAL};
  }
}
message HelloRequest {}
message HelloResponse { string user_id = 1; }
`,
);
write(
  "buf.yaml",
  "version: v2\nmodules:\n  - path: proto\n  - path: node_modules/rpc-session/proto\n",
);
write(
  "buf.gen.yaml",
  `version: v2
inputs:
  - directory: proto
plugins:
  - local: ${join(tools, "protoc-gen-es")}
    out: src/gen
    opt: [target=ts, import_extension=js, "map_imports=rpcsession/:rpc-session/gen"]
`,
);
write(
  "tsconfig.json",
  JSON.stringify({
    compilerOptions: {
      target: "es2023",
      lib: ["es2023", "dom", "dom.iterable"],
      module: "nodenext",
      types: ["node"],
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      rootDir: "src",
      outDir: "dist",
    },
    include: ["src"],
  }),
);
write(
  "src/main.ts",
  `import { createClient, createRouterTransport } from "@connectrpc/connect";
import { createSessions, sessionCors } from "rpc-session";
import { createSessionClient, withRefresh } from "rpc-session/client";
import { sessionFetch } from "rpc-session/client/fetch";
import { cel } from "rpc-session/cel";
import { dpopKey } from "rpc-session/client/dpop";
import { followAppState, secureStoreTokens } from "rpc-session/client/expo";
import { RefreshHintSchema } from "rpc-session/gen/rpcsession/v1/hint_pb.js";
import { memoryStore } from "rpc-session/stores/memory";
import { jwksHandler } from "rpc-session/http";
import { openTelemetry } from "rpc-session/otel";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { verifySessions } from "rpc-session/verify";
import { createVisitor } from "rpc-session/ssr";
import { describeSessionStore } from "rpc-session/store-contract";
import { signedIn, testSessions } from "rpc-session/testing";
import { HelloService } from "./gen/hello/v1/hello_pb.js";

const sessions = testSessions();
const { routes, ...router } = sessions.protect({
  routes: (r) =>
    r.service(HelloService, {
      hello: (_request, ctx) => ({ userId: sessions.current(ctx)?.userId ?? "nobody" }),
    }),
});
const alice = createClient(
  HelloService,
  createRouterTransport(routes, {
    router,
    transport: { interceptors: [await signedIn(sessions, { userId: "alice" })] },
  }),
);
const nobody = createClient(HelloService, createRouterTransport(routes, { router }));
console.log((await alice.hello({})).userId, (await nobody.hello({})).userId);
console.log(
  [
    cel,
    createSessions,
    sessionCors,
    createSessionClient,
    sessionFetch,
    createVisitor,
    dpopKey,
    followAppState,
    secureStoreTokens,
    describeSessionStore,
    withRefresh,
    jwksHandler,
    memoryStore,
    openTelemetry,
    postgresStore,
    redisStore,
    sqliteStore,
    verifySessions,
  ].every((f) => typeof f === "function"),
  RefreshHintSchema.typeName,
);
await sessions.close();
`,
);
run(join(tools, "buf"), ["generate"], project);
run(join(tools, "tsc"), [], project);
const printed = run(process.execPath, ["dist/main.js"], project);
run("npx", ["rpc-session", "migrate", "app.db"], project);
run("npx", ["rpc-session", "migrate", "--print", "postgres"], project);
run("npx", ["rpc-session", "policy", "--check", "dist/gen/hello/v1/hello_pb.js"], project);
run("npx", ["rpc-session", "sessions", "list", "--user", "alice", "--json", "app.db"], project);
const version = run("npx", ["rpc-session", "--version"], project).trim();
const expected = "alice nobody\ntrue rpcsession.v1.RefreshHint\n";
if (printed !== expected) {
  throw new Error(
    `the installed package printed ${JSON.stringify(printed)}, expected ${JSON.stringify(expected)}`,
  );
}
if (!/^\d+\.\d+\.\d+/.test(version)) {
  throw new Error(`rpc-session --version printed ${JSON.stringify(version)}`);
}
process.stdout.write("package: 1 passed, 0 failed\n");

function write(path: string, text: string): void {
  mkdirSync(join(project, path, ".."), { recursive: true });
  writeFileSync(join(project, path), text);
}
