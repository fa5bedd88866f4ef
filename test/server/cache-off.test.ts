import { vi } from "vitest";

// Runs the suites below again without the cache: the cache must not change any result.
vi.mock(import("../../src/jwt/verified-cache.ts"), async (original) => ({
  ...(await original()),
  createVerifiedCache: () => undefined,
}));

await import("./get-session.test.ts");
await import("./context.test.ts");
await import("./false-logouts.test.ts");
await import("./zero-io.test.ts");
await import("../verify/verify-sessions.test.ts");
