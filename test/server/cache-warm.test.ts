import { vi } from "vitest";

// Runs the suites below again with every token verified a moment before: a result from the cache
// must be the same.
vi.mock(import("../../src/jwt/verifier.ts"), async (original) => {
  const { createAccessTokenVerifier, ...rest } = await original();
  return {
    ...rest,
    createAccessTokenVerifier(options) {
      const verify = createAccessTokenVerifier(options);
      return async (token, now) => {
        try {
          await verify(token, now);
        } catch {
          // The result of the second call counts.
        }
        return verify(token, now);
      };
    },
  };
});

await import("./get-session.test.ts");
await import("./context.test.ts");
await import("./false-logouts.test.ts");
await import("../verify/verify-sessions.test.ts");
