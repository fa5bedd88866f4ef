import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type Interceptor,
  type Transport,
} from "@connectrpc/connect";
import {
  type ClientTokens,
  createSessionClient,
  memoryTokens,
  type SessionClient,
  type TokenStore,
} from "rpc-session/client";
import { dpopKey } from "rpc-session/client/dpop";
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

/** Copied tokens, and what a thief does with them. */
interface Loot {
  /** Sends calls as the victim does. */
  readonly transport: Transport;
  /** Exchanges the refresh token. */
  readonly refresh: () => Promise<unknown>;
}

/** Somebody who has copied the cookies or the tokens of a client, and uses them in a program of their own. */
export class Thief {
  readonly #parts: ThiefParts;
  readonly #stop = new AbortController();
  #loot: Loot | undefined;

  constructor(parts: ThiefParts) {
    this.#parts = parts;
  }

  /** @param cookieHeader the `Cookie` header of the victim */
  steal(cookieHeader: string): void {
    const cookies = new Jar(Date.now, cookieHeader);
    const transport = this.#parts.connect({ interceptors: [this.#withCookies(cookies)] });
    const refresh = () => createClient(SessionService, transport).refresh({});
    this.#loot = { transport, refresh };
    this.#tell(Mood.UNSPECIFIED, "I copied both cookies from the victim's computer.");
  }

  /** @param tokens all tokens of the victim, whose session is bound to a key */
  stealTokens(tokens: ClientTokens): void {
    const { connect } = this.#parts;
    const transport = connect({ interceptors: [withToken(tokens.accessToken)] });
    // The thief has a key as well, but not the one of the victim.
    const session = createBoundClient(connect, memoryTokens(tokens));
    this.#loot = { transport, refresh: () => session.refresh() };
    this.#tell(Mood.UNSPECIFIED, "I copied all tokens from the phone. I could not copy its key.");
  }

  /** Makes an ordinary call as the victim. */
  async call(): Promise<void> {
    await this.#act("call the service", async ({ transport }) => {
      const { greeting } = await createClient(PlaygroundService, transport).greet({});
      return `I called the service with the stolen access token. It says: “${greeting}”`;
    });
  }

  /** Exchanges the stolen refresh token for new tokens. */
  async refresh(): Promise<void> {
    await this.#act("refresh the session", async ({ refresh }) => {
      await refresh();
      return "I refreshed the session with the stolen token. Now both of us have its successor; the next refresh will show that there are two of us.";
    });
  }

  /** Opens a stream as the victim, and stays there for as long as it lasts. */
  async watch(): Promise<void> {
    await this.#act("open a stream", async ({ transport }) => {
      const { signal } = this.#stop;
      const { stay } = createClient(PlaygroundService, transport);
      const stream = stay({}, { signal })[Symbol.asyncIterator]();
      await stream.next();
      void this.#remain(stream);
      return "I opened a stream with the stolen access token, and it stays open.";
    });
  }

  close(): void {
    this.#stop.abort();
  }

  async #remain(stream: AsyncIterator<unknown>): Promise<void> {
    try {
      while ((await stream.next()).done !== true) {
        // The thief reads what the victim could read.
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) {
        const { code, rawMessage } = ConnectError.from(error);
        this.#tell(Mood.REFUSED, `My stream was ended: ${Code[code]}: ${rawMessage}.`);
      }
    }
  }

  async #act(what: string, act: (loot: Loot) => Promise<string>): Promise<void> {
    if (this.#loot === undefined) {
      this.#tell(Mood.UNSPECIFIED, "I have not stolen any cookies yet.");
      return;
    }
    try {
      this.#tell(Mood.GOOD, await act(this.#loot));
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

/** Sends an access token as the client of a bound session does on ordinary calls. */
function withToken(accessToken: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Session ${accessToken}`);
    return next(request);
  };
}

/** Creates a client with a key of its own, to which the sessions that it creates are bound. */
function createBoundClient(connect: Connect, tokens: TokenStore): SessionClient {
  let kept: CryptoKeyPair | undefined;
  // In memory: the phone and the thief are not the browser that they may run in.
  const key = dpopKey({
    keys: {
      load: () => kept,
      save(pair) {
        kept ??= pair;
      },
    },
  });
  return createSessionClient({
    transport: key.transport(({ interceptors }) => connect({ interceptors })),
    tokens,
    refreshTimeout: "3s",
  });
}

/** The second device of a user: a program with rpc-session's own client, and a key that stays in it. */
export class Phone {
  readonly #timeline: Timeline;
  readonly #tokens = memoryTokens();
  readonly #session: SessionClient;
  readonly #playground: Client<typeof PlaygroundService>;
  readonly #stop = new AbortController();

  constructor(connect: Connect, timeline: Timeline) {
    this.#timeline = timeline;
    this.#session = createBoundClient(connect, this.#tokens);
    this.#playground = createClient(PlaygroundService, this.#session.transport);
  }

  get isSignedIn(): boolean {
    return this.#session.state.status === "signedIn";
  }

  /** Signs in, and keeps a stream open for as long as the session lives. */
  async signIn(person: Person): Promise<void> {
    await this.#playground.signIn({ person });
    this.#tell(
      Mood.GOOD,
      "I am signed in, my session is bound to my key, and I keep a stream open.",
    );
    void this.#watch();
  }

  /** What somebody finds who copies everything from the phone that can be copied. */
  async copyTokens(): Promise<ClientTokens | undefined> {
    return await this.#tokens.load();
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
