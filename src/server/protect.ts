import type { DescService } from "@bufbuild/protobuf";
import type {
  ConnectRouter,
  ConnectRouterOptions,
  Interceptor,
  ServiceImpl,
} from "@connectrpc/connect";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { header } from "../base/wire.ts";
import { readOrigins } from "../request/origins.ts";
import type { RequestGate } from "./call/gate.ts";
import type { Policies } from "./policy/policy.ts";

/** The lists of a CORS middleware, named as in `cors` of @connectrpc/connect. */
export interface CorsLists {
  readonly allowedMethods: readonly string[];
  readonly allowedHeaders: readonly string[];
  readonly exposedHeaders: readonly string[];
  /**
   * Origins whose pages may call, exactly as browsers send them. Those that use cookies must be in
   * the `origins` of the sessions too.
   */
  readonly allowedOrigins?: readonly string[];
  /** Seconds for which a browser need not ask again before a call. Default 7200, the most that Chromium takes. */
  readonly maxAge?: number;
}

/** What a CORS middleware needs for sessions; credentials are allowed, so nothing is a wildcard. */
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
 * Adds what sessions need to Connect's own CORS lists: `sessionCors({ ...cors, allowedOrigins: ["https://app.example.com"] })`.
 *
 * Nothing of a session is in a trailer, so that no `Trailer-*` header needs to be exposed.
 *
 * @throws TypeError for a wildcard: browsers refuse it with credentials, and a middleware that
 * answers with the caller's origin instead would let every site use the session; for what is no list; for an origin that
 * is not written as browsers send it; for a `maxAge` that is no whole number of seconds
 */
export function sessionCors(cors: CorsLists): SessionCors {
  const { allowedOrigins = [], maxAge = 7200 } = cors;
  const lists = [cors.allowedMethods, cors.allowedHeaders, cors.exposedHeaders, allowedOrigins];
  if (!lists.every(Array.isArray)) {
    throw new TypeError(
      "sessionCors: give it lists, { ...cors, allowedOrigins } with cors of @connectrpc/connect",
    );
  }
  if (lists.some((list) => list.includes("*"))) {
    throw new TypeError('sessionCors: "*" cannot go with credentials; name each value');
  }
  readOrigins("allowedOrigins", allowedOrigins);
  if (!Number.isSafeInteger(maxAge) || maxAge < 0) {
    throw new TypeError(`maxAge: ${maxAge} is no whole number of seconds`);
  }
  const exposed = [
    header.accessToken,
    header.refreshToken,
    header.csrf,
    header.hint,
    header.session,
  ];
  return {
    allowedMethods: [...cors.allowedMethods],
    allowedHeaders: merge(cors.allowedHeaders, ["authorization", header.transport, header.csrf]),
    exposedHeaders: merge(cors.exposedHeaders, exposed),
    allowedOrigins: [...allowedOrigins],
    allowCredentials: true,
    maxAge,
  };
}

/** Header names are the same in any case. */
function merge(list: readonly string[], added: readonly string[]): string[] {
  const known = new Set(list.map((name) => name.toLowerCase()));
  return [...list, ...added.filter((name) => !known.has(name))];
}

/** What an adapter is given: its routes, and whatever else it takes. */
export interface ProtectOptions extends ConnectRouterOptions {
  readonly routes: (router: ConnectRouter) => unknown;
}

/** The parts that `protect` adds. */
export interface Protection {
  readonly gate: RequestGate;
  readonly interceptor: Interceptor;
  /** Undefined in a service that only verifies. */
  readonly service: Partial<ServiceImpl<typeof SessionService>> | undefined;
  readonly policies: Policies;
}

/**
 * Returns an adapter's options with the protection built in: the gate before the user's gate, the
 * interceptor before the user's interceptors, of the router and of single services, and
 * SessionService beside the user's routes.
 */
export function protect<O extends ProtectOptions>(protection: Protection, options: O): O {
  if (typeof options?.routes !== "function") {
    throw new TypeError("sessions.protect: give it the adapter's options, with their routes");
  }
  const { gate, interceptor } = protection;
  return {
    ...options,
    requestGate: composeGates(gate, options.requestGate),
    interceptors: [interceptor, ...(options.interceptors ?? [])],
    routes: (router: ConnectRouter) => {
      options.routes(protectRouter(protection, router));
      const { service } = protection;
      if (service !== undefined && !serves(router, SessionService)) {
        router.service(SessionService, service);
      }
      protection.policies.assertServed(router.handlers.map(({ method }) => method));
      return router;
    },
  };
}

function serves(router: ConnectRouter, { typeName }: DescService): boolean {
  return router.handlers.some(({ service }) => service.typeName === typeName);
}

/** One gate that runs several, in order, until one of them throws. A router takes one only. */
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

/** A router whose per-service options keep our interceptor and gate: by themselves they replace the router's. */
function protectRouter({ gate, interceptor }: Protection, router: ConnectRouter): ConnectRouter {
  type Options = Parameters<ConnectRouter["service"]>[2];
  const keep = (options: Options): Options =>
    options === undefined
      ? undefined
      : {
          ...options,
          // "in", because an explicit undefined replaces the router's value too.
          ...("interceptors" in options && {
            interceptors: [interceptor, ...(options.interceptors ?? [])],
          }),
          ...("requestGate" in options && {
            requestGate: composeGates(gate, options.requestGate),
          }),
        };
  const wrapped: ConnectRouter = {
    handlers: router.handlers,
    service(service, implementation, options) {
      router.service(service, implementation, keep(options));
      return wrapped;
    },
    rpc(method, implementation, options) {
      router.rpc(method, implementation, keep(options));
      return wrapped;
    },
  };
  return wrapped;
}
