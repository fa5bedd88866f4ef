// A browser that knows Device Bound Session Credentials (DBSC), written from the W3C draft of 2026-02 and
// from what Chromium 150 and 156 do. Where the two differ, it does what Chromium does.

import { parseSetCookie } from "cookie";
import { exportJWK, generateKeyPair, SignJWT } from "jose";

type PrivateKey = Awaited<ReturnType<typeof generateKeyPair>>["privateKey"];

/** A cookie of the jar. */
interface JarCookie {
  readonly name: string;
  readonly value: string;
  readonly host: string;
  readonly path: string;
  readonly expires: number;
  readonly httpOnly: boolean;
  readonly secure: boolean;
  readonly sameSite: string | undefined;
}

/** A binding, as the session instructions describe it. */
interface Binding {
  readonly id: string;
  readonly key: PrivateKey;
  readonly alg: string;
  readonly instructions: Instructions;
  /** The challenge that it signs without being asked. */
  challenge: string | undefined;
  readonly refreshUrl: string;
}

interface Instructions {
  readonly session_identifier: string;
  readonly refresh_url: string;
  readonly continue?: boolean;
  readonly scope: {
    readonly origin: string;
    readonly include_site: boolean;
    readonly scope_specification: readonly {
      readonly type: "include" | "exclude";
      readonly domain: string;
      readonly path: string;
    }[];
  };
  readonly credentials: readonly {
    readonly type: string;
    readonly name: string;
    readonly attributes: string;
  }[];
  readonly allowed_refresh_initiators?: readonly string[];
}

/** A request that went out, and the status of its answer. */
export interface Sent {
  readonly line: string;
  readonly headers: Headers;
  readonly answer: Response | undefined;
}

export interface DeviceBrowserOptions {
  /** Where the origin that the browser shows really is: `{ "https://test.example": "http://127.0.0.1:1" }`. */
  readonly hosts: Readonly<Record<string, string>>;
  readonly clock: { now(): number };
  /** Whether it knows DBSC. Default true. */
  readonly knowsDbsc?: boolean;
  /** Refreshes in a row after which it makes no more proofs. Default 5, as in Chromium. */
  readonly quota?: number;
  readonly alg?: "ES256" | "RS256";
  /** Whether it quotes the values of its headers, as the draft says. Default false, as in Chromium. */
  readonly quotes?: boolean;
}

/** Called in place of a request: throw for a lost connection, or change what arrives. */
type Fault = (url: URL, send: () => Promise<Response>) => Promise<Response>;

export class DeviceBrowser {
  readonly #options: DeviceBrowserOptions;
  readonly bindings: Binding[] = [];
  /** Why the browser has refused registrations. A page does not learn it. */
  readonly refusals: string[] = [];
  readonly sent: Sent[] = [];
  /** The jar, which a thief may copy. */
  jar: JarCookie[] = [];
  /** Stands between the browser and the server. */
  fault: Fault = (_url, send) => send();
  #registering: Promise<void>[] = [];
  #refreshing = new Map<string, Promise<string | undefined>>();
  #inARow = 0;

  constructor(options: DeviceBrowserOptions) {
    this.#options = options;
  }

  /** Waits for registrations, which browsers make in the background. */
  async settled(): Promise<void> {
    await Promise.all(this.#registering.splice(0));
  }

  /** The requests since the last look, as "POST /path 200". */
  lines(): string[] {
    return this.sent.splice(0).map(({ line }) => line);
  }

  /** A new quota, as after a while. */
  rest(): void {
    this.#inARow = 0;
  }

  /** The `fetch` of a page of an origin. */
  pageOf(origin: string): typeof fetch {
    return async (input, init) => {
      const request = new Request(input, init);
      const url = new URL(request.url);
      const headers = new Headers(request.headers);
      headers.set("sec-fetch-site", url.origin === origin ? "same-origin" : "same-site");
      headers.set("origin", origin);
      const body = request.method === "GET" ? undefined : await request.arrayBuffer();
      const skipped = this.#options.knowsDbsc === false ? undefined : await this.#hold(url, origin);
      if (skipped !== undefined) {
        headers.set("secure-session-skipped", skipped);
      }
      return this.#send(url, { method: request.method, headers, ...(body && { body }) });
    };
  }

  /** Sends a request as it is, with the cookies of the jar. */
  async #send(url: URL, init: RequestInit & { readonly headers: Headers }): Promise<Response> {
    const cookie = this.cookiesFor(url)
      .map(({ name, value }) => `${name}=${value}`)
      .join("; ");
    if (cookie !== "") {
      init.headers.set("cookie", cookie);
    }
    const entry = { line: `${init.method} ${url.pathname}`, headers: init.headers };
    try {
      const answer = await this.fault(url, () => {
        const real = this.#options.hosts[url.origin];
        if (real === undefined) {
          throw new TypeError(`no route to ${url.origin}`);
        }
        return fetch(`${real}${url.pathname}${url.search}`, { ...init, redirect: "manual" });
      });
      this.sent.push({ ...entry, line: `${entry.line} ${answer.status}`, answer });
      this.#keep(url, answer.headers);
      this.#hear(url, answer.headers);
      return answer;
    } catch (error) {
      this.sent.push({ ...entry, line: `${entry.line} lost`, answer: undefined });
      throw error;
    }
  }

