import { base64Encode } from "@bufbuild/protobuf/wire";

interface Runtime {
  readonly Buffer?: typeof Buffer;
  readonly process?: { getBuiltinModule?: (name: string) => unknown };
  readonly navigator?: { readonly userAgent?: string; readonly product?: string };
  readonly crypto?: { readonly subtle?: unknown };
  readonly isSecureContext?: boolean;
}

const { Buffer: globalBuffer, process, navigator }: Runtime = globalThis as Runtime;

/** The global `Buffer`, if it can decode base64url. The replacements in some bundles cannot. */
const nodeBuffer = globalBuffer?.isEncoding?.("base64url") ? globalBuffer : undefined;

/** The value of the `secret` option: one or more secrets of at least 32 bytes. The first creates new tokens. */
export type SecretOption = string | Uint8Array | readonly (string | Uint8Array)[];

const minimumBytes = 32;

/**
 * Reads the `secret` option as bytes.
 * @throws TypeError when a secret is shorter than 32 bytes, or the list is empty
 */
export function readSecretOption(option: SecretOption): Uint8Array<ArrayBuffer>[] {
  const list = typeof option === "string" || option instanceof Uint8Array ? [option] : [...option];
  if (list.length === 0) {
    throw emptyList();
  }
  return list.map((secret) => {
    const bytes =
      typeof secret === "string" ? new TextEncoder().encode(secret) : Uint8Array.from(secret);
    if (bytes.length < minimumBytes) {
      throw new TypeError(
        `secret must be at least ${minimumBytes} bytes long, got ${bytes.length}; generate one with "openssl rand -base64 32"`,
      );
    }
    return bytes;
  });
}

/** Secrets that are no longer trusted; see {@link readDeadSecrets}. */
export interface DeadSecrets {
  /** Ids of secrets. */
  readonly ids: readonly string[];
  /** The secrets themselves. */
  readonly secrets: readonly Uint8Array<ArrayBuffer>[];
}

const maxDeadSecrets = 64;

/**
 * Reads the option `deadSecrets`: ids of secrets, or secrets.
 * @throws TypeError when a value is neither, or there are more than 64
 */
export function readDeadSecrets(option: readonly (string | Uint8Array)[] = []): DeadSecrets {
  if (option.length > maxDeadSecrets) {
    throw new TypeError(
      `deadSecrets holds at most ${maxDeadSecrets} secrets, got ${option.length}; remove those that no session used for lifetimes.absolute`,
    );
  }
  const ids = option.filter((one): one is string => typeof one === "string" && isSecretId(one));
  const others = option.filter((one) => !ids.includes(one as string));
  if (others.some((one) => byteLength(one) < minimumBytes)) {
    throw new TypeError(
      `deadSecrets must hold ids of secrets (8 characters, see "rpc-session secrets list") or secrets of at least ${minimumBytes} bytes`,
    );
  }
  return { ids, secrets: others.length === 0 ? [] : readSecretOption(others) };
}

/** Whether a value has the form of a secret's id. No secret is that short. */
function isSecretId(value: string): boolean {
  return /^[\w-]{8}$/.test(value);
}

function byteLength(secret: unknown): number {
  if (typeof secret === "string") {
    return new TextEncoder().encode(secret).length;
  }
  return secret instanceof Uint8Array ? secret.length : 0;
}

/** The secrets of a server. The first creates new tokens; all of them verify tokens. */
export interface SecretRing {
  /** The first secret, which creates new tokens. */
  readonly current: SecretKeys;
  /** All secrets by id; each of them verifies tokens. */
  readonly byId: ReadonlyMap<string, SecretKeys>;
}

/** The keys derived from one secret: one for each purpose. */
export interface SecretKeys {
  /** Identifies the secret and the issuer without revealing anything about the secret. */
  readonly id: string;
  /** The issuer for which the keys were derived. */
  readonly issuer: string;
  /** Proves refresh tokens of format 2. */
  readonly refresh: Mac;
  /** Proves refresh tokens of format 1, together with `refreshCheck`. */
  readonly refreshTag: Mac;
  readonly refreshCheck: Mac;
  readonly antiCsrf: Mac;
  /** Makes the nonces of proofs of possession. */
  readonly nonce: Mac;
  /** Makes the challenges, session identifiers and proof cookies of device bound sessions. */
  readonly dbsc: Mac;
  /** Makes tickets. */
  readonly ticket: Mac;
  /** AES-256-GCM key for data that is stored encrypted. */
  readonly encryption: CryptoKey;
}

/**
 * A keyed message authentication code (HMAC-SHA-256, RFC 2104) of a fixed length. Both methods are
 * synchronous where `node:crypto` exists.
 */
