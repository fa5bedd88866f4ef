import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import { setInterval } from "node:timers";
import { setInterval as every } from "node:timers/promises";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  createContextKey,
  createContextValues,
} from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions, type Sessions } from "rpc-session";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { createFakeClock, type FakeClock } from "rpc-session/testing";
import { Actor, Mood, Person, PlaygroundService } from "../gen/playground/v1/playground_pb.ts";
import { Phone, Thief } from "./actors.ts";
import type { PageFiles } from "./build.ts";
import { Timeline } from "./timeline.ts";

export interface PlaygroundOptions {
  /** 0 for a free port. */
  readonly port: number;
  /** The SQLite file. */
  readonly database: string;
  readonly page: PageFiles;
}

export interface Playground {
  readonly url: string;
  close(): Promise<void>;
}

/** Serves the page and its service. */
export async function startPlayground({
  port,
  database,
  page,
}: PlaygroundOptions): Promise<Playground> {
  // 1. The address is the issuer, so the server listens first.
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(port, "localhost", resolve);
  });
  const url = `http://localhost:${(server.address() as AddressInfo).port}`;

  // 2. A clock that runs like any other, and that a button can move forward.
  const running = runningClock();
  const { clock } = running;
  const timeline = new Timeline(() => clock.now());

  // 3. The sessions. Everything lives much shorter than by default, so that you can watch it.
  const sessions = createSessions({
    issuer: url,
    store: sqliteStore(database),
    clock,
    lifetimes: { access: "30s", idle: "1h" },
    refresh: { overlap: "5s", settle: "0s", clientTimeout: "3s" },
    cookies: { insecure: true }, // plain http; Safari keeps no Secure cookies there
    onEvent: (event) => timeline.addEvent(event),
  });
  await sessions.ready();

  // 4. The service, behind a log of the requests that browsers make.
  const stage: Stage = { url, clock, timeline, sessions, loseNext: false, phones: new Map() };
  const handle = connectNodeAdapter({
    ...sessions.protect({ routes: routes(stage), readMaxBytes: 2 ** 20 }),
    contextValues: (request) =>
      createContextValues().set(cookieHeader, request.headers.cookie ?? ""),
  });
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    const file = page.get(request.url === "/" ? "/index.html" : (request.url ?? ""));
    if (file !== undefined && request.method === "GET") {
      response.setHeader("content-type", file.type).end(file.body);
      return;
    }
    observe(stage, request, response);
    handle(request as Parameters<RequestListener>[0], response);
  });

  return {
    url,
    async close() {
      running.stop();
      for (const phone of stage.phones.values()) {
        phone.close();
      }
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
      await sessions.close();
    },
  };
}

/** Everything that the buttons of the page act on. */
interface Stage {
  readonly url: string;
  readonly clock: FakeClock;
  readonly timeline: Timeline;
  readonly sessions: Sessions;
  /** The phone of each user. */
  readonly phones: Map<string, Phone>;
  /** Whether the response to the next refresh gets lost. */
  loseNext: boolean;
}

const people: Readonly<Record<Person, string>> = {
  [Person.UNSPECIFIED]: "",
  [Person.ADA]: "Ada",
  [Person.GRACE]: "Grace",
  [Person.EDSGER]: "Edsger",
};

/** The `Cookie` header of a call. Handlers do not see the session cookies, but a thief would. */
const cookieHeader = createContextKey("");

function routes(stage: Stage): (router: ConnectRouter) => void {
  const { sessions, timeline, clock } = stage;
  const thief = new Thief(stage.url, timeline);
  return (router) => {
    router.service(PlaygroundService, {
      async signIn({ person }, context) {
        const name = people[person];
        if (!name) {
          throw new ConnectError("person must be one of three", Code.InvalidArgument);
        }
        await sessions.create(context, { userId: name, data: { person } });
        return {};
      },
      greet(_request, context) {
        return { greeting: `Hello, ${sessions.require(context).userId}!` };
      },
      async *watchClock(_request, { signal }) {
        for await (const _ of every(1000, undefined, { signal })) {
          yield { time: BigInt(clock.now()) };
        }
      },
      watchTimeline: ({ after }, { signal }) => timeline.after(after, signal),

      expireTokens() {
        timeline.add(
          Actor.SERVER,
          Mood.UNSPECIFIED,
          "The clock jumps: every access token expires.",
        );
        clock.advance("31s");
        return {};
      },
      loseResponse() {
        stage.loseNext = true;
        timeline.add(
          Actor.SERVER,
          Mood.UNSPECIFIED,
          "The response to the next refresh will get lost.",
        );
        return {};
      },
      stealCookies(_request, context) {
        thief.steal(context.values.get(cookieHeader));
        return {};
      },
      async sendThief({ refresh }) {
        await (refresh ? thief.refresh() : thief.call());
        return {};
      },
      async addPhone(_request, context) {
        const session = sessions.require(context);
        const { person } = await session.data();
        if (stage.phones.get(session.userId)?.isSignedIn !== true) {
          const phone = new Phone(stage.url, timeline);
          await phone.signIn(person as Person);
          stage.phones.set(session.userId, phone);
        }
        return {};
      },
      async revokeFromPhone(_request, context) {
        const phone = stage.phones.get(sessions.require(context).userId);
        if (phone?.isSignedIn !== true) {
          throw new ConnectError("add a phone first", Code.FailedPrecondition);
        }
        await phone.revokeOthers();
        return {};
      },
    });
  };
}

/** Calls of the page itself; they would only fill the timeline. */
const quiet = new Set([
  ...["GetSession", "ListSessions", "WatchTimeline", "ExpireTokens", "LoseResponse"],
  ...["StealCookies", "SendThief", "AddPhone", "RevokeFromPhone"],
]);

/** Writes the requests of browsers to the timeline, and loses the response that is to be lost. */
function observe(stage: Stage, request: IncomingMessage, response: ServerResponse): void {
  const { timeline } = stage;
  const method = request.url?.split("?")[0]?.split("/").at(-1) ?? "";
  if (method === SessionService.method.refresh.name && stage.loseNext) {
    stage.loseNext = false;
    // The refresh has been carried out by the time its response begins.
    response.writeHead = () => {
      if (response.socket?.destroyed !== false) {
        return response;
      }
      timeline.add(Actor.SERVER, Mood.REFUSED, "The response to the refresh got lost on its way.");
      response.socket.destroy();
      return response;
    };
    return;
  }
  if (request.headers["sec-fetch-site"] === undefined || quiet.has(method)) {
    return;
  }
  response.once("finish", () => {
    const { statusCode } = response;
    const mood = statusCode < 400 ? Mood.GOOD : Mood.REFUSED;
    timeline.add(Actor.BROWSER, mood, `${method} → ${statusCode}`);
  });
}

/** A clock that follows the real one, and that can be moved forward. */
function runningClock(): { readonly clock: FakeClock; stop(): void } {
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
