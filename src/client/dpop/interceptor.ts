import { base64Decode } from "@bufbuild/protobuf/wire";
import {
  ConnectError,
  type Interceptor,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
} from "@connectrpc/connect";
import {
  Reason,
  type RefreshHint,
  RefreshHintSchema,
  Tokens,
} from "../../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import type { Clock } from "../../base/clock.ts";
import { header, proofHeader } from "../../base/wire.ts";
import { race } from "../call/deadline.ts";
import type { Prover, StoredKey } from "./key.ts";

interface ProvingOptions {
  /** The URL of the service without a slash at the end; undefined for the URL of each call. */
  readonly base: string | undefined;
  readonly useHttpGet: boolean;
  readonly clock: Clock;
}

type Next = Parameters<Interceptor>[0];
type Request = UnaryRequest | StreamRequest;
type Message = StreamResponse["message"] extends AsyncIterable<infer M> ? M : never;

/** Proves the key on the calls of a session. It comes after the interceptor of the session. */
export function provingInterceptor(proofs: ClientProofs): Interceptor {
  return (next) => async (request) => {
    if (request.header.has(proofHeader.proof)) {
      return next(request);
    }
    const call = new ProvenCall(proofs, request);
    return request.stream
      ? streamCall(call, request, next)
      : call.run(async (headers) => {
          const response = await next({ ...request, header: headers });
          proofs.learn(response.header.get(proofHeader.nonce));
          return response;
        });
  };
}

/**
 * A `fetch` for `sessionFetch`, whose requests have their tokens already. A request that needs a proof is
 * sent again, as far as its body can be.
 */
export function provingFetch(proofs: ClientProofs): typeof globalThis.fetch {
  return async (input, init = {}) => {
    const request = typeof input === "object" && "url" in input ? input : undefined;
    const target: Target = {
      htm: (init.method ?? request?.method ?? "GET").toUpperCase(),
      url: typeof input === "string" ? input : "url" in input ? input.url : input.href,
      procedure: undefined,
      isSignOut: false,
      signal: init.signal ?? request?.signal ?? undefined,
    };
    // The body of a Request can be read once.
    const isReplayable =
      !(init.body instanceof ReadableStream) &&
      (request === undefined || target.htm === "GET" || target.htm === "HEAD");
    for (let isAgain = false; ; isAgain = true) {
      const headers = new Headers(init.headers ?? request?.headers);
      const hasToken = bearerOf(headers) !== undefined;
      if (hasToken) {
        await proofs.write(headers, target);
      }
      const response = await globalThis.fetch(input, { ...init, headers });
      const nonce = response.headers.get(proofHeader.nonce);
      proofs.learn(nonce);
      // A refusal with a nonce asks for a proof (RFC 9449 section 9).
      const isAsked = hasToken && response.status === 401 && nonce !== null;
      if (!isAsked || isAgain || !isReplayable) {
        return response;
      }
      proofs.needsProof(target);
      response.body?.cancel().catch(() => {});
    }
  };
}

/** Where a request goes. */
interface Target {
  readonly htm: string;
  /** The URL that it is sent to. */
  readonly url: string;
  /** Such as `notes.v1.NotesService/AddNote`; undefined for a request that is not an RPC. */
  readonly procedure: string | undefined;
  readonly isSignOut: boolean;
  readonly signal: AbortSignal | undefined;
}

/** What a client knows across its calls: its key, the last nonce, and the methods that need a proof. */
export class ClientProofs {
  readonly #key: StoredKey;
  readonly #options: ProvingOptions;
  #nonce: string | undefined;
  /** The access token that was read last. */
  #read: { readonly accessToken: string; readonly bound: BoundToken | undefined } | undefined;
  /** The methods whose policy asks for a proof. */
  readonly #proven = new Set<string>();

  constructor(key: StoredKey, options: ProvingOptions) {
    this.#key = key;
    this.#options = options;
  }

  /** Keeps a nonce of the service for the next proof. */
  learn(nonce: string | null | undefined): void {
    this.#nonce = nonce || this.#nonce;
  }

  needsProof(target: Target): void {
    // Paths may have parameters, so they are only remembered for the next request.
    if (this.#proven.size >= 1_000) {
      this.#proven.clear();
    }
    this.#proven.add(nameOf(target));
  }

  /** The target of a call. By the rule of Connect's transports, GET is for NO_SIDE_EFFECTS. */
  targetOf(request: Request): Target {
    const isGet = this.#options.useHttpGet && !request.stream && request.method.idempotency === 1;
    return {
      htm: isGet ? "GET" : "POST",
      url: request.url,
      procedure: procedureOf(request),
      isSignOut: isMethod(request, "SignOut"),
      signal: request.signal,
    };
  }

