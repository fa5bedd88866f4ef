import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ContextKey,
  createContextKey,
} from "@connectrpc/connect";
import {
  createSessions,
  type ProtectOptions,
  type SessionStore,
  type Sessions,
  type SessionsOptions,
} from "rpc-session";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { createFakeClock, type FakeClock } from "rpc-session/testing";
import {
  Actor,
  Deed,
  Mood,
  Person,
  PlaygroundService,
} from "../gen/playground/v1/playground_pb.ts";
import { type Connect, Phone, Thief } from "./actors.ts";
import { Timeline } from "./timeline.ts";

export interface PlaygroundOptions {
  /** The issuer: the origin of the page. */
  readonly url: string;
  readonly store: SessionStore;
  readonly cookies?: SessionsOptions["cookies"];
  /** How the phone and the thief reach the service. */
  readonly connect: Connect;
}

/** The `Cookie` header of a call. Handlers do not see the session cookies, but a thief would. */
export const cookieHeader: ContextKey<string> = createContextKey("");

/**
 * The service behind the page. It imports nothing of Node.js: server.ts runs it behind HTTP, and
 * static/worker.ts in the browser.
 */
export class Playground {
  /** The options of an adapter. */
  readonly adapter: ProtectOptions;
  readonly #sessions: Sessions;
  readonly #timeline: Timeline;
  readonly #clock: FakeClock;
  readonly #stopClock: () => void;
  readonly #connect: Connect;
  readonly #thief: Thief;
  /** The phone of each user. */
  readonly #phones = new Map<string, Phone>();
  /** Whether the response to the next refresh gets lost. */
  #losesNext = false;

  constructor({ url, store, cookies, connect }: PlaygroundOptions) {
    // 1. A clock that runs like any other, and that a button can move forward.
    const { clock, stop } = runningClock();
    this.#clock = clock;
    this.#stopClock = stop;
    this.#timeline = new Timeline(() => clock.now());

    // 2. The sessions. Everything lives much shorter than by default, so that you can watch it.
    this.#sessions = createSessions({
      issuer: url,
      store,
      clock,
      lifetimes: { access: "30s", idle: "1h" },
      refresh: { overlap: "5s", settle: "0s", clientTimeout: "3s" },
      ...(cookies !== undefined && { cookies }),
      onEvent: (event) => this.#timeline.addEvent(event),
    });

    // 3. Those who use it besides the page.
    this.#connect = connect;
    this.#thief = new Thief({ url, connect, timeline: this.#timeline });
    this.adapter = this.#sessions.protect({
      routes: (router) => this.#routes(router),
      readMaxBytes: 2 ** 20,
    });
  }

  /** Resolves when the store is open. */
  async ready(): Promise<void> {
    await this.#sessions.ready();
  }

  /** Whether the response to this request of a browser gets lost. Each loss happens once. */
  losesResponse(method: string): boolean {
    const isLost = this.#losesNext && method === SessionService.method.refresh.name;
    this.#losesNext &&= !isLost;
    return isLost;
  }

  /** Writes to the timeline that a response was lost after its request had been carried out. */
  lost(): void {
    const text = "The response to the refresh got lost on its way.";
    this.#timeline.add(Actor.SERVER, Mood.REFUSED, text);
  }

  /** Writes a request of a browser to the timeline. */
  answered(method: string, status: number): void {
    if (!quiet.has(method)) {
      const mood = status < 400 ? Mood.GOOD : Mood.REFUSED;
      this.#timeline.add(Actor.BROWSER, mood, `${method} → ${status}`);
    }
  }

  async close(): Promise<void> {
    this.#stopClock();
    this.#thief.close();
    for (const phone of this.#phones.values()) {
      phone.close();
    }
    await this.#sessions.close();
  }

  #routes(router: ConnectRouter): void {
    const sessions = this.#sessions;
    const timeline = this.#timeline;
    router.service(PlaygroundService, {
      async signIn({ person }, context) {
        const name = people[person];
        if (!name) {
          throw new ConnectError("person must be one of three", Code.InvalidArgument);
        }
        await sessions.create(context, { userId: name, data: { person } });
        return {};
      },
      greet: (_request, context) => ({ greeting: `Hello, ${sessions.require(context).userId}!` }),
      watchClock: (_request, { signal }) => this.#tick(signal),
      stay: (_request, { signal }) => this.#tick(signal),
      watchTimeline: ({ after }, { signal }) => timeline.after(after, signal),

      expireTokens: () => {
        const text = "The clock jumps: every access token expires.";
        timeline.add(Actor.SERVER, Mood.UNSPECIFIED, text);
        this.#clock.advance("31s");
        return {};
      },
      loseResponse: () => {
        this.#losesNext = true;
        const text = "The response to the next refresh will get lost.";
        timeline.add(Actor.SERVER, Mood.UNSPECIFIED, text);
        return {};
      },
      stealCookies: (_request, context) => {
        this.#thief.steal(context.values.get(cookieHeader));
        return {};
      },
      stealPhone: async (_request, context) => {
        const tokens = await this.#phoneOf(sessions.require(context)).copyTokens();
        if (tokens !== undefined) {
          this.#thief.stealTokens(tokens);
        }
        return {};
      },
      sendThief: async ({ deed }) => {
        await this.#send(deed);
        return {};
      },
      addPhone: async (_request, context) => {
        const session = sessions.require(context);
        const { person } = await session.data();
        if (this.#phones.get(session.userId)?.isSignedIn !== true) {
          const phone = new Phone(this.#connect, timeline);
          await phone.signIn(person as Person);
          this.#phones.set(session.userId, phone);
        }
        return {};
      },
      revokeFromPhone: async (_request, context) => {
        await this.#phoneOf(sessions.require(context)).revokeOthers();
        return {};
      },
    });
  }

  #phoneOf({ userId }: { readonly userId: string }): Phone {
    const phone = this.#phones.get(userId);
    if (phone?.isSignedIn !== true) {
      throw new ConnectError("add a phone first", Code.FailedPrecondition);
    }
    return phone;
  }

  #send(deed: Deed): Promise<void> {
    switch (deed) {
      case Deed.REFRESH:
        return this.#thief.refresh();
      case Deed.WATCH:
        return this.#thief.watch();
      default:
        return this.#thief.call();
    }
  }

  /** Yields the time every second. */
  async *#tick(signal: AbortSignal): AsyncGenerator<{ time: bigint }> {
    while (!signal.aborted) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1000);
        signal.addEventListener("abort", () => {
          clearTimeout(timer);
          resolve();
        });
      });
      yield { time: BigInt(this.#clock.now()) };
    }
  }
}

const people: Readonly<Record<Person, string>> = {
  [Person.UNSPECIFIED]: "",
  [Person.ADA]: "Ada",
  [Person.GRACE]: "Grace",
  [Person.EDSGER]: "Edsger",
};

/** Calls of the page itself; they would only fill the timeline. */
const quiet = new Set([
  ...["GetSession", "ListSessions", "WatchTimeline", "ExpireTokens", "LoseResponse"],
  ...["StealCookies", "StealPhone", "SendThief", "AddPhone", "RevokeFromPhone"],
]);

/** A clock that follows the real one, and that can be moved forward. */
function runningClock(): { readonly clock: FakeClock; readonly stop: () => void } {
  const clock = createFakeClock(Date.now());
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    const passed = Math.floor(now - last);
    last += passed;
    clock.advance(`${passed}ms`);
  }, 50);
  return { clock, stop: () => clearInterval(timer) };
}
