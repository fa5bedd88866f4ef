// npm run walks: how many files of src/ a request visits, and how often control passes from one to
// another, returns included. `-- --show a` prints the stops of one walk, `-- --calls a` its calls.
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { parseArgs } from "node:util";
import { type ConnectRouter, createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { createSessions, type Sessions } from "rpc-session";
import { createSessionClient } from "rpc-session/client";
import { postgresStore } from "rpc-session/stores/postgres";
import { testSessions } from "rpc-session/testing";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { systemClock } from "../../src/base/clock.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { trace } from "./trace.ts";

const { values } = parseArgs({ options: { show: { type: "string" }, calls: { type: "string" } } });
/** Time for background work to end, in milliseconds. */
const rest = 50;

/** Records one walk. `within` keeps only files that it accepts: the other side of a connection. */
async function walk(
  title: string,
  work: () => unknown,
  within: (file: string) => boolean = () => true,
): Promise<void> {
  await pause(rest);
  Object.assign(trace, { recording: true, files: [], calls: [] });
  await work();
  await pause(rest);
  trace.recording = false;
  // Without the files of the other side, two stops in one file are one.
  const stops = trace.files.filter(within).filter((file, i, all) => file !== all[i - 1]);
  console.log(`${title}: ${new Set(stops).size} files, ${stops.length - 1} changes of file`);
  const letter = title.split(" ")[0];
  if (values.show === letter) {
    console.log(stops.join(" → "));
  }
  if (values.calls === letter) {
    console.log(trace.calls.join("\n"));
  }
}

const sessions = testSessions({ public: [NotesService.method.signIn] });
let signingIn = (work: () => Promise<unknown>): Promise<unknown> => work();
const base = await serve(
  connectNodeAdapter(sessions.protect({ routes: (router) => notes(router, sessions) })),
);
const page = browser(base);
const list = "/notes.v1.NotesService/ListNotes";
const refresh = "/rpcsession.v1.SessionService/Refresh";

await sessions.ready();
signingIn = (work) => walk("d sign in", work);
await page.post("/notes.v1.NotesService/SignIn", { user: "ada" });
signingIn = (work) => work();
await walk("a2 a valid call by cookie, the first with its token", () => page.post(list));
await walk("a a valid call by cookie", () => page.post(list));
sessions.clock.advance("16m");
await page.post(list);
await walk("b a call with an expired token", () => page.post(list));
for (const time of ["1s", "2m", "16m"] as const) {
  sessions.clock.advance(time);
  await page.post(refresh);
  await page.post(list);
}
sessions.clock.advance("16m");
await walk("c refresh by cookie", () => page.post(refresh));

const session = createSessionClient({
  transport: (parts) => createConnectTransport({ baseUrl: base, httpVersion: "1.1", ...parts }),
});
const client = createClient(NotesService, session.transport);
await client.signIn({ user: "ada" });
await client.listNotes({});
sessions.clock.advance("16m");
await walk(
  "f the client meets REFRESH",
  () => client.listNotes({}),
  (file) => file.startsWith("client/"),
);
await (postgresMissing === undefined ? withPostgres() : console.log(postgresMissing));
process.exit();

async function withPostgres(): Promise<void> {
  const postgres = await startPostgres();
  const url = postgres.url("public");
  const empty = postgresStore(url);
  await empty.open({ clock: systemClock });
  await empty.close();
  const store = postgresStore(url);
  await walk("g open a PostgreSQL store", () => store.open({ clock: systemClock }));
  await store.close();
  const options = { issuer: base, secret: "x".repeat(40), public: [NotesService.method.signIn] };
  const here = createSessions({ ...options, store: postgresStore(url) });
  const there = createSessions({ ...options, store: postgresStore(url) });
  await walk("g2 open an engine on it", () => here.ready());
  await there.ready();
  const issued = await here.issue({ userId: "ada" });
  const elsewhere = await serve(
    connectNodeAdapter(there.protect({ routes: (router) => notes(router, there) })),
  );
  const transport = createConnectTransport({ baseUrl: elsewhere, httpVersion: "1.1" });
  const stream = createClient(NotesService, transport)
    .watchNotes({}, { headers: { authorization: `Bearer ${issued.tokens.accessToken}` } })
    [Symbol.asyncIterator]();
  await stream.next();
  await walk("e revoke on one server ends a stream on another", async () => {
    const ended = stream.next().catch(() => {});
    await issued.session.revoke();
    await ended;
  });
  await postgres.stop();
}

function notes(router: ConnectRouter, of: Sessions): void {
  router.service(NotesService, {
    async signIn({ user }, ctx) {
      await signingIn(() => of.create(ctx, { userId: user }));
      return {};
    },
    listNotes(_request, ctx) {
      of.require(ctx);
      return {};
    },
    async *watchNotes(_request, ctx) {
      yield {};
      await new Promise((resolve) => {
        ctx.signal.addEventListener("abort", resolve);
      });
    },
  });
}

/** Serves on a free port of this machine. */
async function serve(listener: RequestListener): Promise<string> {
  const server: Server = createServer(listener);
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** A page of the service's own origin, with its cookies. */
function browser(url: string) {
  const jar = new Map<string, string>();
  return {
    async post(path: string, body: object = {}): Promise<void> {
      const response = await fetch(url + path, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "sec-fetch-site": "same-origin",
          cookie: [...jar].map(([name, value]) => `${name}=${value}`).join("; "),
        },
        body: JSON.stringify(body),
      });
      for (const cookie of response.headers.getSetCookie()) {
        const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
        jar.set(name, value);
      }
      await response.text();
    },
  };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
