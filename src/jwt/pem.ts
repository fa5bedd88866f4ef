import { exportJWK, importPKCS8, importSPKI, type JWK } from "jose";
import { signingAlgorithmNames } from "./algorithms.ts";

/** What a PEM text must be to hold a key for the operation (RFC 7468 §10, §13). */
const labels = { sign: "PRIVATE KEY", verify: "PUBLIC KEY" } as const;

/** @throws TypeError when the text is no PEM of the one form that is read, with how to make it */
export function assertPem(pem: string, operation: "sign" | "verify"): void {
  const label = labels[operation];
  if (pem.includes(`-----BEGIN ${label}-----`) && pem.includes(`-----END ${label}-----`)) {
    return;
  }
  const how = operation === "sign" ? "openssl pkcs8 -topk8 -nocrypt" : "openssl pkey -pubout";
  throw new TypeError(
    `PEM: the text holds no "BEGIN ${label}"; convert the key, for example with "${how}"`,
  );
}

/**
 * Reads a key from PEM (PKCS #8 to sign, SPKI to verify). Its algorithm follows from the key.
 * @throws TypeError when it is no key of a supported algorithm
 */
export async function readPem(pem: string, operation: "sign" | "verify"): Promise<JWK> {
  assertPem(pem, operation);
  const read = operation === "sign" ? importPKCS8 : importSPKI;
  const failures: unknown[] = [];
  for (const alg of signingAlgorithmNames) {
    try {
      return await exportJWK(await read(pem, alg, { extractable: true }));
    } catch (error) {
      failures.push(error);
    }
  }
  throw new TypeError(
    "PEM: the key is of no supported type; use one on curve P-256, Ed25519, or RSA",
    { cause: new AggregateError(failures) },
  );
}
