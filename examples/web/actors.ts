import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type Interceptor,
  type Transport,
} from "@connectrpc/connect";
import { createSessionClient, memoryTokens, type SessionClient } from "rpc-session/client";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { Actor, Mood, type Person, PlaygroundService } from "../gen/playground/v1/playground_pb.ts";
import { Jar } from "./jar.ts";
import type { Timeline } from "./timeline.ts";

/** Creates a transport to the service, for a program that is not a browser. */
export type Connect = (parts: { readonly interceptors: Interceptor[] }) => Transport;

interface ThiefParts {
  readonly url: string;
  readonly connect: Connect;
  readonly timeline: Timeline;
}

/** Somebody who has copied the cookies of a browser, and uses them from a program of his own. */
export class Thief {
  readonly #parts: ThiefParts;
  #cookies: Jar | undefined;

  constructor(parts: ThiefParts) {
    this.#parts = parts;
  }

  /** @param cookieHeader the `Cookie` header of the victim */
  steal(cookieHeader: string): void {
    this.#cookies = new Jar(Date.now, cookieHeader);
    this.#tell(Mood.UNSPECIFIED, "I copied both cookies from the victim's computer.");
  }

  /** Makes an ordinary call as the victim. */
  async call(): Promise<void> {
    await this.#act("call the service", async (transport) => {
      const { greeting } = await createClient(PlaygroundService, transport).greet({});
      return `I called the service with the stolen access token. It says: “${greeting}”`;
    });
  }

  /** Exchanges the stolen refresh token for new tokens. */
  async refresh(): Promise<void> {
    await this.#act("refresh the session", async (transport) => {
      await createClient(SessionService, transport).refresh({});
      return "I refreshed the session with the stolen token. Now both of us have its successor; the next refresh will show that there are two of us.";
    });
  }

  async #act(what: string, act: (transport: Transport) => Promise<string>): Promise<void> {
    if (this.#cookies === undefined) {
      this.#tell(Mood.UNSPECIFIED, "I have not stolen any cookies yet.");
      return;
    }
    const transport = this.#parts.connect({ interceptors: [this.#withCookies(this.#cookies)] });
    try {
      this.#tell(Mood.GOOD, await act(transport));
    } catch (error) {
      const { code, rawMessage } = ConnectError.from(error);
      this.#tell(Mood.REFUSED, `I tried to ${what}: ${Code[code]}: ${rawMessage}.`);
    }
  }

  /** Sends the cookies and keeps those of the response, as a browser would. */
  #withCookies(cookies: Jar): Interceptor {
    return (next) => async (request) => {
      request.header.set("cookie", cookies.header);
      // Any program can claim to be a page of the service.
      request.header.set("origin", this.#parts.url);
      const response = await next(request);
      cookies.keep(response.header);
      return response;
    };
  }

  #tell(mood: Mood, text: string): void {
    this.#parts.timeline.add(Actor.THIEF, mood, text);
  }
}

/** The second device of a user: a program with rpc-session's own client. */
export class Phone {
  readonly #timeline: Timeline;
  readonly #session: SessionClient;
  readonly #playground: Client<typeof PlaygroundService>;
  readonly #stop = new AbortController();

  constructor(connect: Connect, timeline: Timeline) {
    this.#timeline = timeline;
    this.#session = createSessionClient({
      transport: ({ interceptors }) => connect({ interceptors }),
      tokens: memoryTokens(), // not the cookies of the browser that the phone may run in
      refreshTimeout: "3s",
    });
    this.#playground = createClient(PlaygroundService, this.#session.transport);
  }

  get isSignedIn(): boolean {
    return this.#session.state.status === "signedIn";
  }

  /** Signs in, and keeps a stream open for as long as the session lives. */
  async signIn(person: Person): Promise<void> {
    await this.#playground.signIn({ person });
    this.#tell(Mood.GOOD, "I am signed in, and I keep a stream open.");
    void this.#watch();
  }

  /** Signs out every other device of the user. */
  async revokeOthers(): Promise<void> {
    const { revoked } = await createClient(
      SessionService,
      this.#session.transport,
    ).revokeOtherSessions({});
    this.#tell(Mood.GOOD, `I signed out ${revoked} other ${revoked === 1 ? "device" : "devices"}.`);
  }

  close(): void {
    this.#stop.abort();
    this.#session.close();
  }

  async #watch(): Promise<void> {
    const { signal } = this.#stop;
    try {
      for await (const _ of this.#session.resume(
        (_, call) => this.#playground.watchClock({}, call),
        {
          signal,
        },
      )) {
        // A phone would show the time here.
      }
    } catch (error) {
      if (!signal.aborted) {
        const { code } = ConnectError.from(error);
        this.#tell(Mood.REFUSED, `My stream ended at once: ${Code[code]}. I am signed out.`);
      }
    }
  }

  #tell(mood: Mood, text: string): void {
    this.#timeline.add(Actor.PHONE, mood, text);
  }
}
