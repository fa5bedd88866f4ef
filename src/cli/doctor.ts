import { readFile } from "node:fs/promises";
import { type Answer, asUsage, type Command, type Given, textOf, UsageError } from "./command.ts";
import type { Finding } from "./doctor/findings.ts";

/** `rpc-session doctor` */
export const doctorCommand: Command = {
  name: "doctor",
  summary: "check a running service: what is wrong, and the option that mends it",
  forms: ["<url> [--origin <origin>] [--grpc] [--json]"],
  about:
    "Checks a running service from outside: the issuer, cookies, CORS, the clock, headers that proxies remove, the published keys, limits, gRPC-Web, gRPC and HTTP/2. Each finding says what was seen, why it matters, and the option or the line that mends it. It signs nobody in and changes nothing; the service reports about 15 refused calls.",
  arguments: [
    ["<url>", "the address that clients use as baseUrl, such as https://api.example.com"],
  ],
  options: [
    {
      flags: "--origin <origin>",
      meaning: "also check the calls of pages of this origin, such as https://app.example.com",
    },
    { flags: "--grpc", meaning: "gRPC must work at this address" },
    { flags: "--jwks <url>", meaning: "where the keys are published; they must be there" },
    {
      flags: "--cookie <name>",
      meaning: "the name of the refresh cookie, if it is your own (cookies.names.refresh)",
    },
    {
      flags: "--access-token-file <path>",
      meaning: 'also make a call with the access token in this file; "-" reads the standard input',
    },
    {
      flags: "--stream <procedure>",
      meaning:
        "also open this stream with the token and an empty message, and look whether something holds messages back",
    },
  ],
  examples: [
    ["Check a service", "rpc-session doctor https://api.example.com"],
    [
      "Check it for the page of another origin",
      "rpc-session doctor https://api.example.com --origin https://app.example.com",
    ],
    [
      "Make a real call, with a token from the clipboard (macOS)",
      "pbpaste | rpc-session doctor https://api.example.com --access-token-file -",
    ],
    [
      "List what is broken, in a script",
      "rpc-session doctor http://localhost:8080 --json | jq -r '.findings[] | select(.severity == \"fail\").mend'",
    ],
  ],
  async run(given) {
    const target = await readTarget(given);
    const findings = await examine(target);
    const isBroken = findings.some(({ severity }) => severity === "fail");
    const { findingsText } = await import("./doctor/findings.ts");
    return {
      text: findingsText(target.url.href, findings),
      json: { url: target.url.href, ok: !isBroken, findings },
      code: isBroken ? 1 : 0,
    } satisfies Answer;
  },
};

/** What to check. */
interface DoctorTarget {
  readonly url: URL;
  readonly origin: string | undefined;
  readonly cookie: string | undefined;
  readonly jwks: URL | undefined;
  readonly token: string | undefined;
  readonly stream: string | undefined;
  readonly needsGrpc: boolean;
}

/** The checks, in order. */
async function examine(target: DoctorTarget): Promise<readonly Finding[]> {
  // Loaded only here, so that the other commands start faster.
  const { lookAtService, lookAtIssuer, lookAtClock, lookAtHeaders, lookAtLimits } = await import(
    "./doctor/service.ts"
  );
  const { lookAtCookies, unknownCookies } = await import("./doctor/cookies.ts");
  const { lookAtCors } = await import("./doctor/cors.ts");
  const { lookAtGrpc, lookAtGrpcWeb } = await import("./doctor/protocols.ts");
  const { lookAtKeys } = await import("./doctor/keys.ts");
  const { lookAtStream, lookAtToken } = await import("./doctor/token.ts");

  // 1. Does SessionService answer? Without that the other checks say nothing.
  const { findings, refused } = await lookAtService(target);
  if (refused === undefined) {
    return findings;
  }

  // 2. What its refusal shows: the issuer, the clock, and what is lost on the way.
  const issuer = refused.hint?.realm;
  const way = [
    ...lookAtIssuer(target, refused),
    ...lookAtClock(refused),
    ...(await inPeace("headers", () => lookAtHeaders(target, refused))),
    ...(await inPeace("limits", () => lookAtLimits(target))),
  ];

  // 3. What browsers need: cookies and CORS.
  let cookies = unknownCookies;
  const ofCookies = await inPeace("cookies", async () => {
    cookies = await lookAtCookies(target, refused);
    return cookies.findings;
  });
  const cors = await inPeace("cors", () => lookAtCors(target, cookies));

  // 4. The other protocols, and the keys for services that verify.
  const others = [
    ...(await inPeace("grpc-web", () => lookAtGrpcWeb(target))),
    ...(await lookAtGrpc(target, target.needsGrpc)),
    ...(await lookAtKeys({ ...target, issuer })),
  ];

  // 5. A real call, if there is a token.
  const { token, stream } = target;
  const real: Finding[] = [];
  if (token !== undefined) {
    const tokenTarget = { ...target, token, cookies, issuer };
    real.push(...(await inPeace("token", () => lookAtToken(tokenTarget))));
    real.push(...(stream === undefined ? [] : await lookAtStream(tokenTarget, stream)));
  }
  return [...findings, ...way, ...ofCookies, ...cors, ...others, ...real];
}

