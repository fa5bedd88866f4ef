import {
  type DescMessage,
  type DescMethod,
  fromBinary,
  fromJson,
  fromJsonString,
  type JsonValue,
  toBinary,
  toJson,
  toJsonString,
} from "@bufbuild/protobuf";
import type { NotesServer } from "./server.ts";
import { type Pairs, type RawRequest, type RawResponse, sendH1, sendH2 } from "./wire-http.ts";
import { codeNames, decodeStatus, type WireDetail, type WireError } from "./wire-status.ts";

/** A protocol over a version of HTTP. */
export interface Wire {
  readonly protocol: "connect-json" | "connect-proto" | "grpc" | "grpc-web";
  readonly http: "h1" | "h2c";
}

/** Every way to call; gRPC needs HTTP/2. */
export const wires: readonly Wire[] = [
  { protocol: "connect-json", http: "h1" },
  { protocol: "connect-json", http: "h2c" },
  { protocol: "connect-proto", http: "h1" },
  { protocol: "connect-proto", http: "h2c" },
  { protocol: "grpc", http: "h2c" },
  { protocol: "grpc-web", http: "h1" },
  { protocol: "grpc-web", http: "h2c" },
];

export function wireName({ protocol, http }: Wire): string {
  return `${protocol} over ${http}`;
}

export interface WireCall {
  readonly method: DescMethod;
  /** The request messages, as JSON. */
  readonly messages: readonly JsonValue[];
  readonly headers: Readonly<Record<string, string>>;
  /** As a Connect GET. */
  readonly get?: boolean;
}

/** An answer, in the same terms for every protocol. */
export interface WireResult {
  readonly httpStatus: number;
  /** As Connect spells it, or "ok". */
  readonly code: string;
  readonly message: string;
  readonly details: readonly WireDetail[];
  /** The real HTTP response headers `set-cookie`, one by one. */
  readonly setCookie: readonly string[];
  /** The other real HTTP response headers. */
  readonly headers: Headers;
  /** Metadata that comes after the headers: end-stream metadata, trailers, gRPC-Web trailer frame. */
  readonly inBody: Pairs;
  readonly messages: readonly JsonValue[];
  /** All that came after the headers, and every error detail decoded, for a search. */
  readonly afterHeaders: string;
}

/** Where calls go. */
export type WireTarget = Pick<NotesServer, "port" | "h2">;

/** Calls a method and reads the answer off the wire. */
export async function callWire(
  server: WireTarget,
  wire: Wire,
  call: WireCall,
): Promise<WireResult> {
  const request = requestOf(wire, call);
  const raw =
    wire.http === "h1" ? await sendH1(server.port.h1, request) : await sendH2(server.h2(), request);
  const read = readBody(wire, call.method, raw);
  const headers = new Headers(raw.headers.filter(([name]) => name !== "set-cookie"));
  const searched = [raw.body.toString("latin1"), read.error.message];
  for (const [name, value] of [...raw.trailers, ...read.inBody]) {
    searched.push(name, value);
  }
  for (const { value } of read.error.details) {
    searched.push(Buffer.from(value, "hex").toString("latin1"));
  }
  return {
    httpStatus: raw.status,
    ...read.error,
    setCookie: raw.headers.filter(([name]) => name === "set-cookie").map(([, value]) => value),
    headers,
    inBody: read.inBody,
    messages: read.messages,
    afterHeaders: searched.join("\n"),
  };
}

const contentTypes = {
  "connect-json": { unary: "application/json", stream: "application/connect+json" },
  "connect-proto": { unary: "application/proto", stream: "application/connect+proto" },
  grpc: { unary: "application/grpc+proto", stream: "application/grpc+proto" },
  "grpc-web": { unary: "application/grpc-web+proto", stream: "application/grpc-web+proto" },
} as const;

function isPlainUnary(wire: Wire, method: DescMethod): boolean {
  return method.methodKind === "unary" && wire.protocol.startsWith("connect");
}

function requestOf(wire: Wire, { method, messages, headers, get }: WireCall): RawRequest {
  const path = `/${method.parent.typeName}/${method.name}`;
  const bodies = messages.map((message) => encode(wire, method.input, message));
  if (get) {
    const message = (bodies[0] ?? Buffer.alloc(0)).toString("base64url");
    const encoding = wire.protocol === "connect-json" ? "json" : "proto";
    const query = new URLSearchParams({ connect: "v1", encoding, base64: "1", message });
    return { method: "GET", path: `${path}?${query}`, headers, body: undefined };
  }
  const plain = isPlainUnary(wire, method);
  return {
    method: "POST",
    path,
    headers: {
      "content-type": contentTypes[wire.protocol][plain ? "unary" : "stream"],
      ...(wire.protocol.startsWith("connect") ? { "connect-protocol-version": "1" } : {}),
      ...(wire.protocol === "grpc" ? { te: "trailers" } : {}),
      ...headers,
    },
    body: plain ? (bodies[0] ?? Buffer.alloc(0)) : Buffer.concat(bodies.map((b) => envelope(0, b))),
  };
}

