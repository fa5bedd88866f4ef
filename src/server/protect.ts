import type { DescService } from "@bufbuild/protobuf";
import type {
  ConnectRouter,
  ConnectRouterOptions,
  Interceptor,
  ServiceImpl,
} from "@connectrpc/connect";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import type { RequestGate } from "./call/gate.ts";
import type { Policies } from "./policy/policy.ts";

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
      protection.policies.check(router.handlers.map(({ method }) => method));
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
