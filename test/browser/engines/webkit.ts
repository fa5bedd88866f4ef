// WebKitGTK by WebDriver (W3C), with Debian's driver: JSON over HTTP.
import { existsSync, globSync } from "node:fs";
import http from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import {
  type BrowserCookie,
  type Engine,
  type InPage,
  type RunningEngine,
  type Tab,
  until,
  type Visitor,
} from "../engines.ts";
import { outcomeOf, scriptOf, start } from "./driver.ts";

const driverPath = "/usr/bin/WebKitWebDriver";
const displayPath = "/usr/bin/Xvfb";

/**
 * Looks for the driver, its browser and a display without a screen. Cookies are kept by libsoup here,
 * which knows no prefixes and no `Partitioned`; Safari knows both.
 */
export function findWebKit(): Engine {
  const [browserPath] = globSync("/usr/lib/*/webkit2gtk-4.1/MiniBrowser");
  const isFound = browserPath !== undefined && existsSync(driverPath) && existsSync(displayPath);
  return {
    name: "WebKit",
    traits: {
      secureOnLocalhost: false,
      prefixes: false,
      partitioned: false,
      settings: false,
      popups: false,
    },
    ...(isFound && { launch: () => launch(browserPath) }),
    missing: isFound ? "" : "on Debian, run apt-get install webkit2gtk-driver xvfb",
  };
}

async function launch(browserPath: string): Promise<RunningEngine> {
  const display = start(displayPath, [
    ...["-displayfd", "3", "-screen", "0", "1280x900x24", "-nolisten", "tcp"],
  ]);
  const [number, proxy] = await Promise.all([display.printed(/^(\d+)\n/m), startProxy()]);
  return {
    visitor: async () => await WebKitVisitor.open(browserPath, `:${number}`, proxy.address),
    async close() {
      await Promise.all([display.stop(), proxy.close()]);
    },
  };
}

/** Calls the driver. `path` is relative to the session. */
type Send = (verb: "GET" | "POST" | "DELETE", path: string, body?: object) => Promise<unknown>;

class WebKitVisitor implements Visitor {
  readonly #session: Session;
  readonly #home: string;
  readonly close: () => Promise<void>;

  private constructor(session: Session, home: string, close: () => Promise<void>) {
    this.#session = session;
    this.#home = home;
    this.close = close;
  }

  static async open(binary: string, display: string, proxy: string): Promise<WebKitVisitor> {
    const port = await freePort();
    const driver = start(driverPath, [`--port=${port}`], {
      ...{ DISPLAY: display, GDK_BACKEND: "x11", NO_AT_BRIDGE: "1" },
      ...{ LIBGL_ALWAYS_SOFTWARE: "1", WEBKIT_DISABLE_COMPOSITING_MODE: "1" },
    });
    const send = sender(`http://127.0.0.1:${port}`);
    await until(
      () =>
        send("GET", "/status").then(
          () => true,
          () => false,
        ),
      "the driver answers",
    );
    const { sessionId } = (await send("POST", "/session", {
      capabilities: {
        alwaysMatch: {
          acceptInsecureCerts: true,
          "webkitgtk:browserOptions": { binary, args: ["--automation", `--proxy=http://${proxy}`] },
        },
      },
    })) as { sessionId: string };
    const own = sender(`http://127.0.0.1:${port}/session/${sessionId}`);
    await own("POST", "/timeouts", { script: 60_000, pageLoad: 30_000 });
    const home = String(await own("GET", "/window"));
    return new WebKitVisitor(new Session(own), home, async () => {
      await own("DELETE", "").catch(() => {});
      await driver.stop();
    });
  }

