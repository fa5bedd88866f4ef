// Firefox by WebDriver BiDi (W3C), which is built into the browser: JSON over a WebSocket.
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type {
  BrowserCookie,
  Engine,
  InPage,
  RunningEngine,
  Tab,
  Visitor,
  VisitorSettings,
} from "../engines.ts";
import { outcomeOf, scriptOf, start, temporaryFolder } from "./driver.ts";

/** Looks for Firefox in $FIREFOX and on the system. */
export function findFirefox(hosts: readonly string[]): Engine {
  const paths = ["/usr/bin/firefox-esr", "/usr/bin/firefox"];
  const path = process.env.FIREFOX ?? paths.find((one) => existsSync(one));
  const isFound = path !== undefined && existsSync(path);
  return {
    name: "Firefox",
    traits: {
      secureOnLocalhost: true,
      prefixes: true,
      partitioned: true,
      settings: true,
      popups: true,
    },
    ...(isFound && { launch: async () => new Firefox(path, hosts, await open(path, hosts)) }),
    missing: isFound
      ? ""
      : "on Debian, run apt-get install firefox-esr; elsewhere, set the variable FIREFOX to its path",
  };
}

/** The number of a preference for {@link VisitorSettings}. */
const cookieBehavior = { all: 0, none: 2 };

class Firefox implements RunningEngine {
  readonly #path: string;
  readonly #hosts: readonly string[];
  readonly #shared: Connection;

  constructor(path: string, hosts: readonly string[], shared: Connection) {
    this.#path = path;
    this.#hosts = hosts;
    this.#shared = shared;
  }

  async visitor({ cookies }: VisitorSettings = {}): Promise<Visitor> {
    // The preference concerns the whole browser.
    if (cookies !== undefined) {
      const own = await open(this.#path, this.#hosts, {
        "network.cookie.cookieBehavior": cookieBehavior[cookies],
      });
      return new FirefoxVisitor(own, "default", () => own.close());
    }
    const shared = this.#shared;
    const { userContext } = await shared.send("browser.createUserContext", {});
    return new FirefoxVisitor(shared, String(userContext), async () => {
      await shared.send("browser.removeUserContext", { userContext });
    });
  }

  close(): Promise<void> {
    return this.#shared.close();
  }
}

class FirefoxVisitor implements Visitor {
  readonly #connection: Connection;
  readonly #userContext: string;
  readonly close: () => Promise<void>;

  constructor(connection: Connection, userContext: string, close: () => Promise<void>) {
    this.#connection = connection;
    this.#userContext = userContext;
    this.close = close;
  }

  async newTab(): Promise<Tab> {
    const { context } = await this.#connection.send("browsingContext.create", {
      type: "tab",
      userContext: this.#userContext,
    });
    return new FirefoxTab(this.#connection, String(context));
  }

  async popup(opener: Tab, url: string): Promise<Tab> {
    const before = new Set(await this.#tabs());
    const created = this.#connection.once(
      "browsingContext.load",
      ({ context }) => !before.has(String(context)),
    );
    await opener.evaluate((address) => void window.open(address, "popup"), url);
    const { context } = await created;
    return new FirefoxTab(this.#connection, String(context));
  }

  async cookies(url: string): Promise<BrowserCookie[]> {
    const { cookies } = await this.#connection.send("storage.getCookies", {
      partition: { type: "storageKey", userContext: this.#userContext },
    });
    const { hostname } = new URL(url);
    return (
      (cookies as FirefoxCookie[])
        .filter(({ domain }) => domain === hostname || `.${hostname}`.endsWith(domain))
        // Firefox lists cookies that a response has just expired until it removes them.
        .filter(({ expiry }) => expiry === undefined || expiry * 1000 > Date.now())
        .map(({ value, sameSite, ...cookie }) => ({
          ...cookie,
          value: value.value,
          sameSite: sameSite.charAt(0).toUpperCase() + sameSite.slice(1),
        }))
    );
  }

  async #tabs(): Promise<string[]> {
    const { contexts } = await this.#connection.send("browsingContext.getTree", { maxDepth: 0 });
    return (contexts as { readonly context: string }[]).map(({ context }) => context);
  }
}

interface FirefoxCookie extends Omit<BrowserCookie, "value"> {
  readonly value: { readonly value: string };
  readonly sameSite: string;
  /** Seconds since 1970; absent for a cookie of the browser session. */
  readonly expiry?: number;
}

class FirefoxTab implements Tab {
  readonly #connection: Connection;
  readonly #context: string;

  constructor(connection: Connection, context: string) {
    this.#connection = connection;
    this.#context = context;
  }

