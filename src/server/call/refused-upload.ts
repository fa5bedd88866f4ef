import { type ContextValues, createContextValues } from "@connectrpc/connect";
import {
  createAsyncIterable,
  type UniversalHandler,
  type UniversalServerRequest,
  type UniversalServerResponse,
} from "@connectrpc/connect/protocol";
import type { Clock } from "../../base/clock.ts";

/** Bytes of a body that a server reads to the end in order to keep the connection, as in Go. */
const maxDrained = 256 * 1024;
/**
 * Milliseconds for which the rest of a larger body is discarded before the connection is closed. A
 * client that is still sending could lose the answer if it were closed at once (RFC 9112 section 9.6).
 */
const lingerTime = 2_000;

/** How to tell that the gate has refused a call, and the source of time. */
export interface RefusedUploads {
  readonly clock: Clock;
  readonly isRefused: (values: ContextValues) => boolean;
}

/**
 * Closes an HTTP/1.1 connection whose upload was refused before its body was read to the end: by the
 * gate, or because a message is too large. Otherwise the caller, who may be anybody, could go on
 * sending: HTTP/1.1 cannot stop a request.
 */
export function closeRefusedUploads(
  handler: UniversalHandler,
  uploads: RefusedUploads,
): UniversalHandler {
  const handle: typeof handler = Object.assign(
    (request: UniversalServerRequest) =>
      isLargeUpload(request) ? answerUpload(handler, request, uploads) : handler(request),
    handler,
  );
  return handle;
}

type Upload = UniversalServerRequest & { readonly body: AsyncIterable<Uint8Array> };

/** Whether the body of a request may be large. HTTP/2 needs no help: it resets the stream. */
function isLargeUpload(request: UniversalServerRequest): request is Upload {
  const { httpVersion, header, body } = request;
  if (!httpVersion.startsWith("1.")) {
    return false;
  }
  const length = header.get("content-length");
  const isLarge = length === null ? header.has("transfer-encoding") : Number(length) > maxDrained;
  return isLarge && typeof body === "object" && body !== null && Symbol.asyncIterator in body;
}

async function answerUpload(
  handler: UniversalHandler,
  request: Upload,
  { clock, isRefused }: RefusedUploads,
): Promise<UniversalServerResponse> {
  const contextValues = request.contextValues ?? createContextValues();
  const isUnary = handler.method.methodKind === "unary";
  const upload = new WatchedBody(request.body);
  const body = isUnary ? upload : request.body;
  const response = await handler({ ...request, body, contextValues });
  // With trailers the end of the response must come last. A stream may be answered while it is read.
  if (response.trailer !== undefined || !(isUnary || isRefused(contextValues))) {
    return response;
  }
  // With its length, the client knows that the answer is complete although the connection is open.
  const answer = await collect(response.body);
  if (upload.isRead) {
    return { ...response, body: createAsyncIterable([answer]) };
  }
  const header = response.header ?? new Headers();
  header.set("connection", "close");
  header.set("content-length", String(answer.length));
  return { ...response, header, body: lingering(answer, upload, clock) };
}

/** The body of a request. It can be read on after the reader has left it. */
class WatchedBody implements AsyncIterable<Uint8Array> {
  /** Whether it was read to its end. */
  isRead = false;
  readonly #chunks: AsyncIterator<Uint8Array>;

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#chunks = body[Symbol.asyncIterator]();
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    // Without `return`, which would destroy the request, and the answer with it.
    return { next: () => this.#next() };
  }

  async #next(): Promise<IteratorResult<Uint8Array>> {
    const result = await this.#chunks.next();
    this.isRead ||= result.done === true;
    return result;
  }
}

async function collect(body: UniversalServerResponse["body"]): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body ?? []) {
    chunks.push(chunk);
  }
  const all = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let offset = 0;
  for (const chunk of chunks) {
    all.set(chunk, offset);
    offset += chunk.length;
  }
  return all;
}

/** Yields the answer at once, and ends when the connection may be closed. */
async function* lingering(
  answer: Uint8Array,
  upload: AsyncIterable<Uint8Array>,
  clock: Clock,
): AsyncGenerator<Uint8Array> {
  yield answer;
  let isOver = false;
  let cancel = (): void => {};
  const late = new Promise<void>((resolve) => {
    cancel = clock.after(lingerTime, resolve);
  });
  const discard = async (): Promise<void> => {
    const rest = upload[Symbol.asyncIterator]();
    while (!isOver && !(await rest.next()).done) {
      // Discarded.
    }
  };
  // A client that closes the connection makes the read fail.
  await Promise.race([late, discard().catch(() => {})]);
  isOver = true;
  cancel();
}