  async newTab(): Promise<Tab> {
    const session = this.#session;
    // The first window stays, because a session ends with its last window.
    const made = await session.in(this.#home, "POST", "/window/new", { type: "tab" });
    const { handle } = made as { readonly handle: string };
    return new WebKitTab(session, handle);
  }

  popup(): Promise<Tab> {
    throw new Error("WebKit's driver does not show windows that a page opens.");
  }

  async cookies(url: string): Promise<BrowserCookie[]> {
    // WebDriver shows the cookies of the current page only.
    const tab = await this.newTab();
    await tab.goto(new URL("/", url).href);
    const cookies = await (tab as WebKitTab).cookies();
    await tab.close();
    return cookies;
  }
}

/** A driver's session works in one window at a time, so its commands take turns. */
class Session {
  readonly #send: Send;
  #turn: Promise<unknown> = Promise.resolve();
  #current: string | undefined;

  constructor(send: Send) {
    this.#send = send;
  }

  /** Sends a command to the window `handle`. */
  in(handle: string, ...command: Parameters<Send>): Promise<unknown> {
    const done = this.#turn.then(async () => {
      if (this.#current !== handle) {
        await this.#send("POST", "/window", { handle });
      }
      this.#current = command[0] === "DELETE" ? undefined : handle;
      return await this.#send(...command);
    });
    this.#turn = done.catch(() => {});
    return done;
  }
}

class WebKitTab implements Tab {
  readonly #session: Session;
  readonly #handle: string;

  constructor(session: Session, handle: string) {
    this.#session = session;
    this.#handle = handle;
  }

  async evaluate<A extends unknown[], R>(work: InPage<A, R>, ...args: A): Promise<R> {
    const script = `${scriptOf(work, args)}.then(arguments[arguments.length - 1]);`;
    return outcomeOf(await this.#send("POST", "/execute/async", { script, args: [] }));
  }

  async goto(url: string): Promise<void> {
    await this.#send("POST", "/url", { url });
  }

  async reload(): Promise<void> {
    await this.#send("POST", "/refresh", {});
  }

  async back(): Promise<void> {
    await this.#send("POST", "/back", {});
  }

  async close(): Promise<void> {
    await this.#send("DELETE", "/window");
  }

  async cookies(): Promise<BrowserCookie[]> {
    return (await this.#send("GET", "/cookie")) as BrowserCookie[];
  }

  #send(...command: Parameters<Send>): Promise<unknown> {
    return this.#session.in(this.#handle, ...command);
  }
}

function sender(base: string): Send {
  return async (verb, path, body) => {
    const response = await fetch(base + path, {
      method: verb,
      ...(body && {
        body: JSON.stringify(body),
        headers: { "content-type": "application/json" },
      }),
    });
    const { value } = (await response.json()) as { value: { error?: string; message?: string } };
    if (!response.ok) {
      throw new Error(`WebKit: ${verb} ${path}: ${value?.error}: ${value?.message}`);
    }
    return value;
  };
}

/** A proxy that takes every host for this machine. WebKit has no setting for the addresses of hosts. */
async function startProxy(): Promise<{ readonly address: string; close(): Promise<void> }> {
  const host = "127.0.0.1";
  const sockets = new Set<Socket>();
  const proxy = http.createServer((request, response) => {
    const { port, pathname, search } = new URL(request.url ?? "");
    const { method, headers } = request;
    const onward = http.request(
      { host, port, path: pathname + search, method, headers },
      (from) => {
        response.writeHead(from.statusCode ?? 502, from.rawHeaders);
        from.pipe(response);
        from.once("close", () => from.complete || response.destroy());
      },
    );
    onward.once("error", () => response.destroy());
    response.once("close", () => onward.destroy());
    request.pipe(onward);
  });
  proxy.on("connect", (request, client, head) => {
    const port = Number(request.url?.split(":").at(-1));
    const server = connect({ host, port }, () => {
      client.write("HTTP/1.1 200 Connected\r\n\r\n");
      server.write(head);
      client.pipe(server).pipe(client);
    });
    for (const [one, other] of [
      [server, client],
      [client, server],
    ] as const) {
      one.on("error", () => {});
      one.once("close", () => other.destroy());
    }
  });
  proxy.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => proxy.listen(0, host, resolve));
  return {
    address: `${host}:${(proxy.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        proxy.close(() => resolve());
        for (const socket of sockets) {
          socket.destroy();
        }
      }),
  };
}

async function freePort(): Promise<number> {
  const server = http.createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
