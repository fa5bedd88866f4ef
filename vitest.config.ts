import { defineConfig } from "vitest/config";

export default defineConfig({
  ssr: { resolve: { conditions: ["@rpc-session/source", "node", "default"] } },
  resolve: { conditions: ["@rpc-session/source", "node", "import", "default"] },
  test: {
    include: ["test/**/*.test.ts"],
    typecheck: { enabled: true, include: ["test/**/*.test-d.ts"], tsconfig: "tsconfig.json" },
    testTimeout: 20_000,
    // A database may take long to start beside two other files.
    hookTimeout: 60_000,
    // Many tests wait for databases and browsers, not for a core.
    maxWorkers: 3,
  },
});
