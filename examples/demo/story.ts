// The steps of the demo, in the order a developer meets them.
import { Code, type ConnectError } from "@connectrpc/connect";
import {
  Action,
  Reason,
  type RefreshHint,
  RefreshHintSchema,
  Tokens,
} from "rpc-session/gen/rpcsession/v1/hint_pb.js";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { createClients, type DemoClient, plainClient } from "./clients.ts";
import { jarOf, post } from "./raw.ts";
import {
  claimsOf,
  describeCookie,
  describeRefreshToken,
  describeRefusal,
  type Report,
  refusalOf,
  shorten,
} from "./report.ts";
import type { DemoServer } from "./server.ts";

const password = "correct horse";

export interface Story {
  readonly server: DemoServer;
  readonly report: Report;
  /** Milliseconds an access token lives. */
  readonly accessLife: number;
  /** Milliseconds the former refresh token is good after its successor was confirmed. */
  readonly overlap: number;
}

export async function tell(story: Story): Promise<void> {
  const { server } = story;
  const clients = createClients(server);
  await signInSteps(story, clients);
  const vera = await theftBegins(story);
  await expiryStep(story, vera);
  await refreshSteps(story, clients);
  await theftEnds(story, vera.stolen);
  await browserSteps(story);
  await signOutStep(story, clients[0]);
}

async function signInSteps({ server, report }: Story, clients: readonly DemoClient[]) {
  await report.step("A call without a session", async () => {
    report.sent("NotesService/ListNotes over Connect, no token");
    const refusal = await refusalOf(plainClient(server).listNotes({}));
    report.got(describeRefusal(refusal));
    report.check("the code is Unauthenticated", refusal.code === Code.Unauthenticated);
    report.check("no handler ran", server.handled() === 0);
  });
  for (const { protocol, user, notes, session } of clients) {
    await report.step(`Sign in and call, over ${protocol}`, async () => {
      report.sent(`NotesService/SignIn as ${user}`);
      await notes.signIn(
        { user, password },
        {
          onHeader: (headers) => {
            const access = headers.get("rpcsession-access-token") ?? "";
            report.got(`access token ${shorten(access)} ${JSON.stringify(claimsOf(access).sub)}`);
            report.got(
              `refresh token ${describeRefreshToken(headers.get("rpcsession-refresh-token") ?? "")}`,
            );
          },
        },
      );
      await notes.addNote({ note: { text: `written over ${protocol}` } });
      const list = await notes.listNotes({});
      report.got(`ListNotes: ${list.notes.map((note) => note.text).join(", ")}`);
      report.check("the client is signed in", session.state.status === "signedIn");
      report.check("the note is there", list.notes.length === 1);
    });
  }
}

interface Victim {
  readonly accessToken: string;
  readonly stolen: string;
}

/** A victim signs in, and a thief copies the refresh token. */
async function theftBegins({ server, report }: Story): Promise<Victim> {
  let stolen = "";
  let accessToken = "";
  await report.step("A thief copies a refresh token", async () => {
    const answer = await post(
      `${server.http1}/notes.v1.NotesService/SignIn`,
      { user: "vera", password },
      { "rpcsession-transport": "header" },
    );
    stolen = answer.headers.get("rpcsession-refresh-token") ?? "";
    accessToken = answer.headers.get("rpcsession-access-token") ?? "";
    report.got(`vera's refresh token ${describeRefreshToken(stolen)}`);
    report.check("vera is signed in", stolen !== "");
    // Its first use confirms that it arrived.
    await refresh(server, stolen);
  });
  return { accessToken, stolen };
}

async function expiryStep({ server, report, accessLife }: Story, { accessToken }: Victim) {
  await report.step("The access tokens expire", async () => {
    report.sent(`nothing, for ${accessLife} ms; then ListNotes with vera's access token`);
    await pause(accessLife);
    const authorization = `Bearer ${accessToken}`;
    const answer = await post(
      `${server.http1}/notes.v1.NotesService/ListNotes`,
      {},
      { authorization },
    );
    report.got(answer.error ? describeRefusal(answer.error) : "went through");
    report.check("the hint asks for a refresh", hintOf(answer.error)?.action === Action.REFRESH);
    report.check("and to keep the tokens", hintOf(answer.error)?.tokens === Tokens.KEEP);
  });
}

