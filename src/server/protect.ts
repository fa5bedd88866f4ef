import type { DescService } from "@bufbuild/protobuf";
import type {
  ConnectRouter,
  ConnectRouterOptions,
  HandlerContext,
  Interceptor,
  ServiceImpl,
} from "@connectrpc/connect";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import type { SessionEventListener } from "../base/events.ts";
import { header, proofHeader } from "../base/wire.ts";
import { readOrigins } from "../request/origins.ts";
import type { RequestGate } from "./call/gate.ts";
import { assertRunsGates } from "./call/gates-run.ts";
import { closeRefusedUploads, type RefusedUploads } from "./call/refused-upload.ts";
import type { Policies } from "./policy/policy.ts";

/** The lists for a CORS middleware, with the names of `cors` in @connectrpc/connect. */
export interface CorsLists {
  readonly allowedMethods: readonly string[];
  readonly allowedHeaders: readonly string[];
  readonly exposedHeaders: readonly string[];
  /**
   * The origins whose pages may call, exactly as browsers send them, such as
   * "https://app.example.com" or "capacitor://localhost". Pages that use cookies must also be in the
   * option `origins` of the sessions. Default: none.
   */
  readonly allowedOrigins?: readonly string[];
  /** Seconds for which browsers cache a preflight. Default 7200, the maximum in Chromium. */
  readonly maxAge?: number;
}

/** The settings for a CORS middleware. They allow credentials, so no list contains a wildcard. */
export interface SessionCors {
  readonly allowedMethods: string[];
  readonly allowedHeaders: string[];
  readonly exposedHeaders: string[];
  readonly allowedOrigins: string[];
  readonly allowCredentials: true;
  /** `Access-Control-Max-Age`: seconds. */
  readonly maxAge: number;
}

/**
 * Adds the headers of sessions to Connect's own CORS lists. Sessions use no trailers, so no
 * `Trailer-*` header has to be exposed.
 *
 * ```ts
 * import { cors } from "@connectrpc/connect";
 * sessionCors({ ...cors, allowedOrigins: ["https://app.example.com"] });
 * ```
 *
 * @throws TypeError for a wildcard, because browsers refuse it with credentials, and a middleware
 * that replaces it with the caller's origin would let every site use the session; for a value that
 * is not a list; for an origin that is not written as browsers send it; for a `maxAge` that is not a
 * non-negative integer
 */
export function sessionCors(cors: CorsLists): SessionCors {
  const { allowedOrigins = [], maxAge = 7200 } = cors;
  const lists = [cors.allowedMethods, cors.allowedHeaders, cors.exposedHeaders, allowedOrigins];
  if (!lists.every(Array.isArray)) {
    throw new TypeError(
      "sessionCors requires lists of strings: pass { ...cors, allowedOrigins } with cors from @connectrpc/connect",
    );
  }
  if (lists.some((list) => list.includes("*"))) {
    throw new TypeError(
      'sessionCors does not accept "*", which browsers refuse with credentials; list each value',
    );
  }
  readOrigins("allowedOrigins", allowedOrigins);
  if (!Number.isSafeInteger(maxAge) || maxAge < 0) {
    throw new TypeError(`maxAge must be a non-negative integer (seconds), got ${maxAge}`);
  }
  const exposed = [
    header.accessToken,
    header.refreshToken,
    header.csrf,
    header.hint,
    header.session,
    header.heartbeat,
    proofHeader.nonce,
  ];
  return {
    allowedMethods: [...cors.allowedMethods],
    allowedHeaders: merge(cors.allowedHeaders, [
      "authorization",
      header.transport,
      header.csrf,
      header.session,
      proofHeader.proof,
    ]),
    exposedHeaders: merge(cors.exposedHeaders, exposed),
    allowedOrigins: [...allowedOrigins],
    allowCredentials: true,
    maxAge,
  };
}

