// Users of the real client, over connections that lose responses.
import {
  Code,
  ConnectError,
  createClient,
  type Interceptor,
  type Transport,
} from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import {
  createSessionClient,
  memoryTokens,
  type TokenStore,
  type TransportParts,
} from "rpc-session/client";
import { type DpopKey, dpopKey } from "rpc-session/client/dpop";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { systemClock } from "../../src/base/clock.ts";
import { decodeNotice, header } from "../../src/base/wire.ts";
import { robBound } from "./bound.ts";
import { namesOf } from "./hint.ts";
import { type Answer, type Exchange, secretOf, sessionOf } from "./history.ts";
import { issuer, times } from "./options.ts";
import type { Random } from "./random.ts";
import { sleep } from "./windows.ts";
import { isOver, someServer, type World } from "./world.ts";

/** The recorder's state for one client. */
interface App {
  /** The last refresh token that the client received. */
  held: string;
}

/** A user of the real client who signs in again and again, until the run is over. */
export function runApp(world: World, user: string, random: Random): Promise<void> {
  return runClient(world, { user, random, tokens: memoryTokens(), key: undefined });
}

/** The same with sessions that are bound to a key, by a clock that is wrong. Thieves copy the tokens. */
export async function runBoundApp(world: World, user: string, random: Random): Promise<void> {
  const tokens = memoryTokens();
  const ahead = random.between(-86_400_000, 86_400_000);
  const clock = { ...systemClock, now: () => systemClock.now() + ahead };
  const key = dpopKey({ url: issuer, clock });
  await Promise.all([
    runClient(world, { user, random, tokens, key }),
    robBound(world, async () => await tokens.load(), random.fork("thief")),
  ]);
}

interface AppParts {
  readonly user: string;
  readonly random: Random;
  readonly tokens: TokenStore;
  /** The key of a bound session. */
  readonly key: DpopKey | undefined;
}

async function runClient(world: World, { user, random, tokens, key }: AppParts): Promise<void> {
  const app: App = { held: "" };
  const create = (parts: TransportParts): Transport => balanced(world, { parts, app, random });
  const session = createSessionClient({
    refreshTimeout: `${times.clientTimeout}ms`,
    tokens,
    transport: key?.transport(create) ?? create,
  });
  const notes = createClient(NotesService, session.transport);
  // Continue after an outage; the recorder has the details.
  const attempt = (call: Promise<unknown>): Promise<unknown> => call.catch(() => {});
  while (!isOver(world)) {
    if (session.state.status !== "signedIn") {
      await attempt(notes.signIn({ user }, { timeoutMs: 2_000 }));
    }
    const calls = Array.from({ length: random.pick([1, 1, 3]) }, () => {
      return attempt(notes.listNotes({}, { timeoutMs: 2_000 }));
    });
    await Promise.all(calls);
    if (key !== undefined && session.state.status === "signedIn") {
      await attempt(notes.addNote({ note: { text: user } }, { timeoutMs: 2_000 }));
    }
    if (random.chance(0.2)) {
      await attempt(session.refresh());
    }
    if (random.chance(0.02) || secretOf(app.held) === world.retired) {
      await attempt(session.signOut({ timeoutMs: 2_000 }));
    }
    await sleep(random.between(100, 600));
  }
  session.close();
}

interface Balancing {
  readonly parts: TransportParts;
  readonly app: App;
  readonly random: Random;
}

/** Returns a transport that sends each call to a random server. */
function balanced(world: World, { parts, app, random }: Balancing): Transport {
  const transports = Array.from({ length: world.servers.count }, (_, server) =>
    createConnectTransport({
      baseUrl: world.servers.url(server),
      httpVersion: "1.1",
      nodeOptions: { agent: false },
      // The recorder comes last, so that it sees every attempt of a call.
      interceptors: [...parts.interceptors, recorder(world, { app, random, server })],
    }),
  );
  const any = (): Transport => {
    const server = someServer(world, random);
    return random.pick(transports.filter((_, index) => index === server));
  };
  return {
    unary: ((...call) => any().unary(...call)) as Transport["unary"],
    stream: ((...call) => any().stream(...call)) as Transport["stream"],
  };
}

interface Recording {
  readonly app: App;
  readonly random: Random;
  readonly server: number;
}

/** Records requests and responses, and loses some of the responses. */
function recorder(world: World, { app, random, server }: Recording): Interceptor {
  const { history } = world;
  return (next) => async (request) => {
    const what = kindOf(request.method);
    const message = request.message as { refreshToken?: string };
    const token = message.refreshToken || app.held;
    const began = history.now();
    const record = (answer: Answer, heard: boolean): void => {
      const written = answer.kind === "ok" ? answer.refreshToken : undefined;
      const session = sessionOf(what === "signIn" ? (written ?? "") : token);
      const ended = history.now();
      history.add({
        what,
        by: "owner",
        session,
        server,
        token: what === "signIn" ? (written ?? "") : token,
        began,
        ended,
        answer,
        heard,
      });
      if (heard && written !== undefined) {
        app.held = written;
      }
    };
    try {
      const response = await next(request);
      const lost = what === "refresh" && random.chance(0.12);
      record(successOf(response.header), !lost);
      if (lost) {
        throw new LostAnswer("the connection was cut", Code.Unavailable);
      }
      return response;
    } catch (error) {
      if (!(error instanceof LostAnswer)) {
        record(failureOf(error, request.signal), true);
      }
      throw error;
    }
  };
}

class LostAnswer extends ConnectError {}

function kindOf(method: {
  readonly name: string;
  readonly parent: { readonly typeName: string };
}): Exchange["what"] {
  const ours = method.parent.typeName === SessionService.typeName;
  if (method.name === "SignIn") {
    return "signIn";
  }
  return method.name === "Refresh" ? "refresh" : ours ? "signOut" : "use";
}

function successOf(headers: Headers): Answer {
  const notice = decodeNotice(headers.get(header.session));
  return {
    kind: "ok",
    session: notice?.session,
    expiresIn: notice?.expiresIn ?? 0,
    refreshToken: headers.get(header.refreshToken) ?? undefined,
    accessToken: headers.get(header.accessToken) ?? undefined,
  };
}

function failureOf(error: unknown, signal: AbortSignal): Answer {
  const failed = ConnectError.from(error);
  const [hint] = failed.findDetails(RefreshHintSchema);
  if (hint === undefined) {
    const late = signal.aborted || failed.code === Code.DeadlineExceeded;
    const why = late || failed.code === Code.Canceled ? "gaveUp" : "broken";
    return { kind: "unheard", why, message: failed.message };
  }
  // A nonce asks for another proof. The session goes on.
  const asksForProof = hint.proofNonce === "" ? {} : { action: "PROVE" };
  return {
    kind: "refused",
    code: (Code[failed.code] ?? "").toLowerCase(),
    ...namesOf(hint),
    ...asksForProof,
    message: failed.rawMessage,
  };
}
