import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  exportsOf,
  filesIn,
  findCycle,
  type Import,
  importsOf,
  missingStops,
  read,
  root,
  valuesOf,
} from "./house/source-tree.ts";

// A room is a folder of `src`. The files directly in `src` form the room "assembly".

const ground = ["gen", "base"];
const verifying = [...ground, "jwt", "request", "engine"];
const serving = [...verifying, "server", "http"];

/** The arrows: which other rooms a room may import. */
const arrows: Readonly<Record<string, readonly string[]>> = {
  gen: [],
  base: ["gen"],
  jwt: ground,
  request: ground,
  engine: [...ground, "jwt", "request"],
  stores: [...ground, "engine"],
  server: verifying,
  http: [...verifying, "server"],
  client: ground,
  react: ["client"],
  query: ["client"],
  cel: [...ground, "server"],
  ssr: [...ground, "client", "request"],
  assembly: serving,
  testing: [...serving, "assembly", "client", "stores"],
  cli: [...serving, "assembly", "stores"],
  compat: serving,
  otel: [...ground, "client"],
};

/** The arrows between the folders of `stores`; all of them may import the files directly in it. */
const storeArrows: Readonly<Record<string, readonly string[]>> = {
  memory: [],
  redis: [],
  sql: [],
  sqlite: ["sql"],
  postgres: ["sql"],
};

/**
 * The doors: the only files of a room that other rooms may import. Everything else is private to
 * the room. A value is the reason for a door beyond the room's main subject.
 */
const doors: Readonly<Record<string, "all" | Readonly<Record<string, string>>>> = {
  gen: "all",
  base: "all",
  jwt: {
    "verifier.ts": "main",
    "claims.ts": "main",
    "keys.ts": "main",
    "jwk.ts": "main",
    "jwk-set.ts": "the engine keeps to the limit of keys that are published",
    "remote-keys.ts": "main",
    "issuer-keys.ts": "verifySessions and back-channel logout read the keys of others",
    "logout-token.ts": "back-channel logout",
    "dpop.ts": "the server checks proofs of possession",
    "dbsc.ts": "the server checks proofs of browsers",
    "verified-cache.ts": "main",
    "strict-parse.ts":
      "the engine reads claims from JSON as strictly as from a token; the server tells tokens of others",
  },
  request: {
    "tokens.ts": "main",
    "cookies.ts": "main",
    "cookie-options.ts": "options of createSessions",
    "origins.ts": "options of createSessions, and the check of each request",
    "proof-cookie.ts": "the cookies of sessions that are bound to a browser",
  },
  engine: {
    "engine.ts": "main",
    "session.ts": "main",
    "store.ts": "main",
    "liveness.ts": "main",
    "reach.ts": "createSessions reports the operations of its store",
    "lifetimes.ts": "main",
    "claims.ts": "main",
    "access-tokens.ts": "the server passes reissued tokens to the response",
    "create.ts": "the server passes new sessions to the response",
    "adoption/once.ts": "the server names a session of another system",
    "audit/log.ts": "options of createSessions, and why sessions end",
    "keys/plan.ts": "options of createSessions",
    "keys/rotation.ts": "the states of keys, for sessions.keys and the command line",
    "keys/sealed.ts": "the command line names the secret of a key",
    "refresh/refresh.ts": "the server passes refreshed tokens to the response",
    "refresh/format.ts": "the server and the commands recognise refresh tokens",
    "refresh/nonces.ts": "the server checks proofs of possession",
    "refresh/dbsc.ts": "the server checks proofs of browsers",
    "refresh/rule.ts": "the contract of a store holds its write against the rule",
    "refresh/token.ts": "the server proves refresh tokens in requests",
    "revocation/check.ts": "options of createSessions and of methods",
    "revocation/health.ts": "the public type of sessions.health()",
    "revocation/log.ts": "the server checks and watches sessions",
    "revocation/none.ts": "verifySessions without a store",
  },
  stores: {
    "memory/index.ts": "main",
    "sqlite/index.ts": "main",
    "postgres/index.ts": "main",
    "redis/index.ts": "main",
    "sql/database.ts": "the command line opens a database",
    "sql/migration/migrate.ts": "the command line creates the tables and prints them",
    "sqlite/dialect.ts": "the command line chooses the database",
    "postgres/dialect.ts": "the command line chooses the database",
  },
  server: {
    "core.ts": "createSessions builds it",
    "protect.ts": "the public types of sessions.protect",
    "hosts.ts": "createSessions builds it for a service with several hosts",
    "reading.ts": "sessions.getSession and verifySessions",
    "sessions.ts": "createSessions builds it",
    "authenticate/proofs.ts": "options of createSessions and of verifySessions",
    "authenticate/dbsc.ts": "options of createSessions",
    "service/dbsc.ts": "the endpoints that rpc-session/http serves",
    "call/call.ts": "verifySessions",
    "call/operations.ts": "createSessions closes when its operations are over",
    "call/exchange.ts": "the public type of an exchange, which rpc-session/http creates",
    "call/gate.ts": "the public type of a gate",
    "policy/policy.ts": "the public types of policies",
    "policy/conditions.ts": "rpc-session/cel compiles conditions",
    "policy/decisions.ts": "the option authorize",
    "policy/source-options.ts": "the option claimSources",
    "session/adopt.ts": "public types",
    "session/audit.ts": "the public types of sessions.auditLog",
    "session/by-condition.ts": "public types",
    "policy/rules.ts": "the command line prints the rules on claims",
    "session/by-id.ts": "public types",
    "session/handle.ts": "createSessions builds it",
    "session/sign-in.ts": "public types",
    "session/successors.ts": "public types",
    "session/tickets.ts": "public types",
    "streams/keep-alive.ts": "the public function keepAlive",
  },
  http: {
    "index.ts": "the endpoints of other SDKs publish keys, and sign out by an exchange",
  },
  client: {
    "index.ts": "main",
    "state/hint.ts": "queries tell an interruption from an answer",
  },
  assembly: {
    "create-sessions.ts": "main",
    "options.ts": "main",
  },
};

