import { vi } from "vitest";

// The suites below once more, with every token verified a moment before: an answer from memory is
// the answer.
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
          // The second try tells.
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
