import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { TokenClaims } from "../../src/jwt/claims.ts";

/** Options of {@link signTokens}. */
export interface SignedTokens {
  /** The private key, as a JWK. */
  readonly privateJwk: object;
  readonly count: number;
  /** The claims that all tokens share. */
  readonly shared: Omit<TokenClaims, "sid" | "sub" | "jti">;
}

/**
 * Signs access tokens on all cores. Use an Ed25519 key, which signs fastest. The session of token `i`
 * is `sessionIdOf(i)`.
 */
export async function signTokens({ count, ...given }: SignedTokens): Promise<string[]> {
  const workers = availableParallelism();
  const share = Math.ceil(count / workers);
  const parts = Array.from({ length: workers }, (_, i) =>
    signPart({ ...given, from: i * share, to: Math.min(count, (i + 1) * share) }),
  );
  return (await Promise.all(parts)).flat();
}

/** The id of the session of a token: as long as a real one. */
export function sessionIdOf(i: number): string {
  return String(i).padStart(22, "s");
}

/** What a thread signs: the tokens from one number to before another. */
export interface Part extends Omit<SignedTokens, "count"> {
  readonly from: number;
  readonly to: number;
}

async function signPart(part: Part): Promise<readonly string[]> {
  const worker = new Worker(new URL("sign.ts", import.meta.url), {
    workerData: part,
    execArgv: ["--conditions=@rpc-session/source"],
  });
  return new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
}
