import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ContextValues,
  createContextKey,
  type HandlerContext,
  type Interceptor,
  type ServiceImpl,
} from "@connectrpc/connect";
import type { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../base/errors.ts";
import {
  type Exchange,
  isIntercepted,
  isRpc,
  type RpcContext,
  readContext,
  readExchange,
} from "./call/exchange.ts";
import type { Core } from "./core.ts";
import { type ClaimRules, type Policies, procedureOf } from "./policy/policy.ts";
import { type Protection, protect, registerService, serviceOptions } from "./protect.ts";
import type { DbscEndpoints } from "./service/dbsc.ts";
import { type AdoptedSession, isAdopted } from "./session/adopt.ts";
import {
  createInstance,
  directoryOf,
  type HostSessions,
  type ServerInstance,
  type ServerSessions,
} from "./sessions.ts";

/** The parts of a request by which its host is found. Its headers still hold tokens: do not log them. */
export interface HostRequest {
  readonly requestHeader: Headers;
  /** The URL that the server received; maybe only a path. */
  readonly url: string | undefined;
  /** Context values, as the adapter option `contextValues` creates them. Outside RPCs maybe undefined. */
  readonly values: ContextValues | undefined;
}

/** Returns the host that a request is for, such as "shop-a.example"; undefined if there is none. */
export type HostOf = (request: HostRequest) => string | undefined;

/** A host: its names in requests, and the core of its instance. */
interface Host {
  readonly names: readonly string[];
  readonly core: Core;
}

interface HostedOptions {
  readonly hosts: readonly Host[];
  readonly hostOf: HostOf | undefined;
}

type Service = Partial<ServiceImpl<typeof SessionService>>;

/**
 * Assembles the server side of a service with several hosts: an instance for each host, with its own
 * issuer, cookies and origins. The host of a request selects its instance, and nothing else does.
 *
 * @param home the core of the service, for what is done by id
 */
export function createHostedSessions(
  home: Core,
  policies: Policies,
  { hosts, hostOf }: HostedOptions,
): ServerSessions {
  // 1. An instance for each host. What is done by id needs none.
  const byName = new Map<string, ServerInstance>();
  for (const { names, core } of hosts) {
    const instance = createInstance(core, policies);
    for (const name of names) {
      byName.set(name, instance);
    }
  }
  const all = [...new Set(byName.values())];
  const { sessions: byId } = createInstance(home, policies);

  // 2. The instance of a request.
  const choice = new HostChoice(home, byName, hostOf);
  const ofRpc = (context: RpcContext): ServerInstance => choice.ofRpc(context);

  // 3. Adapters: one gate, one interceptor and one service, each of which hands over to the instance.
  const service = serviceOf(all, ofRpc);
  const requestGate = async (context: HandlerContext): Promise<void> =>
    ofRpc(context).sessions.requestGate(context);
  const interceptor = handingOver(ofRpc, ({ sessions }) => sessions.interceptor);
  const protection: Protection = {
    gate: async (context) => ofRpc(context).protection.gate(context),
    interceptor: handingOver(ofRpc, (instance) => instance.protection.interceptor),
    service,
    policies,
    emit: home.emit,
    uploads: { clock: home.clock, isRefused: (values) => choice.isRefused(values) },
    gateThrew: (context, error) => ofRpc(context).protection.gateThrew(context, error),
  };

  // 4. Methods on calls hand over too. What is done by id is done for all hosts.
  return {
    ...directoryOf(home),
    check: ((given: ConnectRouter & string, rules: ClaimRules) =>
      byId.check(given, rules)) as ServerSessions["check"],
    describe: (router) => byId.describe(router),
    auditLog: byId.auditLog,
    serviceOptions,
    ...{ service, requestGate, interceptor },
    protect: (options) => protect(protection, options),
    register: (router: ConnectRouter) =>
      registerService({ service, requestGate, interceptor }, router),
    drain: async (options) => {
      await Promise.all(all.map(({ sessions }) => sessions.drain(options)));
    },
    ...callsByHost(choice),
    dbsc: (path) => devicesOf(all, path, (request) => choice.of(request, undefined)),
    host: (name) => choice.named(name),
    issue: async () => needsHost("issue"),
    redeemTicket: async () => needsHost("redeemTicket"),
  };
}

/** The methods on calls: each hands over to the instance of its call. */
function callsByHost(choice: HostChoice) {
  const ofExchange = (method: string, given: unknown) =>
    choice.ofExchange(readExchange(method, given)).sessions;
  const ofCall = (method: string, given: unknown) =>
    choice.ofRpc(readContext(method, given)).sessions;
  return {
    current: (context) => ofCall("sessions.current", context).current(context),
    require: (context) => ofCall("sessions.require", context).require(context),
    requireFresh: (context, demand) =>
      ofCall("sessions.requireFresh", context).requireFresh(context, demand),
    requireClaims: async (context, rules) =>
      ofCall("sessions.requireClaims", context).requireClaims(context, rules),
    getSession: (async (given, options) =>
      ofExchange("sessions.getSession", given).getSession(
        given,
        options ?? {},
      )) as ServerSessions["getSession"],
    create: async (given, options) => ofExchange("sessions.create", given).create(given, options),
    adopt: (async (given: Exchange | AdoptedSession, options?: AdoptedSession) =>
      isAdopted(given, options)
        ? needsHost("adopt")
        : ofExchange("sessions.adopt", given).adopt(
            given,
            options as AdoptedSession,
          )) as ServerSessions["adopt"],
    reauthenticate: async (given, options) =>
      ofExchange("sessions.reauthenticate", given).reauthenticate(given, options),
    signOut: async (given) => ofExchange("sessions.signOut", given).signOut(given),
    fork: async (given, options) => ofExchange("sessions.fork", given).fork(given, options),
    ticket: async (given, options) => ofExchange("sessions.ticket", given).ticket(given, options),
  } satisfies Partial<ServerSessions>;
}

/** Finds the instance of a request. */
class HostChoice {
  readonly #home: Pick<Core, "emit">;
  readonly #byName: ReadonlyMap<string, ServerInstance>;
  readonly #hostOf: HostOf | undefined;
  /** The instance of a request, in its context values, so that the host is read once. */
  readonly #key = createContextKey<ServerInstance | "refused" | undefined>(undefined, {
    description: "rpc-session host",
  });

  constructor(
    home: Pick<Core, "emit">,
    byName: ReadonlyMap<string, ServerInstance>,
    hostOf: HostOf | undefined,
  ) {
    this.#home = home;
    this.#byName = byName;
    this.#hostOf = hostOf;
  }

  /** @throws SessionError `forbidden` with the reason `HOST_UNKNOWN`; `general` if `hostOf` fails */
  of(request: HostRequest, procedure: string | undefined): ServerInstance {
    const { values } = request;
    const known = values?.get(this.#key);
    if (known !== undefined && known !== "refused") {
      return known;
    }
    values?.set(this.#key, "refused");
    const found = this.#find(request, procedure);
    if (found === undefined) {
      const ids = { sessionId: undefined, userId: undefined };
      this.#home.emit({ type: "refused", procedure, reason: "HOST_UNKNOWN", ...ids });
      throw new SessionError("forbidden", "HOST_UNKNOWN", {
        message:
          "the request names a host that this service does not serve; send it to one of the hosts of the service",
      });
    }
    values?.set(this.#key, found);
    return found;
  }

  /** The same for an RPC. @throws ConnectError `PermissionDenied`, or `Internal` if `hostOf` fails */
  ofRpc(context: RpcContext): ServerInstance {
    const values = isIntercepted(context) ? context.contextValues : context.values;
    const known = values.get(this.#key);
    if (known !== undefined && known !== "refused") {
      return known;
    }
    const requestHeader = isIntercepted(context) ? context.header : context.requestHeader;
    try {
      return this.of({ requestHeader, url: context.url, values }, procedureOf(context.method));
    } catch (error) {
      const isUnknown = error instanceof SessionError && error.kind === "forbidden";
      const [message, code] = isUnknown
        ? [error.message, Code.PermissionDenied]
        : ["internal error", Code.Internal];
      throw new ConnectError(message, code, undefined, undefined, error);
    }
  }

  /** The same for an exchange, with the error of `of` outside RPCs. */
  ofExchange(exchange: Exchange): ServerInstance {
    const { requestHeader, url, values } = exchange;
    return isRpc(exchange)
      ? this.ofRpc(exchange)
      : this.of({ requestHeader, url, values }, undefined);
  }

  /** Whether a call was refused before its body was read. */
  isRefused(values: ContextValues): boolean {
    const known = values.get(this.#key);
    return known === "refused" || known?.protection.uploads.isRefused(values) === true;
  }

  /** What is done for a host without a request. @throws TypeError for a host that is not listed */
  named(name: string): HostSessions {
    const instance = typeof name === "string" ? this.#byName.get(name.toLowerCase()) : undefined;
    if (instance === undefined) {
      throw new TypeError(
        `sessions.host: ${JSON.stringify(name)} is not in the option hosts; pass the host of one of its issuers, such as "shop-a.example"`,
      );
    }
    const { sessions } = instance;
    return {
      issue: (options) => sessions.issue(options),
      adopt: (options) => sessions.adopt(options),
      redeemTicket: (ticket, options) => sessions.redeemTicket(ticket, options),
    };
  }

  #find(request: HostRequest, procedure: string | undefined): ServerInstance | undefined {
    const names = this.#hostOf === undefined ? namesIn(request) : [this.#ask(request, procedure)];
    const [first, ...others] = names.map((name) =>
      typeof name === "string" ? this.#byName.get(name.toLowerCase()) : undefined,
    );
    return others.every((other) => other === first) ? first : undefined;
  }

  #ask(request: HostRequest, procedure: string | undefined): string | undefined {
    try {
      return this.#hostOf?.(request);
    } catch (cause) {
      const message = "the option hostOf threw an error; see its cause";
      const error = new SessionError("general", "INTERNAL", { message, cause });
      this.#home.emit({ type: "failed", procedure, error });
      throw error;
    }
  }
}

/**
 * The hosts that a request names: in the header `Host`, and in the URL that the server received, which
 * has that of an absolute target and of `:authority` (RFC 9110 section 7.2). Both must be the same.
 */
function namesIn({ requestHeader, url }: HostRequest): readonly string[] {
  const header = requestHeader.get("host");
  const ofUrl = url === undefined ? undefined : /^[a-z]+:\/\/([^/?#]*)/i.exec(url)?.[1];
  return [header ?? undefined, ofUrl].filter((name) => name !== undefined);
}

/** An interceptor that hands each request over to that of its instance. */
function handingOver(
  ofRpc: (context: RpcContext) => ServerInstance,
  interceptorOf: (instance: ServerInstance) => Interceptor,
): Interceptor {
  return (next) => {
    const handlers = new Map<ServerInstance, ReturnType<Interceptor>>();
    return async (request) => {
      const instance = ofRpc(request);
      const handler = handlers.get(instance) ?? interceptorOf(instance)(next);
      handlers.set(instance, handler);
      return handler(request);
    };
  };
}

/** An implementation of SessionService that hands each call over to that of its instance. */
function serviceOf(
  all: readonly ServerInstance[],
  ofRpc: (context: RpcContext) => ServerInstance,
): Service {
  type Method = (request: unknown, context: HandlerContext) => unknown;
  const methodOf = ({ sessions }: ServerInstance, name: string) =>
    (sessions.service as Readonly<Record<string, Method>>)[name];
  const service = {};
  for (const name of Object.keys(all[0]?.sessions.service ?? {})) {
    const handOver: Method = async (request, context) =>
      methodOf(ofRpc(context), name)?.(request, context);
    Object.defineProperty(service, name, {
      enumerable: true,
      get: () => {
        // Each instance learns that a router has registered the service.
        for (const instance of all) {
          methodOf(instance, name);
        }
        return handOver;
      },
    });
  }
  return service;
}

/** The endpoints of DBSC: each request belongs to those of its host. */
function devicesOf(
  all: readonly ServerInstance[],
  path: string,
  instanceOf: (request: HostRequest) => ServerInstance,
): DbscEndpoints {
  const endpoints = new Map(all.map((one) => [one, one.sessions.dbsc(path)] as const));
  const known = new Set([...endpoints.values()].flatMap(({ paths }) => paths));
  return {
    paths: [...known],
    answer(request) {
      if (!known.has(request.path)) {
        return undefined;
      }
      try {
        const { headers: requestHeader, url } = request;
        const instance = instanceOf({ requestHeader, url, values: undefined });
        return endpoints.get(instance)?.answer(request);
      } catch (error) {
        // RFC 9110 section 15.5.20: not a host of this service. 5xx leaves a binding alone.
        const isUnknown = error instanceof SessionError && error.kind === "forbidden";
        return Promise.resolve(new Response(null, { status: isUnknown ? 421 : 503 }));
      }
    },
  };
}

/** @throws TypeError always */
function needsHost(method: "issue" | "redeemTicket" | "adopt"): never {
  throw new TypeError(
    `sessions.${method}: with the option hosts, tokens and tickets belong to a host; use sessions.host("shop-a.example").${method}(…)`,
  );
}
