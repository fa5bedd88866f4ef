import { maxTokenLength } from "../../base/wire.ts";
import {
  maxRefreshTokenLength,
  type ParsedRefreshToken,
  parseRefreshToken,
} from "../../engine/refresh/format.ts";
import { fromPayload, reservedClaimNames, type TokenClaims } from "../../jwt/claims.ts";
import {
  decodeBase64url,
  isAccessTokenType,
  type ParsedJwt,
  parseCompact,
  parseStrictObject,
} from "../../jwt/strict-parse.ts";

/** What a text is. Nothing of it is proven. */
export type ReadToken =
  | { readonly kind: "access"; readonly jwt: ParsedJwt; readonly claims: TokenClaims }
  | { readonly kind: "refresh"; readonly token: ParsedRefreshToken }
  /** Where it breaks, in whole sentences. */
  | { readonly kind: "malformed"; readonly problem: string };

/** Takes a token out of what people copy: a header line, a cookie, or quotes around it. */
export function tokenIn(text: string): string {
  return text
    .trim()
    .replace(/^(?:set-)?cookie:\s*|^authorization:\s*/i, "")
    .replace(/^bearer\s+/i, "")
    .replace(/^rpcsession-(?:access|refresh)-token:\s*/i, "")
    .replace(/^[\w-]+=(?=[\w-]+\.)/, "")
    .replace(/;.*$/s, "")
    .replace(/^(["'])(.*)\1$/s, "$2")
    .trim();
}

/** Reads a token. Never throws. */
export function readToken(token: string): ReadToken {
  const refresh = parseRefreshToken(token);
  if (refresh !== undefined) {
    return { kind: "refresh", token: refresh };
  }
  const jwt = parseCompact(token);
  const claims = jwt && isAccessTokenType(jwt.header.typ) ? fromPayload(jwt.payload) : undefined;
  return jwt !== undefined && claims !== undefined
    ? { kind: "access", jwt, claims }
    : { kind: "malformed", problem: problemOf(token) };
}

/** Says where a text stops being a token. Repeats nothing of it but names of its members. */
function problemOf(token: string): string {
  const parts = token.split(".");
  if (token === "") {
    return "The input is empty.";
  }
  if (/\s/.test(token)) {
    const at = token.search(/\s/) + 1;
    return `Character ${at} is white space. A token has none; the text may be cut, or hold several tokens.`;
  }
  if (parts.length === 5 || parts.length === 6) {
    return refreshProblem(token, parts);
  }
  if (token.length > maxTokenLength) {
    return `The text has ${token.length} characters. A token has at most ${maxTokenLength}.`;
  }
  if (parts.length !== 3) {
    return `The text has ${parts.length} ${parts.length === 1 ? "part" : "parts"}, separated by dots. An access token has 3, a refresh token 6 (5 in format 1). The text may be cut.`;
  }
  return jwtProblem(parts);
}

type Part = readonly [name: string, length: number | undefined];

const named: readonly Part[] = [
  ["secret id", 8],
  ["session id", 22],
  ["generation", undefined],
];
/** The parts by format: 1 has five, 2 has six. */
const salted: readonly Part[] = [...named, ["MAC", 43], ["check", 11]];
const rooted = (root: number): readonly Part[] => [
  ...named,
  ["format", 1],
  ["root", root],
  ["MAC", 43],
];

function refreshProblem(token: string, parts: readonly string[]): string {
  if (parts[0]?.startsWith("eyJ")) {
    return "This is an encrypted JWT (JWE). Access tokens of rpc-session are signed, not encrypted.";
  }
  // The root of a session from before format 2 is its salt, which is longer.
  const expected = parts.length === 6 ? rooted(parts[4]?.length === 43 ? 43 : 22) : salted;
  for (const [i, [name, length]] of expected.entries()) {
    const part = parts[i] ?? "";
    const where = `Part ${i + 1} of a refresh token is its ${name}`;
    if (length === undefined ? !/^(?:0|[1-9]\d{0,9})$/.test(part) : !/^[\w-]*$/.test(part)) {
      return `${where}, but it has a character that cannot be there.`;
    }
    if (length !== undefined && part.length !== length) {
      return `${where}, of ${length} characters, but this one has ${part.length}. The text may be cut.`;
    }
  }
  return token.length > maxRefreshTokenLength
    ? `The text has ${token.length} characters. A refresh token has at most ${maxRefreshTokenLength}.`
    : "The MAC or the check of the refresh token ends in a character that no encoder writes. The text was changed.";
}

function jwtProblem([first = "", second = "", third = ""]: readonly string[]): string {
  const header = objectIn("header", first);
  if (typeof header === "string") {
    return header;
  }
  const payload = objectIn("payload", second);
  if (typeof payload === "string") {
    return payload;
  }
  const signature = encodingProblem("signature", third);
  if (signature !== undefined) {
    return signature;
  }
  return headerProblem(header) ?? payloadProblem(payload);
}

type JsonMembers = NonNullable<ReturnType<typeof parseStrictObject>>;

/** The JSON object in a part, or what is wrong with it. */
function objectIn(name: string, part: string): JsonMembers | string {
  const problem = encodingProblem(name, part);
  if (problem !== undefined) {
    return problem;
  }
  let text: string;
  try {
    const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    text = utf8.decode(decodeBase64url(part));
  } catch {
    return `The ${name} is not UTF-8.`;
  }
  const value = parseStrictObject(text);
  return (
    value ??
    (isJsonObject(text)
      ? `The ${name} is JSON that parsers read differently: a name that occurs twice, a number beyond 2^53 - 1, a lone surrogate, or more than 8 levels.`
      : `The ${name} is not a JSON object. The text may be cut or changed.`)
  );
}

function isJsonObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

function encodingProblem(name: string, part: string): string | undefined {
  if (part === "") {
    return `The ${name} is empty.${name === "signature" ? " The token is not signed." : ""}`;
  }
  const at = part.search(/[^\w-]/);
  if (at >= 0) {
    const char = part[at];
    const known = char === "=" ? "padding" : char === "+" || char === "/" ? "base64" : undefined;
    const which = known === undefined ? "" : ` (it is ${known}, which base64url does without)`;
    return `Character ${at + 1} of the ${name} is not one of base64url${which}.`;
  }
  return decodeBase64url(part) === undefined
    ? `The ${name} is not canonical base64url: its length or its last character is impossible. The text may be cut.`
    : undefined;
}

function headerProblem(header: JsonMembers): string | undefined {
  const { alg, kid, typ } = header;
  const extra = Object.keys(header).filter((name) => !["alg", "kid", "typ"].includes(name));
  if (typeof typ !== "string" || !isAccessTokenType(typ)) {
    const given = typeof typ === "string" ? `typ ${JSON.stringify(typ.slice(0, 40))}` : "no typ";
    return `The header has ${given}. Access tokens have "at+jwt" (RFC 9068). This is another kind of JWT, such as an ID token.`;
  }
  if (extra.length > 0) {
    return `The header has the member ${JSON.stringify(extra[0]?.slice(0, 40))}. Access tokens of rpc-session have only alg, kid and typ.`;
  }
  if (typeof alg !== "string" || typeof kid !== "string" || !/^[\w-]{1,64}$/.test(kid)) {
    return "The header lacks alg or kid, or the kid is not 1 to 64 characters of base64url.";
  }
  return undefined;
}

/** The claims that every access token has, in the order in which they are checked. */
const texts = ["iss", "aud", "sub", "sid", "jti", "client_id"] as const;
const times = [
  "iat",
  "exp",
  "gen",
  "gat",
  "cv",
  "auth_time",
  "session_iat",
  "session_exp",
] as const;

function payloadProblem(payload: JsonMembers): string {
  const missing = [...texts, ...times, "transport"].filter((name) => payload[name] === undefined);
  if (missing.length > 0) {
    return `The payload lacks ${missing.join(", ")}. Access tokens of rpc-session have all of these; the token may be another service's.`;
  }
  const wrong =
    texts.find((name) => typeof payload[name] !== "string" || payload[name] === "") ??
    times.find((name) => !Number.isSafeInteger(payload[name]) || Number(payload[name]) < 0) ??
    (payload.transport === "cookie" || payload.transport === "header" ? undefined : "transport");
  if (wrong !== undefined) {
    return `The claim ${wrong} has the wrong type or value.`;
  }
  const reserved = Object.keys(payload).find(
    (name) => reservedClaimNames.has(name) && !known.has(name),
  );
  return reserved === undefined
    ? "A claim has the wrong type: nbf, tid, acr, amr, rpcsession or a text with a lone surrogate."
    : `The payload has the claim ${reserved}, which has no meaning here; such a token is refused.`;
}

const known: ReadonlySet<string> = new Set([
  ...[...texts, ...times, "transport", "tid", "nbf"],
  ...["rpcsession_authn", "rpcsession"],
]);