/** Packages, and the rooms that may import them. */
const packages: Readonly<Record<string, readonly string[]>> = {
  "@bufbuild/protobuf": Object.keys(arrows),
  "@connectrpc/connect": [
    "server",
    "client",
    "ssr",
    "testing",
    "react",
    "query",
    "cli",
    "compat",
    "otel",
  ],
  "@opentelemetry/api": ["otel"],
  react: ["react"],
  jose: ["jwt", "engine"],
  pg: ["stores"],
  redis: ["stores", "cli"],
  cookie: ["request", "ssr"],
  "@marcbachmann/cel-js": ["cel"],
  commander: ["cli"],
  "@standard-schema/spec": ["base"],
};

/** Rooms and files that may import `node:` modules; everything else runs anywhere. */
const nodePlaces: readonly string[] = [
  "src/stores/",
  "src/testing/",
  "src/cli/",
  // The synchronous crypto functions, loaded only where they exist.
  "src/base/crypto.ts",
  // Types of Node's requests and responses; nothing is loaded.
  "src/http/",
  "src/compat/",
];

const filesPerRoom = 12;

/** Names that two files may export, and why. */
const sharedNames: Readonly<Record<string, string>> = {
  ResolvedOptions: "server and client each resolve their own options; neither imports the other",
  Refresher: "the client's and the engine's; neither imports the other",
};

/** Files under 60 lines with one importer and no test of their own, and why they stand alone. */
const smallFiles: Readonly<Record<string, string>> = {
  "src/client/call/step-up.ts":
    "one object for all calls; test/client/step-up.test.ts tests it from outside",
  "src/cli/migrate.ts": "each command has a file of its own",
  "src/engine/revocation/none.ts": "the second implementation of an interface",
  "src/stores/memory/secrets.ts": "the recorded secrets of a memory store, whose main file is long",
};
const smallLines = 60;

const files = [...filesIn("src"), ...filesIn("gen")];
const sources = new Map(files.map((file) => [file, read(file)]));
const imports = files.flatMap((file) => importsOf(file, sources.get(file)));
const crossings = imports.flatMap(({ from, to }) =>
  to !== undefined && roomOf(from) !== roomOf(to) ? [{ from, to }] : [],
);

