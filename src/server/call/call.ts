import type { DescMethod } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextKey,
  type ContextValues,
  createContextKey,
  createContextValues,
} from "@connectrpc/connect";
import type { SessionError } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { CookieNames } from "../../request/cookie-options.ts";
import {
  inspected,
  type NamesToRead,
  type PresentedTokens,
  takeTokens,
} from "../../request/tokens.ts";
import type { ClientContext, Exchange, InterceptedRequest, RpcContext } from "./exchange.ts";

/** The claims of a verified access token. */
export interface VerifiedClaims {
  readonly claims: TokenClaims;
  /** The user's claims as handlers read them, after the schema of the option `claims`. */
  readonly read: JsonObject;
}

/** Creates the session objects of an instance. */
export interface SessionFactory {
  sessionOn(core: SessionFactory, verified: VerifiedClaims, call: Call): VerifiedSession;
}

/** The new tokens of a session that a response carries. */
export interface WrittenTokens {
  readonly session: string;
  readonly transport: TokenTransport;
  /** How the client gets them: by a sign-in, which a failure of the call keeps, or by a refresh. */
  readonly event: "created" | "refreshed";
}

/**
 * The state that one instance keeps for one call. It is in the context values of the call, which people
 * log, so it decides what `util.inspect` prints.
 */
export class Call {
  readonly presented: PresentedTokens;
  /** The names of the cookies that were taken from the request. */
  readonly cookieNames: CookieNames;
  /** The request headers, for the cross-site check. The session cookies are no longer in them. */
  readonly requestHeader: Headers;
  readonly requestMethod: string;
  /** The method of the RPC; undefined outside RPCs. */
  method: DescMethod | undefined;
  /** The URL of the RPC; undefined outside RPCs. */
  readonly url: string | undefined;
  /** The signal of the RPC; undefined outside RPCs. */
  readonly signal: AbortSignal | undefined;
  /** Whether the deciding token came in a cookie. If so, a failure expires the cookies. */
  byCookie: boolean;
  /** The claims of the session that the call proved to belong to, live or not; undefined if none. */
  proven: Pick<TokenClaims, "sid" | "sub"> | undefined = undefined;
  /** The thumbprint of the key that a proof of this call has proven; undefined if there is none. */
  provenKey: string | undefined = undefined;
  /** Whether authentication has waited for something. */
  waited = false;
  /** Whether the gate or the interceptor has already applied the method's policy to this call. */
  admitted = false;
  /** Whether a condition reads the request, and nothing will check it unless the interceptor runs. */
  unchecked = false;
  /** Where tokens, cookies and hints are written. Replaced by {@link attachResponse} only. */
  responseHeader: Headers;
  /** Whether headers are still being collected because the call has no response yet. */
  isBuffered: boolean;
  /** The new tokens that this response already carries; undefined if it has none. */
  written: WrittenTokens | undefined = undefined;
  /** Why the session of the call cannot be read, although its tokens were refreshed. */
  unreadable: SessionError | undefined = undefined;
  /** The failure that the response headers already report. */
  failure: SessionError | undefined = undefined;
  /** The refresh token that came in the message of this call, and is no longer there. */
  messageToken: string | undefined = undefined;
  /** Whether a gate of the application has refused the call. */
  refusedByApp = false;
  /** The stream that ends with the session of this call; undefined if there is none. */
  stream: CallStream | undefined = undefined;
  readonly #exchange: Exchange;
  #committed = false;
  #session: VerifiedSession | undefined = undefined;
  #entered: { readonly core: SessionFactory; readonly verified: VerifiedClaims } | undefined;

  /** @param isBuffered whether `responseHeader` only collects headers until there is a response */
  constructor(cookies: NamesToRead, exchange: Exchange, isBuffered: boolean) {
    const presented = takeTokens(exchange.requestHeader, cookies);
    this.presented = presented;
    this.cookieNames = cookies.names;
    this.requestHeader = exchange.requestHeader;
    this.requestMethod = exchange.requestMethod;
    this.method = (exchange as { readonly method?: DescMethod }).method;
    this.url = exchange.url;
    this.signal = exchange.signal;
    this.byCookie = presented.byCookie;
    this.responseHeader = exchange.responseHeader;
    this.isBuffered = isBuffered;
    this.#exchange = exchange;
  }

  /** Whether the response headers have been sent, so that no more tokens can be written. */
  get committed(): boolean {
    return this.#committed || this.#exchange.headersSent === true;
  }

  /** Records that the response headers have been sent. */
  commit(): void {
    this.#committed = true;
  }

  /** The session of the call; created on first use, because many handlers never read it. */
  get session(): VerifiedSession | undefined {
    if (this.#session === undefined && this.#entered !== undefined) {
      const { core, verified } = this.#entered;
      this.#session = core.sessionOn(core, verified, this);
    }
    return this.#session;
  }

  /** The claims of the access token that the call has entered with; undefined if there is none. */
  get token(): TokenClaims | undefined {
    return this.#entered?.verified.claims;
  }

  /** The generation in the access token of this call; undefined if the call has no access token. */
  get generation(): number | undefined {
    return this.token?.gen;
  }

  /** Makes the session of verified claims the session of the call, and of the call's stream. */
  enter(core: SessionFactory, verified: VerifiedClaims): void {
    this.#entered = { core, verified };
    this.proven = verified.claims;
    this.#session = undefined;
    if (this.stream !== undefined && this.session !== undefined) {
      this.stream.follow(this.session);
    }
  }

  /** The claims of the session of the call have changed; its session object knows already. */
  changed(verified: VerifiedClaims): void {
    if (this.#entered !== undefined && this.token?.sid === verified.claims.sid) {
      this.#entered = { ...this.#entered, verified };
    }
  }