  // Cookies (RFC 6265bis).

  cookiesFor(url: URL): readonly JarCookie[] {
    const now = this.#options.clock.now();
    this.jar = this.jar.filter(({ expires }) => expires > now);
    return this.jar.filter(
      ({ host, path }) => host === url.hostname && isBelow(url.pathname, path),
    );
  }

  #keep(url: URL, headers: Headers): void {
    const now = this.#options.clock.now();
    for (const line of headers.getSetCookie()) {
      const { name, value = "", path = "/", ...given } = parseSetCookie(line, { decode: (v) => v });
      const { maxAge, httpOnly = false, secure = false, domain } = given;
      const isHost = name.startsWith("__Host-");
      const isHttp = /^__(Host-)?Http-/.test(name);
      const isRefused =
        (isHost && (!secure || path !== "/" || domain !== undefined)) ||
        (isHttp && (!secure || !httpOnly));
      if (isRefused || given.partitioned) {
        continue; // Partitioned cookies have jars of their own, which no test needs.
      }
      const place = (one: JarCookie) =>
        one.name === name && one.host === url.hostname && one.path === path;
      this.jar = this.jar.filter((one) => !place(one));
      const expires = maxAge === undefined ? Number.POSITIVE_INFINITY : now + maxAge * 1000;
      if (expires > now) {
        const sameSite = typeof given.sameSite === "string" ? given.sameSite : undefined;
        this.jar.push({
          ...{ name, value, path, expires, httpOnly, secure, sameSite },
          host: url.hostname,
        });
      }
    }
  }

  // Registration.

  #hear(url: URL, headers: Headers): void {
    if (this.#options.knowsDbsc === false) {
      return;
    }
    const registration = headers.get("secure-session-registration");
    if (registration !== null) {
      const registering = this.#register(url, registration).catch((error: Error) => {
        this.refusals.push(error.message);
      });
      this.#registering.push(registering);
    }
    const [, challenge, id] =
      /^"([^"]+)";id="([^"]+)"$/.exec(headers.get("secure-session-challenge") ?? "") ?? [];
    const binding = this.bindings.find((one) => one.id === id);
    if (binding !== undefined && challenge !== undefined) {
      binding.challenge = challenge;
    }
  }

  async #register(url: URL, header: string): Promise<void> {
    const [, algorithms = "", path = "", challenge = ""] =
      /^\(([^)]*)\);path="([^"]*)";challenge="([^"]*)"/.exec(header) ?? [];
    const { alg = "ES256" } = this.#options;
    if (url.protocol !== "https:" || !algorithms.split(" ").includes(alg)) {
      throw new Error("no algorithm in common, or not https");
    }
    const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
    const target = new URL(path, url);
    const proof = await new SignJWT({ jti: challenge })
      .setProtectedHeader({ alg, typ: "dbsc+jwt", jwk: await exportJWK(publicKey) })
      .sign(privateKey);
    const headers = new Headers({ "secure-session-response": this.#quoted(proof) });
    const answer = await this.#send(target, { method: "POST", headers });
    if (answer.status !== 200) {
      throw new Error(`registration answered ${answer.status}`);
    }
    this.#adopt(target, (await answer.json()) as Instructions, { key: privateKey, alg });
  }

  #adopt(url: URL, instructions: Instructions, { key, alg }: Pick<Binding, "key" | "alg">): void {
    const { session_identifier: id, refresh_url: refreshUrl, scope, credentials } = instructions;
    if (!id || scope.origin !== url.origin || credentials.length === 0) {
      throw new Error("InvalidScopeOrigin");
    }
    for (const { name, attributes } of credentials) {
      if (name.startsWith("__Host-Http-") || /max-age|expires|partitioned/i.test(attributes)) {
        throw new Error("InvalidCredentialsCookie");
      }
    }
    const at = this.bindings.findIndex((one) => one.id === id);
    const absolute = new URL(refreshUrl, url).href;
    const binding = { id, key, alg, instructions, challenge: undefined, refreshUrl: absolute };
    // An identifier is unique in a site: another registration with it replaces the binding.
    this.bindings.splice(at === -1 ? this.bindings.length : at, at === -1 ? 0 : 1, binding);
  }

  // Refresh.

  /** Holds a request until its credentials are there; returns why they are not. */
  async #hold(url: URL, initiator: string): Promise<string | undefined> {
    let skipped: string | undefined;
    for (const binding of [...this.bindings]) {
      if (this.#concerns(binding, url, initiator) && !this.#hasCredentials(binding, url)) {
        const running = this.#refreshing.get(binding.id) ?? this.#refresh(binding);
        this.#refreshing.set(binding.id, running);
        skipped = await running.finally(() => this.#refreshing.delete(binding.id));
      }
    }
    return skipped;
  }

  #concerns({ instructions, refreshUrl }: Binding, url: URL, initiator: string): boolean {
    const { scope, allowed_refresh_initiators: allowed = [] } = instructions;
    const isAllowed = initiator === scope.origin || allowed.includes(new URL(initiator).hostname);
    if (!isAllowed || url.origin !== scope.origin || url.href === refreshUrl) {
      return false;
    }
    // From the last rule to the first.
    const rule = scope.scope_specification.findLast(({ path }) => isBelow(url.pathname, path));
    return rule === undefined || rule.type === "include";
  }

  /** Whether each credential is there, with exactly the attributes that were declared. */
  #hasCredentials({ instructions }: Binding, url: URL): boolean {
    return instructions.credentials.every(({ name, attributes }) => {
      const declared = parseSetCookie(`${name}=; ${attributes}`);
      return this.cookiesFor(url).some(
        (one) =>
          one.name === name &&
          one.path === declared.path &&
          one.httpOnly === declared.httpOnly &&
          one.secure === declared.secure &&
          one.sameSite === declared.sameSite,
      );
    });
  }

  async #refresh(binding: Binding): Promise<string | undefined> {
    const { quota = 5 } = this.#options;
    const skippedFor = (why: string) => `${why};session_identifier="${binding.id}"`;
    if (this.#inARow >= quota) {
      return skippedFor("quota_exceeded");
    }
    this.#inARow += 1;
    const url = new URL(binding.refreshUrl);
    for (let asked = 0; asked < 5; asked++) {
      const headers = new Headers({ "sec-secure-session-id": this.#quoted(binding.id) });
      if (binding.challenge !== undefined) {
        const proof = new SignJWT({ jti: binding.challenge });
        proof.setProtectedHeader({ alg: binding.alg, typ: "dbsc+jwt" });
        headers.set("secure-session-response", this.#quoted(await proof.sign(binding.key)));
      }
      const before = binding.challenge;
      const answer = await this.#send(url, { method: "POST", headers }).catch(() => undefined);
      if (answer === undefined) {
        return skippedFor("unreachable");
      }
      if (answer.status === 403 && binding.challenge !== before) {
        continue;
      }
      if (answer.status >= 500 || answer.status === 407) {
        return skippedFor("server_error");
      }
      if (answer.status !== 200) {
        this.#forget(binding);
        return undefined;
      }
      const text = await answer.text();
      if (text !== "") {
        const instructions = JSON.parse(text) as Instructions;
        // JSON brings the browser to ask for a new challenge.
        binding.challenge = answer.headers.has("secure-session-challenge")
          ? binding.challenge
          : undefined;
        if (instructions.continue === false || instructions.session_identifier !== binding.id) {
          this.#forget(binding);
        }
      }
      return undefined;
    }
    this.#forget(binding);
    return undefined;
  }

  #forget(binding: Binding): void {
    this.bindings.splice(this.bindings.indexOf(binding), 1);
  }

  #quoted(value: string): string {
    return this.#options.quotes === true ? `"${value}"` : value;
  }
}

/** Whether a path is another one or below it, at a slash (RFC 6265bis section 5.1.4). */
function isBelow(path: string, above: string): boolean {
  return path === above || path.startsWith(above.endsWith("/") ? above : `${above}/`);
}