describe("the rooms of src", () => {
  it("import only the rooms that the table of arrows names", () => {
    const wrong = crossings.filter(({ from, to }) => !arrows[roomOf(from)]?.includes(roomOf(to)));
    expect(wrong).toEqual([]);
  });

  it("are entered through their doors", () => {
    const wrong = crossings.filter(({ to }) => !isDoor(to));
    expect(wrong).toEqual([]);
  });

  it("have no door that nobody uses", () => {
    const used = new Set(crossings.map(({ to }) => to));
    const unused = Object.entries(doors).flatMap(([room, list]) =>
      list === "all"
        ? []
        : Object.keys(list)
            .map((file) => fileOf(room, file))
            .filter((file) => !used.has(file) && !isEntryPoint(file)),
    );
    expect(unused).toEqual([]);
  });

  it("keep the stores apart", () => {
    const wrong = imports.filter(({ from, to }) => {
      const [own, other] = [storeOf(from), storeOf(to ?? "")];
      const across = own !== undefined && other !== undefined && own !== other;
      return across && !storeArrows[own]?.includes(other);
    });
    expect(wrong).toEqual([]);
  });

  it("import packages only where the table names them", () => {
    const wrong = imports
      .filter(({ to, specifier }) => to === undefined && !specifier.startsWith("node:"))
      .filter(({ from, specifier }) => !packages[packageOf(specifier)]?.includes(roomOf(from)));
    expect(wrong).toEqual([]);
  });

  it("import node: modules only in the places that are listed", () => {
    const wrong = imports
      .filter(({ specifier }) => specifier.startsWith("node:"))
      .filter(({ from }) => !nodePlaces.some((place) => from.startsWith(place)));
    expect(wrong).toEqual([]);
  });

  it(`have at most ${filesPerRoom} files each`, () => {
    const counts = new Map<string, number>();
    for (const file of filesIn("src")) {
      counts.set(dirname(file), (counts.get(dirname(file)) ?? 0) + 1);
    }
    expect([...counts].filter(([, count]) => count > filesPerRoom)).toEqual([]);
  });

  it("are not repeated in the names of their files", () => {
    expect(filesIn("src").filter(repeatsRoom)).toEqual([]);
  });
});