  /**
   * Writes to these headers from now on. Collected headers are copied first, so that whatever the
   * handler sets afterwards replaces them.
   */
  attachResponse(headers: Headers): void {
    if (this.isBuffered) {
      this.isBuffered = false;
      this.responseHeader.forEach((value, name) => {
        if (name === "set-cookie" || name === "vary") {
          headers.append(name, value);
        } else {
          headers.set(name, value);
        }
      });
    }
    this.responseHeader = headers;
  }
}

// What `util.inspect` of Node.js, Deno and Bun prints: nothing that holds a token or a claim.
Object.defineProperty(Call.prototype, inspected, {
  value(this: Call): object {
    const { requestMethod, byCookie, admitted, committed } = this;
    return { requestMethod, byCookie, admitted, committed };
  },
});

/** An open stream, informed by its call about changes to its session. */
export interface CallStream {
  /** From now on the call belongs to this session. */
  follow(session: VerifiedSession): void;
  /** Runs work that ends the stream's session. The handler may still send a last response. */
  ownEnd<T>(work: () => Promise<T>): Promise<T>;
}

/** Runs work that may end the session of this same call. */
export async function endOwn<T>({ stream }: Call, work: () => Promise<T>): Promise<T> {
  return stream === undefined ? work() : stream.ownEnd(work);
}

/** The key of a `Call` in the context values. Each instance has its own, so that two never mix. */
export type CallKey = ContextKey<Call | undefined>;

export function createCallKey(): CallKey {
  return createContextKey<Call | undefined>(undefined, { description: keyName });
}

const keyName = "rpc-session call";

/** The call that another instance keeps for the same request; undefined if there is none. */
export function callOfOther(key: CallKey, values: ContextValues): Call | undefined {
  const other = Object.getOwnPropertySymbols(values).find(
    (symbol) => symbol !== key.id && symbol.description === keyName,
  );
  return other && values.get({ id: other, defaultValue: undefined } as CallKey);
}

/** The part of an instance that reads the tokens of a request. */
interface TokenReader {
  readonly cookies: NamesToRead;
}

/**
 * Returns the call that a context belongs to. Opens it if neither gate nor interceptor has run.
 * @throws ConnectError `Internal` if two requests share their context values
 */
export function callOf(reader: TokenReader, key: CallKey, exchange: Exchange): Call {
  const { values, responseHeader } = exchange;
  const call = (values && knownCall(values, key, exchange)) ?? openCall(reader, exchange, false);
  // An interceptor without a gate has no response headers yet; a handler's context has them.
  call.attachResponse(responseHeader);
  values?.set(key, call);
  return call;
}

/** The context values of exchanges that bring none. An exchange is recognized by its headers. */
const plainValues = new WeakMap<Headers, ContextValues>();

/**
 * The same for an exchange that may have no context values. Its call is remembered, because the session
 * cookies are removed from its headers when it is first read.
 */
export function callOfExchange(
  reader: TokenReader,
  key: CallKey,
  exchange: Exchange,
): { readonly call: Call; readonly context: ClientContext } {
  const { requestHeader, responseHeader, requestMethod, signal, url } = exchange;
  const values = exchange.values ?? plainValues.get(requestHeader) ?? createContextValues();
  plainValues.set(requestHeader, values);
  const context = {
    ...{ requestHeader, responseHeader, requestMethod, values },
    ...(signal === undefined ? {} : { signal }),
    ...(url === undefined ? {} : { url }),
    get headersSent() {
      return exchange.headersSent === true;
    },
  };
  return { call: callOf(reader, key, context), context };
}

/**
 * The same for the request that an interceptor receives. A new call collects its response headers,
 * because there is no response yet.
 * @throws ConnectError `Internal` if two requests share their context values
 */
export function callOfRequest(
  reader: TokenReader,
  key: CallKey,
  { contextValues, header: requestHeader, requestMethod, method, signal, url }: InterceptedRequest,
): Call {
  const known = knownCall(contextValues, key, { requestHeader, signal });
  if (known !== undefined) {
    return known;
  }
  const collected = {
    ...{ requestHeader, requestMethod, method, signal, url },
    responseHeader: new Headers(),
  };
  const call = openCall(reader, collected, true);
  contextValues.set(key, call);
  return call;
}

/** Returns the call of an RPC, from the context of its handler or the request of an interceptor. */
export function callOfRpc(reader: TokenReader, key: CallKey, context: RpcContext): Call {
  return "values" in context ? callOf(reader, key, context) : callOfRequest(reader, key, context);
}

/**
 * Returns the call that the context values already hold.
 * @throws ConnectError `Internal` if it is the call of another request. The two requests share
 * their values then, and one caller would be mistaken for the other.
 */
function knownCall(
  values: ContextValues,
  key: CallKey,
  exchange: Partial<Exchange>,
): Call | undefined {
  const call = values.get(key);
  // An interceptor may have replaced the headers or the signal of the request, but not both.
  const isSame =
    call === undefined ||
    call.responseHeader === exchange.responseHeader ||
    call.requestHeader === exchange.requestHeader ||
    (call.signal !== undefined && call.signal === exchange.signal);
  if (!isSame) {
    throw new ConnectError(
      "the adapter option contextValues returned the same object for two requests; create one for each request",
      Code.Internal,
    );
  }
  return call;
}

/** Opens a call: takes the tokens from the headers of its request. */
function openCall({ cookies }: TokenReader, exchange: Exchange, isBuffered: boolean): Call {
  return new Call(cookies, exchange, isBuffered);
}
