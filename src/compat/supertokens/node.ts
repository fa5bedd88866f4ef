import type {
  IncomingMessage,
  OutgoingHttpHeader,
  OutgoingHttpHeaders,
  ServerResponse,
} from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import { withValidationErrors } from "./errors.ts";
import type { FormerCookies } from "./fetch.ts";
import {
  type ReadHeader,
  reportsSession,
  requestChanges,
  responseChanges,
  type Sender,
  senderOf,
} from "./wire.ts";

/** A request of node:http, node:https, node:http2 or Express. */
export type SdkRequest = (IncomingMessage | Http2ServerRequest) & {
  /** In Express, the URL before a router has shortened it. */
  readonly originalUrl?: string;
};
/** A response of node:http, node:https, node:http2 or Express. */
export type SdkResponse = ServerResponse | Http2ServerResponse;

/** Bodies of refused calls are small. Longer ones are passed on as they are. */
const maxRefusal = 65_536;

/**
 * Translates a request of an SDK, and its response when it is sent.
 *
 * A response to rpc-session's client on the page of an SDK gets the headers of the SDK as well. A response to
 * any client that reports a session removes the cookies of SuperTokens. Other exchanges stay as they are.
 */
export function translateNode(
  request: SdkRequest,
  response: SdkResponse,
  formerCookies: FormerCookies,
): void {
  const read = readerOf(request.headers);
  const sender = senderOf(read);
  const removed = formerCookies(read);
  if (sender === undefined && removed.length === 0) {
    return;
  }
  for (const [name, value] of sender === "sdk" ? requestChanges(read) : []) {
    if (value === undefined) {
      delete request.headers[name];
    } else {
      request.headers[name] = value;
    }
  }
  TranslatedResponse.take(response, sender, removed);
}

function readerOf(headers: OutgoingHttpHeaders): ReadHeader {
  return (name) => {
    const value = headers[name];
    return value === undefined ? undefined : [value].flat().join(", ");
  };
}

/** The methods of a response that are replaced. */
type Original = Pick<ServerResponse, "writeHead" | "write" | "end">;
type Callback = (error?: Error | null) => void;
/** The arguments of `write` and `end`: everything may be left out. */
type BodyArguments = readonly unknown[];

/**
 * Replaces the methods that send a response, like the package on-headers: frameworks set headers until
 * the last moment. The body of a refusal is held until its end, because a field is added to it.
 */
class TranslatedResponse {
  readonly #response: SdkResponse;
  readonly #sender: Sender | undefined;
  readonly #formerCookies: readonly string[];
  readonly #original: Original;
  /** What has been written of a refusal; undefined for any other response. */
  #held: Buffer[] | undefined;
  #isHead = false;

