// The steps of the demo, in the order in which a developer encounters them.
import { Code, type ConnectError } from "@connectrpc/connect";
import {
  Action,
  Reason,
  type RefreshHint,
  RefreshHintSchema,
  Tokens,
} from "rpc-session/gen/rpcsession/v1/hint_pb.js";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import {
  createBoundClient,
  createClients,
  createThief,
  type DemoClient,
  plainClient,
} from "./clients.ts";
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
  /** The lifetime of an access token in milliseconds. */
  readonly accessLife: number;
  /** How long the previous refresh token stays valid after its successor was confirmed, in milliseconds. */
  readonly overlap: number;
}

export async function runStory(story: Story): Promise<void> {
  const { server } = story;
  const clients = createClients(server);
  await signInSteps(story, clients);
  const vera = await theftBegins(story);
  await expiryStep(story, vera);
  await refreshSteps(story, clients);
  await theftEnds(story, vera.stolen);
  await boundSteps(story);
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
      report.check("the note is listed", list.notes.length === 1);
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
    // The first use of the token confirms that it arrived.
    await refresh(server, stolen);
  });
  return { accessToken, stolen };
}

async function expiryStep({ server, report, accessLife }: Story, { accessToken }: Victim) {
  await report.step("The access tokens expire", async () => {
    report.sent(`ListNotes with vera's access token, after waiting ${accessLife} ms`);
    await pause(accessLife);
    const authorization = `Bearer ${accessToken}`;
    const answer = await post(
      `${server.http1}/notes.v1.NotesService/ListNotes`,
      {},
      { authorization },
    );
    report.got(answer.error ? describeRefusal(answer.error) : "accepted");
    report.check("the hint asks for a refresh", hintOf(answer.error)?.action === Action.REFRESH);
    report.check("the hint says to keep the tokens", hintOf(answer.error)?.tokens === Tokens.KEEP);
  });
}

async function refreshSteps(
  { server, report, accessLife }: Story,
  [connect, grpc, web]: readonly [DemoClient, DemoClient, DemoClient],
) {
  for (const { protocol, notes } of [connect, grpc, web]) {
    await report.step(`An automatic refresh and retry, over ${protocol}`, async () => {
      const since = tally(server);
      report.sent("ListNotes with an expired token");
      const list = await notes.listNotes({});
      report.got(`${list.notes.length} note, using ${since().text}`);
      report.check("there was one refresh", since().refreshes === 1);
      report.check("the handler ran once", since().handled === 1);
    });
  }
  await report.step("50 parallel calls with an expired token", async () => {
    await pause(accessLife);
    const since = tally(server);
    report.sent("50 ListNotes calls over Connect in parallel");
    const lists = await Promise.all(Array.from({ length: 50 }, () => connect.notes.listNotes({})));
    report.got(`${lists.length} responses, using ${since().text}`);
    report.check("there was one refresh for all calls", since().refreshes === 1);
    report.check("every call was sent at most twice", since().lists <= 100);
    report.check("the handler ran once per call", since().handled === 50);
  });
  await report.step("A stream opened with an expired token", async () => {
    const since = tally(server);
    report.sent("WatchNotes over gRPC");
    const texts: string[] = [];
    for await (const { note } of grpc.notes.watchNotes({})) {
      texts.push(note?.text ?? "");
    }
    report.got(`${texts.length} message: ${texts.join(", ")}`);
    report.check("the client refreshed before the first message", since().refreshes === 1);
    report.check("the message arrived once", texts.length === 1);
  });
}

/** Vera continues her session, then the thief uses the copied refresh token. */
async function theftEnds({ server, report, overlap }: Story, stolen: string) {
  await report.step("The stolen refresh token is used", async () => {
    const next = (await refresh(server, stolen)).headers.get("rpcsession-refresh-token") ?? "";
    report.sent(`vera refreshes and uses her next token, ${describeRefreshToken(next)}`);
    await refresh(server, next);
    await pause(overlap + 100);
    report.sent(`the thief refreshes with the old one, ${describeRefreshToken(stolen)}`);
    const theft = await refresh(server, stolen);
    report.got(theft.error ? describeRefusal(theft.error) : "a token");
    report.check(
      "the server detects the reuse",
      hintOf(theft.error)?.reason === Reason.TOKEN_THEFT,
    );
    report.check(
      "the service receives one theft event",
      server.events.filter((event) => event.type === "theft").length === 1,
    );
    const vera = await refresh(server, next);
    report.got(`vera: ${vera.error ? describeRefusal(vera.error) : "a token"}`);
    report.check("the session is revoked for vera as well", vera.error !== undefined);
  });
}