  /**
   * Writes the proof and the scheme of the access token into the headers of an attempt:
   *
   * | the call | is sent with |
   * |---|---|
   * | without an access token: it may be a sign-in, or it is a refresh | a proof |
   * | with the token of a session that is bound to no key | `Bearer` |
   * | with a bound token | `Session` |
   * | the same, to a method that needs a proof, or a sign-out | `DPoP` and a proof |
   * | with the token of a key that this client has lost | a proof, without the token |
   *
   * @returns the token that was left out, because its key is lost
   */
  async write(headers: Headers, target: Target): Promise<BoundToken | undefined> {
    const accessToken = bearerOf(headers);
    const bound = accessToken === undefined ? undefined : this.#readBound(accessToken);
    if (headers.has("authorization") && bound === undefined) {
      return undefined;
    }
    const isNeeded = bound === undefined || this.#proven.has(nameOf(target));
    let prover: Prover;
    try {
      prover = await race(this.#key.prover(), target.signal);
    } catch (error) {
      if (isNeeded) {
        throw error;
      }
      // Ordinary calls and sign-outs go on without the key.
      headers.set("authorization", `Session ${accessToken}`);
      return undefined;
    }
    const isLost = bound !== undefined && bound.jkt !== prover.thumbprint;
    if (isLost) {
      headers.delete("authorization");
    } else if (bound !== undefined && !isNeeded && !target.isSignOut) {
      headers.set("authorization", `Session ${accessToken}`);
      return undefined;
    } else if (bound !== undefined) {
      headers.set("authorization", `DPoP ${accessToken}`);
    }
    const proof = await prover.prove({
      htm: target.htm,
      htu: this.#htuOf(target),
      nonce: this.#nonce,
      accessToken: isLost ? undefined : accessToken,
      iat: Math.floor(this.#options.clock.now() / 1000),
    });
    headers.set(proofHeader.proof, proof);
    return isLost ? bound : undefined;
  }

  #htuOf({ url, procedure }: Target): string {
    const { base } = this.#options;
    const plain = withoutQuery(url);
    if (base === undefined) {
      return plain;
    }
    return procedure === undefined
      ? new URL(base).origin + new URL(plain).pathname
      : `${base}/${procedure}`;
  }

  #readBound(accessToken: string): BoundToken | undefined {
    if (this.#read?.accessToken !== accessToken) {
      this.#read = { accessToken, bound: decode(accessToken) };
    }
    return this.#read.bound;
  }
}

/** One call: it is sent again once, if the service asks for a proof or for another nonce. */
class ProvenCall {
  readonly #proofs: ClientProofs;
  readonly #request: Request;
  #isAgain = false;
  #lost: BoundToken | undefined;
  #headers = new Headers();

  constructor(proofs: ClientProofs, request: Request) {
    this.#proofs = proofs;
    this.#request = request;
  }

  get proofs(): ClientProofs {
    return this.#proofs;
  }