interface Mac {
  /** Returns the code of bytes, or of a text in UTF-8. */
  sign(data: Uint8Array<ArrayBuffer> | string): Uint8Array | Promise<Uint8Array>;
  /** Whether `code` is the code of `data`. Takes the same time for every code of the right length. */
  verify(data: Uint8Array<ArrayBuffer> | string, code: Uint8Array): boolean | Promise<boolean>;
}

/** Derives the keys of every secret. They depend on the issuer as well. */
export async function openSecretRing(
  secrets: readonly Uint8Array<ArrayBuffer>[],
  issuer: string,
): Promise<SecretRing> {
  const keys = await Promise.all(secrets.map((secret) => deriveKeys(secret, issuer)));
  const [current] = keys;
  if (current === undefined) {
    throw emptyList();
  }
  return { current, byId: new Map(keys.map((k) => [k.id, k])) };
}

function emptyList(): TypeError {
  return new TypeError("secret must not be an empty list; give at least one secret");
}

/** HKDF with SHA-256 (RFC 5869): one key for each purpose and issuer. */
async function deriveKeys(secret: Uint8Array<ArrayBuffer>, issuer: string): Promise<SecretKeys> {
  const material = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
  const derive = async (purpose: string): Promise<Uint8Array<ArrayBuffer>> =>
    new Uint8Array(
      await crypto.subtle.deriveBits(
        {
          name: "HKDF",
          hash: "SHA-256",
          salt: new Uint8Array(0),
          info: new TextEncoder().encode(`rpc-session/v1/${purpose}\u0000${issuer}`),
        },
        material,
        256,
      ),
    );
  const encryption = await derive("encryption");
  return {
    id: base64Encode((await derive("secret-id")).subarray(0, 6), "url"),
    issuer,
    refresh: await createMac(await derive("refresh-token-2")),
    refreshTag: await createMac(await derive("refresh-tag")),
    refreshCheck: await createMac(await derive("refresh-check"), checkBytes),
    antiCsrf: await createMac(await derive("anti-csrf")),
    nonce: await createMac(await derive("proof-nonce")),
    dbsc: await createMac(await derive("dbsc")),
    ticket: await createMac(await derive("ticket")),
    encryption: await crypto.subtle.importKey("raw", encryption, "AES-GCM", false, [
      "encrypt",
      "decrypt",
    ]),
  };
}

/** The length of the code that detects junk before the store is read; the tag proves a token. */
const checkBytes = 8;

async function createMac(key: Uint8Array<ArrayBuffer>, length = 32): Promise<Mac> {
  if (nodeCrypto !== undefined) {
    const { createHmac, createSecretKey } = nodeCrypto;
    const secret = createSecretKey(key);
    const sign = (data: Uint8Array<ArrayBuffer> | string): Uint8Array =>
      createHmac("sha256", secret).update(data).digest().subarray(0, length);
    return { sign, verify: (data, code) => equalBytes(sign(data), code) };
  }
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const secret = await crypto.subtle.importKey("raw", key, algorithm, false, ["sign"]);
  const sign = async (data: Uint8Array<ArrayBuffer> | string): Promise<Uint8Array> => {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
    return new Uint8Array(await crypto.subtle.sign("HMAC", secret, bytes), 0, length);
  };
  return { sign, verify: async (data, code) => equalBytes(await sign(data), code) };
}

/** Compares two byte strings in a time that depends only on their length. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (nodeCrypto !== undefined) {
    return a.length === b.length && nodeCrypto.timingSafeEqual(a, b);
  }
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) {
    difference |= (a[i] ?? 0) ^ (b[i] ?? 0);
  }
  return difference === 0;
}

/** Returns the SHA-256 of a text in base64url. Synchronous where `node:crypto` exists. */
export function sha256(text: string): string | Promise<string> {
  if (nodeCrypto !== undefined) {
    // `hash` is faster, but some runtimes with node:crypto lack it.
    return nodeCrypto.hash === undefined
      ? nodeCrypto.createHash("sha256").update(text).digest("base64url")
      : nodeCrypto.hash("sha256", text, "base64url");
  }
  return crypto.subtle
    .digest("SHA-256", new TextEncoder().encode(text))
    .then((hash) => base64Encode(new Uint8Array(hash), "url"));
}

/** Random bytes that nobody has used yet: asking the system for a few costs as much as for many. */
const pool = new Uint8Array(4_096);
let unused = 0;

/** Returns a new random string of `bytes` bytes in base64url, at most 4096. */
export function randomId(bytes: number): string {
  if (unused < bytes) {
    crypto.getRandomValues(pool);
    unused = pool.length;
  }
  const taken = pool.subarray(unused - bytes, unused);
  unused -= bytes;
  const id = encodeBase64url(taken);
  // A secret value is not kept longer than its use.
  taken.fill(0);
  return id;
}