  async evaluate<A extends unknown[], R>(work: InPage<A, R>, ...args: A): Promise<R> {
    const { type, result, exceptionDetails } = await this.#connection.send("script.evaluate", {
      expression: scriptOf(work, args),
      target: { context: this.#context },
      awaitPromise: true,
      // Without it, Firefox opens no popup.
      userActivation: true,
    });
    if (type !== "success") {
      throw new Error(`A script of the page failed: ${JSON.stringify(exceptionDetails)}`);
    }
    return outcomeOf((result as { readonly value: string }).value);
  }

  async goto(url: string): Promise<void> {
    await this.#send("browsingContext.navigate", { url, wait: "complete" });
  }

  async reload(): Promise<void> {
    await this.#send("browsingContext.reload", { wait: "complete" });
  }

  async back(): Promise<void> {
    await this.#send("browsingContext.traverseHistory", { delta: -1 });
  }

  async close(): Promise<void> {
    await this.#send("browsingContext.close", {});
  }

  async #send(method: string, params: object): Promise<void> {
    await this.#connection.send(method, { context: this.#context, ...params });
  }
}

type Json = Record<string, unknown>;

/** A browser with a profile of its own, and the WebSocket that controls it. */
interface Connection {
  send(method: string, params: object): Promise<Json>;
  /** Resolves to the next event `method` that `isMeant` accepts. */
  once(method: string, isMeant: (params: Json) => boolean): Promise<Json>;
  close(): Promise<void>;
}

const preferences: Json = {
  "app.update.disabledForTesting": true,
  "datareporting.policy.dataSubmissionEnabled": false,
  "dom.disable_open_during_load": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "remote.log.level": "Error",
  "services.settings.server": "data:,",
};

async function open(path: string, hosts: readonly string[], own: Json = {}): Promise<Connection> {
  const folder = temporaryFolder();
  const all: Json = { ...preferences, "network.dns.localDomains": hosts.join(), ...own };
  writeFileSync(
    join(folder.path, "user.js"),
    Object.entries(all)
      .map((pair) => `user_pref(${pair.map((part) => JSON.stringify(part)).join()});\n`)
      .join(""),
  );
  const program = start(path, [
    ...["--headless", "--no-remote", "--remote-debugging-port=0", "--profile", folder.path],
  ]);
  const address = await program.printed(/WebDriver BiDi listening on (\S+)/);
  const connection = await connect(`${address}/session`);
  await connection.send("session.new", {
    capabilities: { alwaysMatch: { acceptInsecureCerts: true } },
  });
  await connection.send("session.subscribe", {
    events: ["browsingContext.load"],
  });
  return {
    ...connection,
    async close() {
      await connection.send("browser.close", {}).catch(() => {});
      await program.stop();
      folder.remove();
    },
  };
}

/** Milliseconds; no script of a test takes as long. */
const answerWithin = 90_000;

async function connect(url: string): Promise<Omit<Connection, "close">> {
  const socket = new WebSocket(url);
  const waiting = new Map<number, PromiseWithResolvers<Json>>();
  const listeners = new Set<(message: Json) => void>();
  let count = 0;
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(String(data)) as Json;
    const answered = waiting.get(message.id as number);
    if (answered === undefined) {
      for (const listener of listeners) {
        listener(message);
      }
      return;
    }
    waiting.delete(message.id as number);
    if (message.type === "success") {
      answered.resolve(message.result as Json);
    } else {
      answered.reject(new Error(`Firefox: ${String(message.error)}: ${String(message.message)}`));
    }
  };
  socket.onclose = () => {
    for (const { reject } of waiting.values()) {
      reject(new Error("Firefox has closed the connection."));
    }
  };
  await new Promise<void>((resolve, reject) => {
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error(`Firefox does not answer at ${url}.`));
  });
  return {
    send(method, params) {
      const answered = Promise.withResolvers<Json>();
      const id = ++count;
      waiting.set(id, answered);
      socket.send(JSON.stringify({ id, method, params }));
      const limit = setTimeout(() => {
        waiting.delete(id);
        const what = JSON.stringify(params).slice(0, 500);
        answered.reject(new Error(`Firefox did not answer ${method} within 90 s: ${what}`));
      }, answerWithin);
      return answered.promise.finally(() => clearTimeout(limit));
    },
    once: (method, isMeant) =>
      new Promise((resolve) => {
        const listener = (message: Json): void => {
          if (message.method === method && isMeant(message.params as Json)) {
            listeners.delete(listener);
            resolve(message.params as Json);
          }
        };
        listeners.add(listener);
      }),
  };
}