/** Runs a check. A connection that breaks during it is a finding, and the other checks go on. */
async function inPeace(
  check: string,
  work: () => Promise<readonly Finding[]>,
): Promise<readonly Finding[]> {
  try {
    return await work();
  } catch (error) {
    const { Findings } = await import("./doctor/findings.ts");
    const { causeOf } = await import("./doctor/wire.ts");
    const found = new Findings(check);
    found.fail(
      `A request of this check gets no answer: ${causeOf(error)}.`,
      "Something on the way breaks the connection, while other requests are answered.",
      "Look for rules of a proxy or a firewall about the method, the headers or the length of requests.",
    );
    return found.list;
  }
}

async function readTarget(given: Given): Promise<DoctorTarget> {
  const { isLoopback } = await import("../request/cookie-options.ts");
  const { readOrigins } = await import("../request/origins.ts");
  const [address, ...more] = given.args;
  if (address === undefined || more.length > 0) {
    throw new UsageError(`"doctor" takes exactly one address, got ${given.args.length}`);
  }
  const url = readUrl(address, "the address");
  const origin = textOf(given, "origin");
  if (origin !== undefined) {
    asUsage(() => readOrigins("--origin", [origin]));
  }
  const jwks = textOf(given, "jwks");
  const cookie = textOf(given, "cookie");
  if (cookie !== undefined && !/^[\w.-]{1,96}$/.test(cookie)) {
    throw new UsageError("--cookie must be the name of a cookie, without a value");
  }
  const file = textOf(given, "accessTokenFile");
  const stream = textOf(given, "stream");
  if (stream !== undefined && (file === undefined || !/^[\w.]+\/\w+$/.test(stream))) {
    throw new UsageError(
      "--stream must name a method, such as notes.v1.NotesService/WatchNotes, and needs --access-token-file",
    );
  }
  if (file !== undefined && url.protocol === "http:" && !isLoopback(url.hostname)) {
    throw new UsageError(
      "a token is not sent over plain http; use an https address, or leave out --access-token-file",
    );
  }
  return {
    ...{ url, origin, cookie, stream },
    jwks: jwks === undefined ? undefined : readUrl(jwks, "--jwks"),
    token: file === undefined ? undefined : await readToken(file, given),
    needsGrpc: given.options.grpc === true,
  };
}

function readUrl(text: string, name: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isWeb = url?.protocol === "http:" || url?.protocol === "https:";
  if (url === undefined || !isWeb || url.username !== "" || url.password !== "") {
    // Never repeats the argument: it may hold a password.
    throw new UsageError(
      `${name} must be an http or https URL without credentials, such as "https://api.example.com"`,
    );
  }
  url.search = "";
  url.hash = "";
  return url;
}

async function readToken(file: string, given: Given): Promise<string> {
  const text = file === "-" ? await given.stdin?.() : await readFile(file, "utf8");
  const { tokenIn } = await import("./inspect/read.ts");
  return tokenIn(text ?? "");
}
