import {
  type AcceptedIssuer,
  assertId,
  assertMembers,
  isAnyOf,
  readAudience,
  readIssuer,
} from "./base/checks.ts";
import type { CookieOptions } from "./request/cookie-options.ts";
import { SessionCookies } from "./request/cookies.ts";
import { readPageOrigins } from "./request/origins.ts";
import { DbscBinding } from "./server/authenticate/dbsc.ts";
import { type BindMode, Proofs } from "./server/authenticate/proofs.ts";
import type { Core } from "./server/core.ts";

/** One of several hosts under which a service answers; see the option `hosts`. */
export interface HostOptions {
  /**
   * The URL of this service at the host, such as "https://shop-a.example". Requests belong to the host if
   * they name the host and the port of this URL. It becomes the `iss` claim of access tokens (RFC 7519),
   * and proofs of possession must name the procedure under it (DPoP, RFC 9449).
   */
  readonly issuer: string;
  /** The `aud` claim of access tokens. Default: the issuer of the host. */
  readonly audience?: string;
  /** The origins of the pages that may use cookies of this host. Default: the origin of its issuer. */
  readonly origins?: readonly string[];
  /** The cookies of this host, such as their domain. Members that are left out are those of the service. */
  readonly cookies?: CookieOptions;
  /**
   * The tenant of new sessions that name none. Users of different tenants are different users, even with
   * the same id: one does not see, limit or end the sessions of the other. Null for no tenant.
   * Default: the host, such as "shop-a.example".
   */
  readonly tenantId?: string | null;
}

/** A host, checked. */
export interface ReadHost {
  /** What requests call the host, in lower case: with the port, and without it if it is the default one. */
  readonly names: readonly string[];
  readonly accepted: AcceptedIssuer;
  /** What differs from the service. */
  readonly core: Pick<
    Core,
    | "issuer"
    | "olderIssuers"
    | "isOwnIssuer"
    | "cookies"
    | "origins"
    | "proofs"
    | "dbsc"
    | "tenantId"
  >;
}

/** The options of the service that hosts depend on. */
interface Service {
  readonly issuer: string;
  readonly olderIssuers?: readonly string[] | undefined;
  readonly cookies?: CookieOptions | undefined;
  readonly bindMode: BindMode;
}

const maxHosts = 1_000;

/**
 * Reads the option `hosts`.
 * @throws TypeError that names the wrong host and how to correct it
 */
export function readHosts(hosts: readonly HostOptions[], service: Service): readonly ReadHost[] {
  if (hosts.length === 0 || hosts.length > maxHosts) {
    throw new TypeError(
      `hosts must list 1 to ${maxHosts} hosts, got ${hosts.length}; leave it out for a service with one host`,
    );
  }
  const read = hosts.map((host, index) =>
    readHost(host, { ...service, option: `hosts[${index}]` }),
  );
  assertApart(read);
  return read;
}

function readHost(host: HostOptions, service: Service & { readonly option: string }): ReadHost {
  const { option } = service;
  assertMembers(option, host, { issuer: 0, audience: 0, origins: 0, cookies: 0, tenantId: 0 });
  const { issuer, tenantId } = host;
  const url = readIssuer(issuer, `${option}.issuer`);
  const { olderIssuers = [] } = service;
  if (olderIssuers.includes(issuer)) {
    throw new TypeError(
      `${option}.issuer: ${JSON.stringify(issuer)} is among olderIssuers, whose tokens belong to ${service.issuer}; remove it from one of them`,
    );
  }
  if (tenantId !== undefined && tenantId !== null) {
    assertId(`${option}.tenantId`, tenantId);
  }
  if (host.origins !== undefined && !Array.isArray(host.origins)) {
    throw new TypeError(
      `${option}.origins must be an array of origins, such as ["https://shop-a.example"]`,
    );
  }
  const isHome = issuer === service.issuer;
  const accepted = isHome ? [issuer, ...olderIssuers] : [issuer];
  const { cookies, origins, audience } = named(option, () => {
    const given = { ...service.cookies, ...host.cookies };
    return {
      cookies: new SessionCookies(url, given),
      origins: readPageOrigins(host.origins, { issuer: url, sameSite: given.sameSite }),
      audience: readAudience(host.audience ?? issuer),
    };
  });
  return {
    names: namesOf(url),
    accepted: { issuer, audience },
    core: {
      issuer,
      olderIssuers: isHome ? olderIssuers : [],
      isOwnIssuer: isAnyOf(accepted),
      ...{ cookies, origins },
      proofs: new Proofs({ mode: service.bindMode, url: issuer }),
      dbsc: new DbscBinding({ base: url, cookies: cookies.plan, origins }),
      tenantId: tenantId === undefined ? url.host : tenantId,
    },
  };
}

/** Names the host in the message of an error about one of its members. */
function named<T>(option: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new TypeError(`${option}: ${(error as Error).message}`, { cause: error });
  }
}

const defaultPorts: Readonly<Record<string, string>> = { "https:": "443", "http:": "80" };

/** The names of a host in requests (RFC 9110 section 7.2). */
function namesOf({ host, port, protocol }: URL): readonly string[] {
  return port === "" ? [host, `${host}:${defaultPorts[protocol]}`] : [host];
}

/**
 * Checks that no request belongs to two hosts, and that no browser sends the cookies of one host to
 * another under the same names: each would take them for its own and replace them.
 */
function assertApart(hosts: readonly ReadHost[]): void {
  const known = new Map<string, number>();
  for (const [index, { names, core }] of hosts.entries()) {
    const [name = ""] = names;
    const other = known.get(name);
    if (other !== undefined) {
      throw new TypeError(
        `hosts[${index}].issuer: ${JSON.stringify(core.issuer)} has the same host as hosts[${other}]; list each host once`,
      );
    }
    known.set(name, index);
  }
  for (const [from, sender] of hosts.entries()) {
    const to = hosts.findIndex((host) => host !== sender && receives(host, sender));
    if (to >= 0) {
      throw new TypeError(
        `hosts[${to}]: browsers send the cookies of hosts[${from}] to this host too, under the same names; leave out cookies.domain, or give each host its own cookies.names`,
      );
    }
  }
}

/** Whether browsers send cookies of one host to another under one of its own names. */
function receives({ core: own }: ReadHost, { core: other }: ReadHost): boolean {
  const read = [own.cookies.names, own.cookies.otherNames].flatMap((names) => [
    names?.access,
    names?.refresh,
  ]);
  const { access, refresh } = other.cookies.names;
  const isShared = read.includes(access) || read.includes(refresh);
  return isShared && other.cookies.reaches(new URL(own.issuer).hostname);
}
