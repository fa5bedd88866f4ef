import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type Interceptor,
} from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { createSessionClient, type SessionClient } from "rpc-session/client";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { Actor, Mood, type Person, PlaygroundService } from "../gen/playground/v1/playground_pb.ts";
import type { Timeline } from "./timeline.ts";

/** Somebody who has copied the cookies of a browser, and uses them from a program of his own. */
export class Thief {
  readonly #baseUrl: string;
  readonly #timeline: Timeline;
  #cookies: ReadonlyMap<string, string> = new Map();

  constructor(baseUrl: string, timeline: Timeline) {
    this.#baseUrl = baseUrl;
    this.#timeline = timeline;
  }

  /** @param cookieHeader the `Cookie` header of the victim */
  steal(cookieHeader: string): void {
    this.#cookies = new Map(
      cookieHeader.split("; ").map((pair) => {
        const [name = "", ...value] = pair.split("=");
        return [name, value.join("=")];
      }),
    );
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

  async #act(what: string, act: (transport: ThiefTransport) => Promise<string>): Promise<void> {
    if (this.#cookies.size === 0) {
      this.#tell(Mood.UNSPECIFIED, "I have not stolen any cookies yet.");
      return;
    }
    const transport = createConnectTransport({
      baseUrl: this.#baseUrl,
      httpVersion: "1.1",
      interceptors: [this.#withCookies()],
    });
    try {
      this.#tell(Mood.GOOD, await act(transport));
    } catch (error) {
      const { code, rawMessage } = ConnectError.from(error);
      this.#tell(Mood.REFUSED, `I tried to ${what}: ${Code[code]}: ${rawMessage}.`);
    }
  }

  /** Sends the cookies and keeps those of the response, as a browser would. */
  #withCookies(): Interceptor {
    return (next) => async (request) => {
      const pairs = [...this.#cookies].map(([name, value]) => `${name}=${value}`);
      request.header.set("cookie", pairs.join("; "));
      // Any program can claim to be a page of the service.
      request.header.set("origin", this.#baseUrl);
      const response = await next(request);
      const received = response.header.getSetCookie().map((line) => line.split(";")[0] ?? "");
      const changed = received.map((pair): [string, string] => {
        const at = pair.indexOf("=");
        return [pair.slice(0, at), pair.slice(at + 1)];
      });
      this.#cookies = new Map([...this.#cookies, ...changed]);
      return response;
    };
  }

  #tell(mood: Mood, text: string): void {
    this.#timeline.add(Actor.THIEF, mood, text);
  }
}

type ThiefTransport = ReturnType<typeof createConnectTransport>;

/** The second device of a user: a program with rpc-session's own client. */
export class Phone {
  readonly #timeline: Timeline;
  readonly #session: SessionClient;
  readonly #playground: Client<typeof PlaygroundService>;
  readonly #stop = new AbortController();

  constructor(baseUrl: string, timeline: Timeline) {
    this.#timeline = timeline;
    this.#session = createSessionClient({
      transport: (parts) => createConnectTransport({ baseUrl, httpVersion: "1.1", ...parts }),
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
