// One browser and the server that renders for it, on a real service with a clock that tests move.
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import type { SessionEvent } from "rpc-session";
import { createVisitor, type Visitor, type VisitorOptions } from "rpc-session/ssr";
import type { CookieJar } from "tough-cookie";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { callFromPage, newJar } from "../helpers/jar.ts";
import { realm, refreshCookie } from "../helpers/presented.ts";
import { type NotesServer, startNotes, type TestSessionsOptions } from "../helpers/server.ts";
import type { WireResult } from "../helpers/wire.ts";

const url = `${realm}/`;

/** What browsers send when a user goes to a page. */
export const navigation: Readonly<Record<string, string>> = {
  "sec-fetch-site": "none",
  "sec-fetch-mode": "navigate",
  "sec-fetch-dest": "document",
};

export interface Site {
  readonly server: NotesServer;
  readonly events: SessionEvent[];
  readonly clock: NotesServer["sessions"]["clock"];
  readonly options: VisitorOptions;
}

export async function startSite(options: TestSessionsOptions = {}): Promise<Site> {
  const events: SessionEvent[] = [];
  const server = await startNotes({
    sessions: { onEvent: (event) => events.push(event), ...options },
  });
  const { clock } = server.sessions;
  const baseUrl = `http://127.0.0.1:${server.port.h1}`;
  return {
    ...{ server, events, clock },
    options: {
      transport: (parts) => createConnectTransport({ baseUrl, httpVersion: "1.1", ...parts }),
      origin: realm,
      clock,
    },
  };
}

/** How often each event happened. */
export function counts({ events }: Site): Partial<Record<SessionEvent["type"], number>> {
  return events.reduce<Partial<Record<SessionEvent["type"], number>>>(
    (sums, { type }) => Object.assign(sums, { [type]: (sums[type] ?? 0) + 1 }),
    {},
  );
}

/** A request that the server renders for. */
export interface Rendering {
  readonly visitor: Visitor;
  readonly notes: Client<typeof NotesService>;
  readonly own: Client<typeof SessionService>;
}

export class Browser {
  readonly #site: Site;
  #jar: CookieJar = newJar();

  constructor(site: Site) {
    this.#site = site;
  }

  static async signedIn(site: Site, user = "alice"): Promise<Browser> {
    const browser = new Browser(site);
    const { tokens } = await site.server.sessions.issue({ userId: user, transport: "cookie" });
    browser.#set(`${refreshCookie}=${tokens.refreshToken}; Path=/; Secure; HttpOnly`);
    browser.#set(`__Host-Http-rpcsession-access=${tokens.accessToken}; Path=/; Secure; HttpOnly`);
    return browser;
  }

  get cookies(): string {
    return this.#jar.getCookieStringSync(url);
  }

  /** The generation that the refresh cookie names. */
  get generation(): number {
    return Number(new RegExp(`${refreshCookie}=[^.]+\\.[^.]+\\.(\\d+)\\.`).exec(this.cookies)?.[1]);
  }

  /** Calls the service itself, without a retry. */
  call(method: Parameters<typeof callFromPage>[2]): Promise<WireResult> {
    return callFromPage(this.#site.server, { jar: this.#jar, issuer: realm }, method);
  }

  refresh(): Promise<WireResult> {
    return this.call(SessionService.method.refresh);
  }

  /** Requests a page. */
  open(
    headers: Readonly<Record<string, string>> = navigation,
    options: Partial<VisitorOptions> & { readonly method?: string } = {},
  ): Rendering {
    const { cookies } = this;
    const { method = "GET", ...others } = options;
    const sent = new Headers({ ...(cookies !== "" && { cookie: cookies }), ...headers });
    return render({ method, headers: sent }, { ...this.#site.options, ...others });
  }

  /** Receives the cookies of a response. */
  keep({ visitor }: Rendering): void {
    for (const line of visitor.setCookies) {
      this.#set(line);
    }
  }

  /** Returns to the cookies that it has now, as after a crash. */
  remember(): () => void {
    const then = this.#jar.cloneSync();
    return () => {
      this.#jar = then ?? newJar();
    };
  }

  #set(line: string): void {
    this.#jar.setCookieSync(line, url);
  }
}

export function render(request: Parameters<typeof createVisitor>[0], options: VisitorOptions) {
  const visitor = createVisitor(request, options);
  return {
    visitor,
    notes: createClient(NotesService, visitor.transport),
    own: createClient(SessionService, visitor.transport),
  };
}

/** The user that a page is rendered for. */
export async function userOf({ own }: Rendering): Promise<string | undefined> {
  return (await own.getSession({})).session?.userId;
}
