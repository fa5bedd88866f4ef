import {
  type Client,
  createClient,
  createRouterTransport,
  type Interceptor,
} from "@connectrpc/connect";
import { onTestFinished } from "vitest";
import { NotesService } from "../../../examples/gen/notes/v1/notes_pb.ts";
import {
  cookieTokens,
  createSessionClient,
  memoryTokens,
  type SessionClient,
  type SessionClientEvent,
  type SessionClientOptions,
  type TokenTransport,
} from "../../../src/client/index.ts";
import { FakeClock } from "./clock.ts";
import { FakeServer } from "./fake-server.ts";

export const transports: readonly TokenTransport[] = ["header", "cookie"];

/** The cookies of one browser. */
export type Jar = Map<string, string>;

export interface Setup {
  readonly clock: FakeClock;
  readonly server: FakeServer;
  readonly jar: Jar;
  readonly session: SessionClient;
  readonly notes: Client<typeof NotesService>;
  readonly events: SessionClientEvent[];
  readonly eventTypes: () => string[];
}

export interface SetupOptions extends Partial<SessionClientOptions> {
  readonly server?: FakeServer;
  readonly clock?: FakeClock;
  readonly jar?: Jar;
  readonly interceptors?: Interceptor[];
}

/** Creates a client of a fake server in memory. */
export function setup(via: TokenTransport, options: SetupOptions = {}): Setup {
  const { interceptors = [], clock = new FakeClock(), ...others } = options;
  const { server = new FakeServer(clock), jar = new Map<string, string>(), ...rest } = others;
  const events: SessionClientEvent[] = [];
  const session = createSessionClient({
    tokens: via === "cookie" ? cookieTokens() : memoryTokens(),
    transport: (parts) =>
      createRouterTransport(server.routes, {
        router: { requestGate: server.gate },
        transport: { interceptors: [...parts.interceptors, ...interceptors, withJar(jar)] },
      }),
    onEvent: (event) => events.push(event),
    ...rest,
    clock,
  });
  // Otherwise the clients of other tests would receive its messages to tabs.
  onTestFinished(() => session.close());
  const notes = createClient(NotesService, session.transport);
  return {
    ...{ clock, server, jar, session, notes, events },
    eventTypes: () => events.map((event) => event.type),
  };
}

/** Like {@link setup}, and signs in. */
export async function signedIn(via: TokenTransport, options: SetupOptions = {}): Promise<Setup> {
  const made = setup(via, options);
  await made.notes.signIn({});
  return made;
}

/** Creates a promise that the test resolves. */
export function latch(): { readonly promise: Promise<void>; readonly open: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { promise, open: () => resolve() };
}

/** Lets everything run that does not wait for a clock or a latch. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Stores and sends cookies as a browser does. */
export function withJar(jar: Jar): Interceptor {
  const keep = (headers: Headers): void => {
    for (const cookie of headers.getSetCookie()) {
      const [name = "", value = ""] = cookie.split("=");
      if (value === "") {
        jar.delete(name);
      } else {
        jar.set(name, value);
      }
    }
  };
  return (next) => async (req) => {
    req.header.set("cookie", [...jar].map(([name, value]) => `${name}=${value}`).join("; "));
    try {
      const response = await next(req);
      keep(response.header);
      return response;
    } catch (error) {
      keep((error as { metadata?: Headers }).metadata ?? new Headers());
      throw error;
    }
  };
}
