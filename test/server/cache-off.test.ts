import { vi } from "vitest";

// The suites below once more, with a verifier that remembers nothing: the cache changes no answer.
vi.mock(import("../../src/jwt/verified-cache.ts"), async (original) => ({
  ...(await original()),
  createVerifiedCache: () => undefined,
}));

await import("./get-session.test.ts");
await import("./context.test.ts");
await import("./false-logouts.test.ts");
await import("./zero-io.test.ts");
await import("../verify/verify-sessions.test.ts");