describe("the files of src", () => {
  it("do not import each other in a cycle, type imports included", () => {
    const graph = new Map<string, string[]>(files.map((file) => [file, []]));
    for (const { from, to } of imports) {
      graph.get(from)?.push(...(to === undefined ? [] : [to]));
    }
    expect(findCycle(graph)).toEqual([]);
  });

  it("export each name once", () => {
    const owners = new Map<string, string[]>();
    for (const file of filesIn("src")) {
      for (const name of exportsOf(sources.get(file) ?? "")) {
        owners.set(name, [...(owners.get(name) ?? []), file]);
      }
    }
    const twice = [...owners].filter(([, where]) => where.length > 1);
    expect(twice.filter(([name]) => !Object.hasOwn(sharedNames, name))).toEqual([]);
    const names = new Set(twice.map(([name]) => name));
    expect(Object.keys(sharedNames).filter((name) => !names.has(name))).toEqual([]);
  });

  it(`with under ${smallLines} lines have several importers or a test of their own`, () => {
    const small = filesIn("src").filter(
      (file) =>
        (sources.get(file)?.split("\n").length ?? 0) <= smallLines &&
        importersOf(imports, file).length === 1 &&
        importersOf(testImports(), file).length === 0,
    );
    expect(small.filter((file) => !Object.hasOwn(smallFiles, file))).toEqual([]);
    expect(Object.keys(smallFiles).filter((file) => !small.includes(file))).toEqual([]);
  });

  it("export no function, class or constant that only its own file uses", () => {
    const users = ["src", "test", "bench", "verification", "tools", "examples"].flatMap(filesIn);
    const words = new Map(users.map((file) => [file, new Set(read(file).match(/\w+/g))]));
    const unused = filesIn("src")
      .filter((file) => !isEntryPoint(file))
      .flatMap((file) => valuesOf(sources.get(file) ?? "").map((name) => ({ file, name })))
      .filter(
        ({ file, name }) => !users.some((user) => user !== file && words.get(user)?.has(name)),
      );
    expect(unused).toEqual([]);
  });

  it("never ask which SQL database they run on", () => {
    const asks = /\bdialect\s*[!=]==|[!=]==\s*"(?:postgres|sqlite)"|"(?:postgres|sqlite)"\s*[!=]==/;
    const wrong = filesIn("src/stores").filter((file) => asks.test(read(file)));
    expect(wrong).toEqual([]);
  });

  it("write cookies and token headers only in server/response/tokens.ts", () => {
    const writes = /append\("set-cookie"|set\(header\.(?:access|refresh)Token/;
    expect(filesIn("src/server").filter((file) => writes.test(read(file)))).toEqual([
      "src/server/response/tokens.ts",
    ]);
  });
});

describe("the stops of ARCHITECTURE.md", () => {
  it("exist", () => {
    const page = "ARCHITECTURE.md";
    expect(missingStops(existsSync(join(root, page)) ? read(page) : "")).toEqual([]);
  });

  it("are reported if the file or the function is missing", () => {
    const source = [
      "export async function* authenticate() {}",
      "export class Engine {",
      "  readonly #store: Store;",
      "  async revoke(id: string): Promise<void> {}",
      "  #look() {}",
      "}",
      "const limits = { max: 1 };",
    ].join("\n");
    const sourceOf = (file: string) => (file === "src/a.ts" ? source : undefined);
    const stops = [
      "1. `src/a.ts#authenticate` calls `src/a.ts#Engine.revoke`, then (src/a.ts#look).",
      "2. src/a.ts, src/a.ts#limits and src/a.ts#Engine.",
      "3. `src/a.ts#authenticated`, `src/a.ts#Engine.evict`, `src/b.ts#authenticate`, `src/b.ts`",
    ].join("\n");
    expect(missingStops(stops, sourceOf)).toEqual([
      "src/a.ts#authenticated",
      "src/a.ts#Engine.evict",
      "src/b.ts#authenticate",
      "src/b.ts",
    ]);
  });
});

describe("this test", () => {
  it("has the room of every folder in its table", () => {
    const folders = readdirSync(join(root, "src"), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
    expect(folders.filter((name) => !Object.hasOwn(arrows, name))).toEqual([]);
  });

  it("finds imports of every form", () => {
    const source = [
      'import { a } from "./a.ts";',
      'import type { B } from "../b.ts";',
      'export { c } from "./c/index.ts";',
      "import {",
      "  d,",
      '} from "package/d";',
      'import "./e.ts";',
      'const f = await import("./f.ts");',
    ].join("\n");
    expect(importsOf("src/x/y.ts", source).map(({ to, specifier }) => to ?? specifier)).toEqual([
      ...["src/x/a.ts", "src/b.ts", "src/x/c/index.ts", "package/d", "src/x/e.ts", "src/x/f.ts"],
    ]);
  });

  it("finds a cycle", () => {
    const graph = new Map([
      ["a", ["b"]],
      ["b", ["c"]],
      ["c", ["b"]],
    ]);
    expect(findCycle(graph)).toEqual(["b", "c", "b"]);
  });
});

function roomOf(file: string): string {
  const [top, second = ""] = file.split("/");
  return top === "gen" ? "gen" : second.endsWith(".ts") ? "assembly" : second;
}

/** The folder of `stores` that a file is in; undefined for all other files. */
function storeOf(file: string): string | undefined {
  return /^src\/stores\/([\w-]+)\//.exec(file)?.[1];
}

function fileOf(room: string, file: string): string {
  return room === "assembly" ? `src/${file}` : `src/${room}/${file}`;
}

function isDoor(file: string): boolean {
  const room = roomOf(file);
  const list = doors[room] ?? {};
  return list === "all" || Object.keys(list).some((door) => fileOf(room, door) === file);
}

function isEntryPoint(file: string): boolean {
  return read("package.json").includes(`"./${file}"`);
}

function packageOf(specifier: string): string {
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
}

/** Whether a name begins with its room, as `sql-store` would; `room/room.ts` is the main file. */
function repeatsRoom(file: string): boolean {
  const folders = dirname(file).split("/").slice(1);
  return folders.some((folder) => basename(file).startsWith(`${folder}-`));
}

function importersOf(all: readonly Import[], file: string): string[] {
  return [...new Set(all.filter(({ to }) => to === file).map(({ from }) => from))];
}

function testImports(): Import[] {
  return filesIn("test").flatMap((file) => importsOf(file));
}