async function refreshSteps(
  { server, report, accessLife }: Story,
  [connect, grpc, web]: readonly [DemoClient, DemoClient, DemoClient],
) {
  for (const { protocol, notes } of [connect, grpc, web]) {
    await report.step(`Refreshed and retried unnoticed, over ${protocol}`, async () => {
      const since = tally(server);
      report.sent("ListNotes, with a token that has expired");
      const list = await notes.listNotes({});
      report.got(`${list.notes.length} note. Behind it: ${since().text}`);
      report.check("one refresh", since().refreshes === 1);
      report.check("the handler ran once", since().handled === 1);
    });
  }
  await report.step("50 parallel calls on an expired token", async () => {
    await pause(accessLife);
    const since = tally(server);
    report.sent("50 times ListNotes over Connect, at once");
    const lists = await Promise.all(Array.from({ length: 50 }, () => connect.notes.listNotes({})));
    report.got(`${lists.length} answers. Behind them: ${since().text}`);
    report.check("one refresh for all", since().refreshes === 1);
    report.check("at most two sends a call", since().lists <= 100);
    report.check("every handler ran once", since().handled === 50);
  });
  await report.step("A stream, opened with an expired token", async () => {
    const since = tally(server);
    report.sent("WatchNotes over gRPC");
    const texts: string[] = [];
    for await (const { note } of grpc.notes.watchNotes({})) {
      texts.push(note?.text ?? "");
    }
    report.got(`${texts.length} message: ${texts.join(", ")}`);
    report.check("refreshed before its first message", since().refreshes === 1);
    report.check("the message came once", texts.length === 1);
  });
}

/** Vera goes on with her session; then the thief uses what was copied. */
async function theftEnds({ server, report, overlap }: Story, stolen: string) {
  await report.step("The stolen refresh token is used", async () => {
    const next = (await refresh(server, stolen)).headers.get("rpcsession-refresh-token") ?? "";
    report.sent(`vera refreshes, and uses her next token, ${describeRefreshToken(next)}`);
    await refresh(server, next);
    await pause(overlap + 100);
    report.sent(`the thief refreshes with the old one, ${describeRefreshToken(stolen)}`);
    const theft = await refresh(server, stolen);
    report.got(theft.error ? describeRefusal(theft.error) : "a token");
    report.check("it is recognised as theft", hintOf(theft.error)?.reason === Reason.TOKEN_THEFT);
    report.check(
      "one event tells the service",
      server.events.filter((event) => event.type === "theft").length === 1,
    );
    const vera = await refresh(server, next);
    report.got(`vera: ${vera.error ? describeRefusal(vera.error) : "a token"}`);
    report.check("nobody holds the session any more", vera.error !== undefined);
  });
}

async function browserSteps({ server, report }: Story) {
  const url = (method: string): string => `${server.http1}/notes.v1.NotesService/${method}`;
  const page = { origin: server.http1, "sec-fetch-site": "same-origin" };
  let cookie = "";
  await report.step("A browser signs in: its tokens are in cookies", async () => {
    report.sent("SignIn with Sec-Fetch-Site: same-origin");
    const answer = await post(url("SignIn"), { user: "lynn", password }, page);
    for (const setCookie of answer.setCookie) {
      report.got(`Set-Cookie: ${describeCookie(setCookie)}`);
    }
    cookie = jarOf(answer.setCookie);
    report.check("two cookies", answer.setCookie.length === 2);
    report.check("no token in any other header", !answer.headers.has("rpcsession-access-token"));
    const call = await post(url("AddNote"), { note: { text: "from a page" } }, { cookie, ...page });
    report.check("a call with them goes through", call.status === 200);
  });
  await report.step("A page of another site tries the same", async () => {
    const handled = server.handled();
    report.sent("AddNote with the cookies, Sec-Fetch-Site: cross-site");
    const other = { origin: "https://evil.example", "sec-fetch-site": "cross-site" };
    const answer = await post(url("AddNote"), { note: { text: "gotcha" } }, { cookie, ...other });
    report.got(answer.error ? describeRefusal(answer.error) : "went through");
    report.check("PermissionDenied", answer.error?.code === Code.PermissionDenied);
    report.check("the cookies are left alone", answer.setCookie.length === 0);
    report.check("no handler ran", server.handled() === handled);
  });
}

async function signOutStep({ report }: Story, { session, notes }: DemoClient) {
  await report.step("Sign out", async () => {
    report.sent("session.signOut()");
    await session.signOut();
    report.check("the client is signed out", session.state.status === "signedOut");
    const refusal = await refusalOf(notes.listNotes({}));
    report.got(describeRefusal(refusal));
    report.check("the next call needs a new session", refusal.code === Code.Unauthenticated);
  });
}

/** Refreshes by hand, outside of any client. */
function refresh(server: DemoServer, refreshToken: string) {
  const url = `${server.http1}/${SessionService.typeName}/Refresh`;
  return post(url, { refreshToken }, {});
}

/** Counts what reaches the server from now on. */
function tally(server: DemoServer) {
  const read = () =>
    [server.asked("ListNotes"), server.asked("Refresh"), server.handled()] as const;
  const before = read();
  return () => {
    const [lists, refreshes, handled] = read().map((count, i) => count - (before[i] ?? 0)) as [
      number,
      number,
      number,
    ];
    const text = `${lists} ListNotes and ${refreshes} Refresh sent, ${handled} handler runs`;
    return { lists, refreshes, handled, text };
  };
}

function hintOf(error: ConnectError | undefined): RefreshHint | undefined {
  return error?.findDetails(RefreshHintSchema)[0];
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