  private constructor(
    response: SdkResponse,
    sender: Sender | undefined,
    formerCookies: readonly string[],
  ) {
    this.#response = response;
    this.#sender = sender;
    this.#formerCookies = formerCookies;
    const sent = response as ServerResponse;
    this.#original = {
      writeHead: sent.writeHead.bind(sent),
      write: sent.write.bind(sent),
      end: sent.end.bind(sent),
    } as Original;
  }

  /** Makes every method that sends the response go through this class. */
  static take(
    response: SdkResponse,
    sender: Sender | undefined,
    formerCookies: readonly string[],
  ): void {
    const translated = new TranslatedResponse(response, sender, formerCookies);
    Object.assign(response, {
      writeHead: translated.#writeHead.bind(translated),
      flushHeaders: () => translated.#start(),
      write: translated.#write.bind(translated),
      end: translated.#end.bind(translated),
    });
    // While the body of a refusal is held, nobody may set headers any more.
    Object.defineProperty(response, "headersSent", { get: () => translated.#isHead });
  }

  /** The status line, with a text or without, and headers in any of the forms that Node.js accepts. */
  #writeHead(status: number, ...rest: readonly unknown[]): SdkResponse {
    const response = this.#response as ServerResponse;
    const [reason, headers] = typeof rest[0] === "string" ? rest : [undefined, rest[0]];
    response.statusCode = status;
    for (const [name, value] of entriesOf(headers)) {
      response.setHeader(name, value);
    }
    const read = readerOf(response.getHeaders());
    const removed = reportsSession(read) ? this.#formerCookies : [];
    for (const [name, value] of responseChanges(read, this.#sender)) {
      if (value === undefined) {
        response.removeHeader(name);
      } else {
        response.setHeader(name, value);
      }
    }
    if (removed.length > 0) {
      const cookies = [response.getHeader("set-cookie") ?? []].flat().map(String);
      response.setHeader("set-cookie", [...cookies, ...removed]);
    }
    this.#isHead = true;
    if (this.#sender === "sdk" && status === 403 && isJson(response)) {
      this.#held = [];
    } else {
      const text = typeof reason === "string" ? [reason] : [];
      this.#original.writeHead(status, ...text);
    }
    return response;
  }

  #start(): void {
    if (!this.#isHead) {
      this.#writeHead(this.#response.statusCode);
    }
  }

  #write(...args: BodyArguments): boolean {
    this.#start();
    const { chunk, callback } = readBody(args);
    if (this.#held === undefined) {
      return (this.#original.write as (...all: BodyArguments) => boolean)(...args);
    }
    this.#held.push(chunk);
    if (this.#held.reduce((sum, { length }) => sum + length, 0) > maxRefusal) {
      this.#release(Buffer.concat(this.#held));
    }
    callback?.();
    return true;
  }

  #end(...args: BodyArguments): SdkResponse {
    this.#start();
    if (this.#held === undefined) {
      (this.#original.end as (...all: BodyArguments) => unknown)(...args);
    } else {
      const { chunk, callback } = readBody(args);
      const body = withValidationErrors(Buffer.concat([...this.#held, chunk]).toString());
      this.#response.setHeader("content-length", Buffer.byteLength(body));
      this.#release(undefined);
      this.#original.end(body, callback as () => void);
    }
    return this.#response;
  }

  /** Sends the headers, and what was held. */
  #release(body: Buffer | undefined): void {
    this.#held = undefined;
    this.#original.writeHead(this.#response.statusCode);
    if (body !== undefined) {
      this.#original.write(body);
    }
  }
}

/** Headers as an object, as a flat list of names and values, or as a list of pairs. */
function* entriesOf(headers: unknown): Iterable<[string, OutgoingHttpHeader]> {
  if (!Array.isArray(headers)) {
    const given = Object.entries((headers ?? {}) as OutgoingHttpHeaders);
    yield* given.filter((entry): entry is [string, OutgoingHttpHeader] => entry[1] !== undefined);
    return;
  }
  const flat = headers.flat() as OutgoingHttpHeader[];
  // The same name may occur more than once, as that of Set-Cookie does.
  const merged = new Map<string, OutgoingHttpHeader[]>();
  for (let i = 0; i + 1 < flat.length; i += 2) {
    const name = String(flat[i]).toLowerCase();
    merged.set(name, [...(merged.get(name) ?? []), flat[i + 1] as OutgoingHttpHeader]);
  }
  for (const [name, values] of merged) {
    yield [name, values.length === 1 ? (values[0] as OutgoingHttpHeader) : values.map(String)];
  }
}

function isJson(response: ServerResponse): boolean {
  const type = String(response.getHeader("content-type") ?? "");
  const encoding = String(response.getHeader("content-encoding") ?? "identity");
  return /^application\/json\b/i.test(type) && encoding === "identity";
}

function readBody(args: BodyArguments): {
  readonly chunk: Buffer;
  readonly callback: Callback | undefined;
} {
  const [given, second] = args;
  const encoding = typeof second === "string" ? (second as BufferEncoding) : "utf8";
  const chunk =
    typeof given === "string"
      ? Buffer.from(given, encoding)
      : given instanceof Uint8Array
        ? Buffer.from(given)
        : Buffer.alloc(0);
  return { chunk, callback: args.find((each) => typeof each === "function") as Callback };
}