/** Encodes bytes, or a text in UTF-8, in base64url without padding (RFC 4648 section 5). */
export function encodeBase64url(data: Uint8Array | string): string {
  if (nodeBuffer !== undefined) {
    return typeof data === "string"
      ? nodeBuffer.from(data).toString("base64url")
      : nodeBuffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64url");
  }
  return base64Encode(typeof data === "string" ? new TextEncoder().encode(data) : data, "url");
}

/** Returns the bytes of a text that is ASCII, which is simpler to encode than UTF-8. */
export function asciiBytes(text: string): Uint8Array<ArrayBuffer> {
  return nodeBuffer === undefined
    ? new TextEncoder().encode(text)
    : (nodeBuffer.from(text, "latin1") as Uint8Array<ArrayBuffer>);
}

/** Returns the bytes of a text; undefined unless it is ASCII. */
export function bytesIfAscii(text: string): Uint8Array<ArrayBuffer> | undefined {
  const bytes =
    nodeBuffer === undefined
      ? new TextEncoder().encode(text)
      : (nodeBuffer.from(text, "utf8") as Uint8Array<ArrayBuffer>);
  return bytes.length === text.length ? bytes : undefined;
}

/**
 * Decodes canonical base64url without padding; undefined for any other spelling. The text must be ASCII:
 * `Buffer` looks at the low 8 bits of a character only. Undefined as a whole where there is no `Buffer` that
 * leaves out what it does not know.
 */
export const decodeCanonical: ((text: string) => Uint8Array<ArrayBuffer> | undefined) | undefined =
  nodeBuffer !== undefined && leavesOutJunk(nodeBuffer)
    ? (text) => decodeWith(nodeBuffer, text)
    : undefined;

/**
 * `Buffer` decodes leniently: it leaves out what it does not know, and also takes `+` and `/`. A text is canonical
 * if it decodes to as many bytes as its length allows, contains neither `+` nor `/`, and its unused last bits
 * are zero. To encode the bytes again and compare would take twice as long.
 */
function decodeWith(buffer: typeof Buffer, text: string): Uint8Array<ArrayBuffer> | undefined {
  const bytes = buffer.from(text, "base64url");
  const rest = text.length % 4;
  const isCanonical =
    bytes.length === (text.length * 3) >> 2 &&
    !text.includes("+") &&
    !text.includes("/") &&
    (rest === 0 || (lastCharacters[rest]?.includes(text.charAt(text.length - 1)) ?? false));
  return isCanonical ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length) : undefined;
}

/** By the length of a text modulo 4: the last characters whose unused bits are zero. No text has a rest of 1. */
const lastCharacters = [undefined, undefined, "AQgw", "AEIMQUYcgkosw048"];

/** Whether a `Buffer` leaves out every ASCII character that neither base64 nor base64url has, as Node's does. */
function leavesOutJunk(buffer: typeof Buffer): boolean {
  const ascii = Array.from({ length: 128 }, (_, code) => String.fromCharCode(code));
  return ascii
    .filter((char) => !/[\w+/-]/.test(char))
    .every((char) => buffer.from(`AAA${char}`, "base64url").length === 2);
}

export type NodeCrypto = typeof import("node:crypto");

/** @throws TypeError if the platform has no Web Crypto; the message names the platform and what to do */
export function assertWebCrypto(): void {
  const runtime = globalThis as Runtime;
  if (runtime.crypto?.subtle === undefined) {
    const { userAgent, product = "unknown" } = runtime.navigator ?? {};
    throw new TypeError(
      `sessions need Web Crypto, but crypto.subtle is missing on this platform (${userAgent ?? product}); ${cryptoAdvice(runtime)}`,
    );
  }
}

function cryptoAdvice({ navigator, isSecureContext }: Runtime): string {
  if (/jsdom/.test(navigator?.userAgent ?? "")) {
    return 'give jsdom the crypto of Node.js, as the page docs/testing.md shows in "Jest and jsdom"';
  }
  // Browsers hide it from pages that an attacker on the way could have changed (Web Cryptography API).
  if (isSecureContext === false) {
    return "open the page over https, or as http://localhost";
  }
  return "run the server on Node.js 22.13 or later, or on a platform that docs/runtimes.md lists. An app needs only rpc-session/client, which works without Web Crypto";
}

/** Cloudflare Workers have a `node:crypto` whose `verify` refuses the keys that it makes. */
const isEmulated = navigator?.userAgent === "Cloudflare-Workers";

/**
 * Node's cryptography module, undefined in runtimes without it. Only this file looks it up. It works
 * synchronously: handing an HMAC or a signature to Web Crypto's thread costs more than computing it.
 */
export const nodeCrypto: NodeCrypto | undefined = isEmulated
  ? undefined
  : (process?.getBuiltinModule?.("node:crypto") as NodeCrypto | undefined);