/** A client binds its session to a key, then a thief copies all of its tokens. */
async function boundSteps({ server, report }: Story) {
  await report.step("A bound session is stolen", async () => {
    // 1. The owner signs in, and everything is copied but the key, which cannot be.
    const owner = createBoundClient(server);
    await owner.notes.signIn({ user: "barbara", password });
    const copied = await owner.tokens.load();
    if (copied === undefined) {
      throw new Error("expected barbara to hold tokens");
    }
    report.got(`barbara's refresh token ${describeRefreshToken(copied.refreshToken ?? "")}`);
    const thief = createThief(server, copied);

    // 2. A copied access token works until it expires, also for a stream.
    report.sent("SyncNotes by a second client, with the copied access token");
    const stream = thief.openStream()[Symbol.asyncIterator]();
    const first = await stream.next();
    report.got(`note ${first.value?.number} is stored, and the stream is open`);

    // 3. The copied refresh token does not work at all.
    report.sent("Refresh by the second client, with the copied tokens and a key of its own");
    const refusal = await refusalOf(thief.session.refresh());
    report.got(describeRefusal(refusal));
    report.check(
      "the session is bound to a key, so the refresh of its thief is refused",
      hintOf(refusal)?.reason === Reason.PROOF_INVALID,
    );
    const seen = server.events.filter((event) => event.type === "proofRefused");
    report.check("the service receives one event proofRefused", seen.length === 1);

    // 4. So the stream of the thief ends with the access token, and the owner goes on.
    const end = await refusalOf(stream.next());
    report.got(describeRefusal(end));
    report.check(
      "the stream of the thief ends when the copied access token expires",
      hintOf(end)?.reason === Reason.TOKEN_EXPIRED,
    );
    const { notes } = await owner.notes.listNotes({});
    report.check("barbara's client refreshes, and goes on", notes.length === 1);
  });
}

async function browserSteps({ server, report }: Story) {
  const url = (method: string): string => `${server.http1}/notes.v1.NotesService/${method}`;
  const page = { origin: server.http1, "sec-fetch-site": "same-origin" };
  let cookie = "";
  await report.step("A browser signs in and receives its tokens in cookies", async () => {
    report.sent("SignIn with Sec-Fetch-Site: same-origin");
    const answer = await post(url("SignIn"), { user: "lynn", password }, page);
    for (const setCookie of answer.setCookie) {
      report.got(`Set-Cookie: ${describeCookie(setCookie)}`);
    }
    cookie = jarOf(answer.setCookie);
    report.check("the response sets two cookies", answer.setCookie.length === 2);
    report.check(
      "no other header contains a token",
      !answer.headers.has("rpcsession-access-token"),
    );
    const call = await post(url("AddNote"), { note: { text: "from a page" } }, { cookie, ...page });
    report.check("a call with the cookies is accepted", call.status === 200);
  });
  await report.step("A page of another site tries to use the cookies", async () => {
    const handled = server.handled();
    report.sent("AddNote with the cookies, Sec-Fetch-Site: cross-site");
    const other = { origin: "https://evil.example", "sec-fetch-site": "cross-site" };
    const answer = await post(url("AddNote"), { note: { text: "gotcha" } }, { cookie, ...other });
    report.got(answer.error ? describeRefusal(answer.error) : "accepted");
    report.check("the code is PermissionDenied", answer.error?.code === Code.PermissionDenied);
    report.check("the cookies are not cleared", answer.setCookie.length === 0);
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

/** Calls Refresh directly, without a client. */
function refresh(server: DemoServer, refreshToken: string) {
  const url = `${server.http1}/${SessionService.typeName}/Refresh`;
  return post(url, { refreshToken }, {});
}

/** Counts the requests that reach the server from now on. */
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
    const text = `${lists} ListNotes and ${refreshes} Refresh requests, ${handled} handler runs`;
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