  async run<T>(send: (headers: Headers) => Promise<T>): Promise<T> {
    for (;;) {
      // A copy, because what an inner interceptor appends must not be sent twice.
      this.#headers = new Headers(this.#request.header);
      if (this.#headers.get(header.transport) === "cookie") {
        throw new TypeError(
          "dpopKey needs a client with tokens in headers; pass createSessionClient the option tokens, such as memoryTokens()",
        );
      }
      this.#lost = await this.#proofs.write(this.#headers, this.#proofs.targetOf(this.#request));
      try {
        return await send(this.#headers);
      } catch (error) {
        if (!this.mayResend(error)) {
          throw error;
        }
      }
    }
  }

  /** Reads a refusal: whether the call is to be sent again, and whether it ends the session. */
  mayResend(error: unknown): boolean {
    const [hint] = error instanceof ConnectError ? error.findDetails(RefreshHintSchema) : [];
    if (!(error instanceof ConnectError) || hint === undefined) {
      return false;
    }
    this.#proofs.learn(hint.proofNonce);

    // 1. The service asks for a proof, or for one with its nonce: send it, once.
    const authorization = this.#headers.get("authorization") ?? "";
    const isAsked = hint.reason === Reason.PROOF_REQUIRED && authorization.startsWith("Session ");
    if (isAsked) {
      this.#proofs.needsProof(this.#proofs.targetOf(this.#request));
    }
    const { stream, method } = this.#request;
    const isReplayable = !stream || method.methodKind === "server_streaming";
    if ((isAsked || hint.reason === Reason.PROOF_NONCE) && !this.#isAgain && isReplayable) {
      this.#isAgain = true;
      return true;
    }

    // 2. The key of the session is lost: the call went without its token, or the service has seen
    //    another key. SessionService always has a nonce for a proof that only breaks a rule.
    const isOtherKey =
      isMethod(this.#request, "Refresh") &&
      hint.reason === Reason.PROOF_INVALID &&
      hint.proofNonce === "";
    if (isOtherKey || (this.#lost !== undefined && hint.reason === Reason.SESSION_MISSING)) {
      endSession(error, hint, this.#lost?.sid ?? hint.session);
    }
    return false;
  }
}

/** Makes the session's interceptor drop the tokens, as if the service had said so. */
function endSession(error: ConnectError, hint: RefreshHint, session: string): void {
  error.details = [
    ...error.details.filter(
      (detail) => !("type" in detail && detail.type.endsWith(RefreshHintSchema.typeName)),
    ),
    { desc: RefreshHintSchema, value: { ...hint, session, tokens: Tokens.CLEAR } },
  ];
}

interface Opened {
  readonly response: StreamResponse;
  readonly messages: AsyncIterator<Message>;
  /** The first read, if it had to be made already. */
  first: Promise<IteratorResult<Message>> | undefined;
}

/** Opens a stream, and once more if it is refused before its first message. */
async function streamCall(
  call: ProvenCall,
  request: StreamRequest,
  next: Next,
): Promise<StreamResponse> {
  const isReplayable = request.method.methodKind === "server_streaming";
  const replay = isReplayable ? new OneRequest(request.message) : undefined;
  const send = async (headers: Headers): Promise<Opened> => {
    const message = replay?.open() ?? request.message;
    const response = (await next({ ...request, header: headers, message })) as StreamResponse;
    call.proofs.learn(response.header.get(proofHeader.nonce));
    return { response, messages: response.message[Symbol.asyncIterator](), first: undefined };
  };
  const open = async (): Promise<Opened> => {
    for (;;) {
      const opened = await call.run(send);
      // The header announces a refusal: wait for it, so that the caller does not see these headers.
      if (!opened.response.header.has(header.hint)) {
        return opened;
      }
      opened.first = opened.messages.next();
      const failure: unknown = await opened.first.then(
        () => undefined,
        (reason) => reason,
      );
      if (!call.mayResend(failure)) {
        return opened;
      }
    }
  };
  const opened = await open();
  const trailer = new Headers();
  const messages = new ProvenMessages(call, opened, { open, trailer });
  return { ...opened.response, trailer, message: { [Symbol.asyncIterator]: () => messages } };
}

interface StreamParts {
  readonly open: () => Promise<Opened>;
  /** Filled when the stream ends. */
  readonly trailer: Headers;
}

/** The messages of a stream that is opened again if its first read brings a refusal. */
class ProvenMessages implements AsyncIterator<Message> {
  readonly #call: ProvenCall;
  readonly #parts: StreamParts;
  #opened: Opened;
  #isBegun = false;

  constructor(call: ProvenCall, opened: Opened, parts: StreamParts) {
    this.#call = call;
    this.#opened = opened;
    this.#parts = parts;
  }

  async next(): Promise<IteratorResult<Message>> {
    for (;;) {
      const { first, messages, response } = this.#opened;
      this.#opened.first = undefined;
      try {
        const result = await (first ?? messages.next());
        this.#isBegun = true;
        if (result.done) {
          response.trailer.forEach((value, name) => {
            this.#parts.trailer.append(name, value);
          });
        }
        return result;
      } catch (error) {
        if (this.#isBegun || !this.#call.mayResend(error)) {
          throw error;
        }
        this.#opened = await this.#parts.open();
      }
    }
  }

  async throw(reason: unknown): Promise<IteratorResult<Message>> {
    await this.#opened.messages.throw?.(reason);
    throw reason;
  }

  async return(value?: unknown): Promise<IteratorResult<Message>> {
    await this.#opened.messages.return?.(value);
    return { done: true, value };
  }
}

/** The messages of a request with one message, which can be read from the start again. */
class OneRequest<T> {
  readonly #source: AsyncIterable<T>;
  readonly #read: T[] = [];
  #isRead = false;

  constructor(source: AsyncIterable<T>) {
    this.#source = source;
  }

  async *open(): AsyncGenerator<T> {
    yield* this.#read;
    if (!this.#isRead) {
      for await (const message of this.#source) {
        this.#read.push(message);
        yield message;
      }
      this.#isRead = true;
    }
  }
}

/** A token of a session that is bound to a key. */
interface BoundToken {
  readonly jkt: string;
  /** The id of the session. */
  readonly sid: string;
}

/** Reads the key that an access token is bound to (RFC 9449 section 6.1); undefined if there is none. */
function decode(accessToken: string): BoundToken | undefined {
  try {
    const bytes = base64Decode(accessToken.split(".")[1] ?? "");
    const { cnf, sid } = JSON.parse(new TextDecoder().decode(bytes));
    return typeof cnf?.jkt === "string" && typeof sid === "string"
      ? { jkt: cnf.jkt, sid }
      : undefined;
  } catch {
    return undefined;
  }
}

/** The access token that comes as `Bearer`. */
function bearerOf(headers: Headers): string | undefined {
  return /^Bearer (.*)$/.exec(headers.get("authorization") ?? "")?.[1];
}

function nameOf({ htm, url, procedure }: Target): string {
  return procedure ?? `${htm} ${withoutQuery(url)}`;
}

function procedureOf({ method }: Request): string {
  return `${method.parent.typeName}/${method.name}`;
}

function isMethod({ method }: Request, name: string): boolean {
  return method.parent.typeName === SessionService.typeName && method.name === name;
}

function withoutQuery(url: string): string {
  return url.replace(/[?#].*$/, "");
}
