// A thread of signTokens. It sends its tokens when all are signed.
import { parentPort, workerData } from "node:worker_threads";
import { importSigningKey, signAccessToken } from "../../src/jwt/keys.ts";
import { type Part, sessionIdOf } from "./tokens.ts";

const { privateJwk, shared, from, to } = workerData as Part;
const key = await importSigningKey(privateJwk);
const tokens: string[] = [];
for (let at = from; at < to; ) {
  const some: Promise<string>[] = [];
  for (const end = Math.min(to, at + 256); at < end; at++) {
    const own = { sid: sessionIdOf(at), sub: `user-${at}`, jti: `token-${at}` };
    some.push(signAccessToken({ ...shared, ...own }, key));
  }
  tokens.push(...(await Promise.all(some)));
}
parentPort?.postMessage(tokens);
