import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { configDefaults, defineConfig } from "vitest/config";

// Workers, and the programs that tests start, need not compile the same files again each time.
process.env.NODE_COMPILE_CACHE ??= join(import.meta.dirname, "node_modules/.cache/compiled");

/** Files that replace modules or globals: they need a process of their own. */
const replacing = globSync("test/**/*.test.ts", { cwd: import.meta.dirname }).filter((file) =>
  /\bvi\.(mock|doMock|resetModules|stubGlobal)\(/.test(
    readFileSync(join(import.meta.dirname, file), "utf8"),
  ),
);

/**
 * Files that need a process, a database, a browser or programs of their own, or more than about 10 seconds.
 * The others need Node.js alone and form the project `fast`.
 */
const slow = [
  ...replacing,
  "test/adapters/examples.test.ts",
  "test/cli/**/*.test.ts",
  "test/client/react-native.test.ts",
  "test/client/resume-exit.test.ts",
  "test/engine/memory-bound.test.ts",
  "test/engine/model.test.ts",
  "test/examples/**/*.test.ts",
  "test/feed/**/*.test.ts",
  "test/flow/refused-body.test.ts",
  "test/flow/session-api-on-stores.test.ts",
  "test/flow/watch-example.test.ts",
  "test/server/streams-leak.test.ts",
  "test/guides.test.ts",
  "test/stores/postgres*.test.ts",
  "test/stores/redis*.test.ts",
  "test/stores/refresh-rules-postgres.test.ts",
  "test/stores/refresh-rules-redis.test.ts",
  "test/stores/secret-roll-out.test.ts",
  "test/stores/stop-under-load.test.ts",
  "test/stores/two-processes.test.ts",
  "test/tools/mutants.test.ts",
];

/** They have a project of their own, because browsers take long. */
const browsers = [
  "test/browser/**/*.test.ts",
  "test/examples/passkey.test.ts",
  "test/examples/web.test.ts",
];

/**
 * They have a project of their own, because they install applications from the npm registry, or drive
 * clients of other projects.
 */
const apps = ["test/apps/*.test.ts", "test/clients/**/*.test.ts"];

export default defineConfig({
  ssr: { resolve: { conditions: ["@rpc-session/source", "node", "default"] } },
  resolve: { conditions: ["@rpc-session/source", "node", "import", "default"] },
  test: {
    // Many tests wait for databases and browsers, not for a core.
    maxWorkers: 3,
    // On a busy machine everything takes many times longer. A test that hangs is found even so.
    testTimeout: 180_000,
    hookTimeout: 180_000,
    expect: { poll: { timeout: 120_000, interval: 10 } },
    setupFiles: ["test/setup.ts"],
    projects: [
      {
        extends: true,
        test: {
          name: "fast",
          // One process runs many files, so that each module is loaded once, not 200 times. It is not a
          // thread, because threads share BroadcastChannel: clients of two files would be tabs of each other.
          pool: "forks",
          isolate: false,
          include: ["test/**/*.test.ts"],
          exclude: [...configDefaults.exclude, ...slow, ...browsers, ...apps],
          typecheck: {
            enabled: true,
            include: ["test/**/*.test-d.ts"],
            tsconfig: "tsconfig.json",
          },
        },
      },
      {
        extends: true,
        test: {
          name: "slow",
          include: slow,
          exclude: [...configDefaults.exclude, ...browsers, ...apps],
        },
      },
      { extends: true, test: { name: "browsers", include: browsers } },
      {
        extends: true,
        test: {
          name: "apps",
          include: apps,
          globalSetup: ["test/apps/setup.ts"],
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