function encode({ protocol }: Wire, schema: DescMessage, json: JsonValue): Buffer {
  const message = fromJson(schema, json);
  return Buffer.from(
    protocol === "connect-json" ? toJsonString(schema, message) : toBinary(schema, message),
  );
}

function decode({ protocol }: Wire, schema: DescMessage, bytes: Buffer): JsonValue {
  const message =
    protocol === "connect-json"
      ? fromJsonString(schema, bytes.toString())
      : fromBinary(schema, bytes);
  return toJson(schema, message);
}

/** One flag byte, the length in four bytes, the data. */
export function envelope(flags: number, data: Uint8Array): Buffer {
  return Buffer.concat([envelopePrefix(flags, data.length), data]);
}

export function envelopePrefix(flags: number, length: number): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt8(flags, 0);
  prefix.writeUInt32BE(length, 1);
  return prefix;
}

interface Frame {
  readonly flags: number;
  readonly data: Buffer;
}

function framesOf(body: Buffer): Frame[] {
  const frames: Frame[] = [];
  for (let at = 0; at < body.length; ) {
    const end = at + 5 + body.readUInt32BE(at + 1);
    frames.push({ flags: body.readUInt8(at), data: body.subarray(at + 5, end) });
    at = end;
  }
  return frames;
}

interface ReadBody {
  readonly error: WireError;
  readonly inBody: Pairs;
  readonly messages: readonly JsonValue[];
}

const ok: WireError = { code: "ok", message: "", details: [] };

function readBody(wire: Wire, method: DescMethod, raw: RawResponse): ReadBody {
  if (isPlainUnary(wire, method)) {
    return raw.status === 200
      ? { error: ok, inBody: raw.trailers, messages: [decode(wire, method.output, raw.body)] }
      : {
          error: connectError(JSON.parse(raw.body.toString())),
          inBody: raw.trailers,
          messages: [],
        };
  }
  const frames = framesOf(raw.body);
  const endFlag = wire.protocol === "grpc-web" ? 0x80 : 0x02;
  const end = frames.find(({ flags }) => flags === endFlag)?.data.toString() ?? "";
  const messages = frames
    .filter(({ flags }) => flags === 0)
    .map(({ data }) => decode(wire, method.output, data));
  if (wire.protocol.startsWith("connect")) {
    const { error, metadata = {} } = JSON.parse(end) as EndStream;
    const inBody = Object.entries(metadata).flatMap(([name, values]) =>
      values.map((value): [string, string] => [name, value]),
    );
    return { error: error === undefined ? ok : connectError(error), inBody, messages };
  }
  const inBody = wire.protocol === "grpc" ? raw.trailers : parseTrailerFrame(end);
  return { error: grpcError(new Map(inBody)), inBody, messages };
}

interface ConnectErrorJson {
  readonly code: string;
  readonly message?: string;
  readonly details?: readonly { readonly type: string; readonly value: string }[];
}

interface EndStream {
  readonly error?: ConnectErrorJson;
  readonly metadata?: Readonly<Record<string, readonly string[]>>;
}

function connectError({ code, message = "", details = [] }: ConnectErrorJson): WireError {
  return {
    code,
    message,
    details: details.map(({ type, value }) => ({
      type,
      value: Buffer.from(value, "base64").toString("hex"),
    })),
  };
}

function parseTrailerFrame(text: string): Pairs {
  return text
    .split("\r\n")
    .filter((line) => line !== "")
    .map((line) => [
      line.slice(0, line.indexOf(":")).toLowerCase(),
      line.slice(line.indexOf(":") + 1).trim(),
    ]);
}

function grpcError(trailer: ReadonlyMap<string, string>): WireError {
  const code = codeNames[Number(trailer.get("grpc-status"))] ?? "no grpc-status";
  const status = Buffer.from(trailer.get("grpc-status-details-bin") ?? "", "base64");
  const message = decodeURIComponent(trailer.get("grpc-message") ?? "");
  return { code, message, details: decodeStatus(status) };
}