/** Merges header names, which are case-insensitive. */
function merge(list: readonly string[], added: readonly string[]): string[] {
  const known = new Set(list.map((name) => name.toLowerCase()));
  return [...list, ...added.filter((name) => !known.has(name))];
}

/** The options of an adapter: its routes and anything else that it accepts. */
export interface ProtectOptions extends ConnectRouterOptions {
  /** Registers the services of the application. It must be done when it returns. */
  readonly routes: (router: ConnectRouter) => unknown;
}

/** The parts that `protect` adds to an adapter. */
export interface Protection {
  readonly gate: RequestGate;
  readonly interceptor: Interceptor;
  /** Undefined in a service that only verifies. */
  readonly service: Partial<ServiceImpl<typeof SessionService>> | undefined;
  readonly policies: Policies;
  readonly emit: SessionEventListener;
  readonly uploads: RefusedUploads;
  /** Reports what a gate of the application has thrown. Returns the error to send. */
  readonly gateThrew: (context: HandlerContext, error: unknown) => unknown;
}

/**
 * The options of SessionService: its messages have at most 4 KiB, after decompression. Anybody may
 * call `Refresh` and `SignOut`, and the longest message holds one refresh token of 256 characters.
 */
export const serviceOptions: { readonly readMaxBytes: number } = { readMaxBytes: 4096 };

/**
 * Adds the protection to an adapter's options: the gate before the user's gate, the interceptor
 * before the user's interceptors, both for the router and for single services, and SessionService
 * after the user's routes. Uploads that the gate refuses do not keep their connection.
 */
export function protect<O extends ProtectOptions>(protection: Protection, options: O): O {
  if (typeof options?.routes !== "function") {
    throw new TypeError("sessions.protect requires the options of an adapter, including routes");
  }
  const { interceptor, service, policies, uploads } = protection;
  return {
    ...options,
    requestGate: beforeGate(protection, options.requestGate),
    interceptors: [interceptor, ...(options.interceptors ?? [])],
    routes: (router: ConnectRouter) => {
      assertRunsGates(router);
      const protectedRouter = new ProtectedRouter(protection, router, options);
      assertRegistered(options.routes(protectedRouter.router));
      if (service !== undefined && !serves(router, SessionService)) {
        protectedRouter.router.service(SessionService, service);
      }
      for (const [i, handler] of router.handlers.entries()) {
        router.handlers[i] = closeRefusedUploads(handler, uploads);
      }
      policies.assertServed(router.handlers.map(({ method }) => method));
      if (protectedRouter.readsAnySize) {
        warnOnce(protection);
      }
      return router;
    },
  };
}

/** @throws TypeError if a function for routes has not registered them when it returns */
function assertRegistered(returned: unknown): void {
  if (typeof returned === "function") {
    throw new TypeError(
      "routes returned a function, so it seems to be a factory; call it and pass what it returns, as in routes: createRoutes(sessions)",
    );
  }
  if (typeof (returned as { then?: unknown } | undefined)?.then === "function") {
    throw new TypeError(
      "routes returned a promise, but adapters read the routes as soon as it returns; await what the routes need before you create the adapter, and register them without async",
    );
  }
}

const warned = new WeakSet<Protection>();

/** Warns that messages have no limit, once for each instance. */
function warnOnce(protection: Protection): void {
  if (!warned.has(protection)) {
    warned.add(protection);
    protection.emit({
      type: "warning",
      option: "readMaxBytes",
      advice:
        "anybody can send messages of up to 4 GiB to public methods, sign-in included; pass readMaxBytes to sessions.protect, such as 1 MiB",
    });
  }
}

function serves(router: ConnectRouter, { typeName }: DescService): boolean {
  return router.handlers.some(({ service }) => service.typeName === typeName);
}

/**
 * Combines several gates into one, because a router accepts only one. They run in order until one
 * throws. Gates that are undefined are skipped.
 */
