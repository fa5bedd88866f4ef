// Clients of other projects: each calls a method once, from a program of its own.
import { execFile, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  type DescMethod,
  fromBinary,
  fromJson,
  fromJsonString,
  type JsonValue,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";
import { codeNames } from "../helpers/wire-status.ts";

export interface ForeignCall {
  /** The address of the server, for example `http://127.0.0.1:8080`. */
  readonly url: string;
  readonly method: DescMethod;
  readonly message: JsonValue;
  readonly headers: Readonly<Record<string, string>>;
}

export interface ForeignAnswer {
  /** As Connect spells it, or "ok". */
  readonly code: string;
  /** Headers and trailers. */
  readonly headers: Headers;
  readonly message: JsonValue | undefined;
}

export interface ForeignClient {
  readonly name: string;
  readonly http: "h1" | "h2c";
  /** Why its tests are skipped; undefined if it can run. */
  readonly missing: string | undefined;
  call(call: ForeignCall): Promise<ForeignAnswer>;
}

const root = join(import.meta.dirname, "../..");
const programs = join(root, "tools/clients");
/** Debian installs packages of Python for this one. */
const python = existsSync("/usr/bin/python3") ? "/usr/bin/python3" : "python3";
const buf = join(root, "node_modules/.bin/buf");

export const foreignClients: readonly ForeignClient[] = [
  {
    name: "@grpc/grpc-js",
    http: "h2c",
    missing: packageMissing("@grpc/grpc-js"),
    call: (call) => callProgram(process.execPath, join(programs, "grpc-js.mjs"), call),
  },
  {
    name: "grpc-web",
    http: "h1",
    missing: packageMissing("grpc-web"),
    call: (call) => callProgram(process.execPath, join(programs, "grpc-web.mjs"), call),
  },
  {
    name: "grpcio for Python",
    http: "h2c",
    missing: grpcioMissing(),
    call: (call) => callProgram(python, join(programs, "grpcio.py"), call),
  },
  {
    name: "curl with JSON",
    http: "h1",
    missing: runs("curl", "--version") ? undefined : "curl is not installed",
    call: callCurl,
  },
  ...(["connect", "grpc", "grpcweb"] as const).map((protocol): ForeignClient => {
    const http = protocol === "grpc" ? "h2c" : "h1";
    const call = (call: ForeignCall) => callBuf(protocol, call);
    return { name: `buf curl with ${protocol}`, http, missing: undefined, call };
  }),
];

for (const { name, missing } of foreignClients) {
  if (missing !== undefined) {
    console.warn(`tests with ${name} are skipped: ${missing}`);
  }
}

function packageMissing(name: string): string | undefined {
  return existsSync(join(programs, "node_modules", name))
    ? undefined
    : `${name} is not installed; run npm ci in tools/clients`;
}

function grpcioMissing(): string | undefined {
  return runs(python, "-c", "import grpc")
    ? undefined
    : "grpcio is not installed; on Debian, run apt-get install python3-grpcio";
}

function runs(command: string, ...args: string[]): boolean {
  return spawnSync(command, args).status === 0;
}

interface Output {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function execute(command: string, args: readonly string[]): Promise<Output> {
  return new Promise((resolve, reject) => {
    const options = { cwd: root, env: { ...process.env, NO_PROXY: "*" } };
    execFile(command, args, options, (error, stdout, stderr) => {
      // A number is an exit code; a text is why the program did not start.
      if (error !== null && typeof error.code !== "number") {
        reject(error);
      }
      resolve({ code: Number(error?.code ?? 0), stdout, stderr });
    });
  });
}

function pathOf({ parent, name }: DescMethod): string {
  return `/${parent.typeName}/${name}`;
}

/** Calls through one of the programs. */
async function callProgram(
  command: string,
  program: string,
  { url, method, message, headers }: ForeignCall,
): Promise<ForeignAnswer> {
  const bytes = toBinary(method.input, fromJson(method.input, message));
  const call = {
    ...{ url, path: pathOf(method), headers },
    message: Buffer.from(bytes).toString("base64"),
  };
  const { stdout, stderr } = await execute(command, [program, JSON.stringify(call)]);
  if (stdout === "") {
    throw new Error(`${program} printed nothing: ${stderr}`);
  }
  const answer = JSON.parse(stdout) as {
    readonly code: number;
    /** The values are encoded, because some are bytes. */
    readonly headers: readonly [string, string][];
    readonly message?: string;
  };
  return {
    code: codeNames[answer.code] ?? `code ${answer.code}`,
    headers: new Headers(
      answer.headers.map(([name, value]): [string, string] => [
        name,
        name.endsWith("-bin") ? value : Buffer.from(value, "base64url").toString(),
      ]),
    ),
    message:
      answer.message === undefined
        ? undefined
        : toJson(method.output, fromBinary(method.output, Buffer.from(answer.message, "base64"))),
  };
}

async function callCurl({ url, method, message, headers }: ForeignCall): Promise<ForeignAnswer> {
  const { stdout } = await execute("curl", [
    ...["--silent", "--include", "--json", JSON.stringify(message)],
    ...headerArguments(headers),
    `${url}${pathOf(method)}`,
  ]);
  const [head = "", body = ""] = stdout.split("\r\n\r\n", 2);
  const [status = "", ...fields] = head.split("\r\n");
  const ok = status.includes(" 200 ");
  return {
    code: ok ? "ok" : (JSON.parse(body) as { code: string }).code,
    headers: readHeaders(fields),
    message: ok ? readJson(method, body) : undefined,
  };
}

async function callBuf(
  protocol: "connect" | "grpc" | "grpcweb",
  { url, method, message, headers }: ForeignCall,
): Promise<ForeignAnswer> {
  const { code, stdout, stderr } = await execute(buf, [
    ...["curl", "--verbose", "--schema", root, "--protocol", protocol],
    ...(protocol === "grpc" ? ["--http2-prior-knowledge"] : []),
    ...["--data", JSON.stringify(message), ...headerArguments(headers)],
    `${url}${pathOf(method)}`,
  ]);
  const fields = [...stderr.matchAll(/^buf: < \(#1\) (.+)$/gm)].map(([, field = ""]) => field);
  return {
    code: code === 0 ? "ok" : (/"code": "(\w+)"/.exec(stderr + stdout)?.[1] ?? stderr),
    headers: readHeaders(fields),
    message: code === 0 ? readJson(method, stdout) : undefined,
  };
}

function headerArguments(headers: Readonly<Record<string, string>>): string[] {
  return Object.entries(headers).flatMap(([name, value]) => ["--header", `${name}: ${value}`]);
}

function readHeaders(lines: readonly string[]): Headers {
  const headers = new Headers();
  for (const line of lines) {
    const [, name, value] = /^([\w-]+): (.*)$/.exec(line.trim()) ?? [];
    if (name !== undefined && value !== undefined) {
      headers.append(name, value);
    }
  }
  return headers;
}

function readJson({ output }: DescMethod, text: string): JsonValue {
  return toJson(output, fromJsonString(output, text));
}