export function composeGates(
  ...gates: readonly (ConnectRouterOptions["requestGate"] | undefined)[]
): RequestGate {
  const [first, ...more] = gates.filter((gate) => gate !== undefined);
  if (first !== undefined && more.length === 0) {
    return first;
  }
  return async (context) => {
    await first?.(context);
    for (const gate of more) {
      await gate(context);
    }
  };
}

/** Runs our gate, then a gate of the application, whose errors no interceptor would see. */
function beforeGate(
  { gate, gateThrew }: Protection,
  own: ConnectRouterOptions["requestGate"],
): RequestGate {
  if (own === undefined) {
    return gate;
  }
  return async (context) => {
    await gate(context);
    try {
      await own(context);
    } catch (error) {
      throw gateThrew(context, error);
    }
  };
}

/** The parts that SessionService needs in a router that is not wrapped. */
export interface SessionServiceParts {
  readonly service: Partial<ServiceImpl<typeof SessionService>>;
  readonly requestGate: RequestGate;
  readonly interceptor: Interceptor;
}

/** Registers SessionService, unless the router serves it already. */
export function registerService(parts: SessionServiceParts, router: ConnectRouter): ConnectRouter {
  if (serves(router, SessionService)) {
    return router;
  }
  if (guarded.has(router)) {
    return router.service(SessionService, parts.service);
  }
  assertRunsGates(router);
  // A router that a framework has built may have neither gate nor interceptor.
  const { requestGate, interceptor } = parts;
  const options = { ...serviceOptions, requestGate, interceptors: [interceptor] };
  return router.service(SessionService, parts.service, options);
}

/** The routers that `protect` passes to routes. */
const guarded = new WeakSet<ConnectRouter>();

type ServiceOptions = Parameters<ConnectRouter["service"]>[2];

/**
 * Wraps a router so that the options of a single service keep our interceptor and gate, which they
 * would otherwise replace, and so that SessionService reads short messages only.
 */
class ProtectedRouter {
  readonly router: ConnectRouter;
  /** Whether a method was added that reads messages of any size. */
  readsAnySize = false;
  readonly #protection: Protection;
  readonly #adapter: ConnectRouterOptions;

  constructor(protection: Protection, router: ConnectRouter, adapter: ConnectRouterOptions) {
    this.#protection = protection;
    this.#adapter = adapter;
    const wrapped: ConnectRouter = {
      handlers: router.handlers,
      service: (service, implementation, options) => {
        router.service(service, implementation, this.#optionsOf(service, options));
        return wrapped;
      },
      rpc: (method, implementation, options) => {
        router.rpc(method, implementation, this.#optionsOf(method.parent, options));
        return wrapped;
      },
    };
    guarded.add(wrapped);
    this.router = wrapped;
  }

  #optionsOf({ typeName }: DescService, given: ServiceOptions): ServiceOptions {
    const options = given === undefined ? undefined : this.#guarded(given);
    if (typeName === SessionService.typeName) {
      const { grpc = true, grpcWeb = true, connect = true } = this.#adapter;
      const readMaxBytes = given?.readMaxBytes ?? this.#shortest();
      // Connect forgets which protocols are off where a service has options.
      return { ...{ grpc, grpcWeb, connect }, ...options, readMaxBytes };
    }
    // "in", because an explicit undefined replaces the adapter's value.
    const { readMaxBytes } = given !== undefined && "readMaxBytes" in given ? given : this.#adapter;
    this.readsAnySize ||= readMaxBytes === undefined;
    return options;
  }

  #guarded(options: NonNullable<ServiceOptions>): NonNullable<ServiceOptions> {
    const { interceptor } = this.#protection;
    return {
      ...options,
      ...("interceptors" in options && {
        interceptors: [interceptor, ...(options.interceptors ?? [])],
      }),
      ...("requestGate" in options && {
        requestGate: beforeGate(this.#protection, options.requestGate),
      }),
    };
  }

  #shortest(): number {
    const { readMaxBytes = Number.POSITIVE_INFINITY } = this.#adapter;
    return Math.min(serviceOptions.readMaxBytes, readMaxBytes);
  }
}
