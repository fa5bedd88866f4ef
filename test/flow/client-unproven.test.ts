// A client whose tokens prove nothing: the refresh decides whether it is still signed in.
import {
  Code,
  ConnectError,
  createClient,
  createRouterTransport,
  type Interceptor,
} from "@connectrpc/connect";
import {
  type ClientTokens,
  cookieTokens,
  createSessionClient,
  type TokenStore,
} from "rpc-session/client";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { notesApp } from "../helpers/notes.ts";
import { accessCookie, refreshCookie } from "../helpers/presented.ts";

/** Sends and keeps cookies as a page of the service does. */
function asPage(jar: Map<string, string>): Interceptor {
  const keep = ({ metadata }: { readonly metadata?: Headers }): void => {
    for (const cookie of metadata?.getSetCookie() ?? []) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
      if (value === "") {
        jar.delete(name);
      } else {
        jar.set(name, value);
      }
    }
  };
  return (next) => async (request) => {
    request.header.set("sec-fetch-site", "same-origin");
    request.header.set("cookie", [...jar].map(([name, value]) => `${name}=${value}`).join("; "));
    try {
      const response = await next(request);
      keep({ metadata: response.header });
      return response;
    } catch (error) {
      keep(ConnectError.from(error));
      throw error;
    }
  };
}

/** A service, and a client of it that is signed in. */
async function signedIn(tokens: TokenStore) {
  const clock = createFakeClock();
  const refreshed: string[] = [];
  const sessions = testSessions({
    clock,
    public: [NotesService.method.signIn],
    onEvent: ({ type }) => void (type === "refreshed" && refreshed.push(type)),
  });
  const { routes, ...router } = sessions.protect({ routes: notesApp(sessions).routes });
  const jar = new Map<string, string>();
  const browser = tokens.transport === "cookie" ? [asPage(jar)] : [];
  const open = () => {
    const session = createSessionClient({
      ...{ clock, tokens },
      transport: ({ interceptors }) =>
        createRouterTransport(routes, {
          router,
          transport: { interceptors: [...interceptors, ...browser] },
        }),
    });
    onTestFinished(() => session.close());
    return { session, notes: createClient(NotesService, session.transport) };
  };
  const first = open();
  await first.notes.signIn({ user: "alice" });
  return { ...first, jar, refreshed, open };
}

const cut = (token = ""): string => token.slice(0, -20);
const unauthenticated = { code: Code.Unauthenticated };

describe("feat:B3 gs:G5 a browser whose access cookie proves nothing", () => {
  it("feat:B3 refreshes and goes on, if its refresh cookie is good", async () => {
    const { jar, notes, session, refreshed } = await signedIn(cookieTokens());
    jar.set(accessCookie, cut(jar.get(accessCookie)));
    await notes.addNote({});
    expect([refreshed.length, session.state.status]).toEqual([1, "signedIn"]);
  });

  it("feat:B3 gs:R4 is signed out by its refresh, if there is nothing to refresh with", async () => {
    const { jar, notes, session } = await signedIn(cookieTokens());
    jar.set(accessCookie, cut(jar.get(accessCookie)));
    jar.delete(refreshCookie);
    await expect(notes.addNote({})).rejects.toMatchObject(unauthenticated);
    expect([session.state.status, [...jar.keys()]]).toEqual(["signedOut", []]);
    await notes.signIn({ user: "alice" });
    await notes.addNote({});
  });

  it("feat:B3 is signed out by its refresh, if the server clears cookies that contradict each other", async () => {
    const { jar, notes, session } = await signedIn(cookieTokens());
    const access = jar.get(accessCookie) ?? "";
    jar.set(accessCookie, Array<string>(4).fill(access).join(`; ${accessCookie}=`));
    jar.set(refreshCookie, Array<string>(4).fill("junk").join(`; ${refreshCookie}=`));
    await expect(notes.addNote({})).rejects.toMatchObject(unauthenticated);
    expect([session.state.status, [...jar.keys()]]).toEqual(["signedOut", []]);
  });
});

describe("feat:B3 gs:G5 a client whose access token proves nothing", () => {
  async function keeping(change: (tokens: ClientTokens) => ClientTokens) {
    let kept: ClientTokens | undefined;
    const store: TokenStore = {
      transport: "header",
      load: () => kept,
      save: (tokens) => {
        kept = tokens;
      },
    };
    const { open, refreshed } = await signedIn(store);
    kept = kept && change(kept);
    // As after a restart of the app.
    return { ...open(), refreshed, kept: () => kept };
  }

  it("feat:B3 refreshes and goes on, if its refresh token is good", async () => {
    const { notes, session, refreshed } = await keeping((tokens) => ({
      ...tokens,
      accessToken: "sk_live_51H8",
    }));
    await notes.addNote({});
    expect([refreshed.length, session.state.status]).toEqual([1, "signedIn"]);
  });

  it("feat:B3 gs:R6 is signed out by its refresh, if the refresh token proves nothing either", async () => {
    const { notes, session, kept } = await keeping((tokens) => ({
      ...tokens,
      accessToken: cut(tokens.accessToken),
      refreshToken: cut(tokens.refreshToken),
    }));
    await expect(notes.addNote({})).rejects.toMatchObject(unauthenticated);
    await session.refresh().catch(() => {});
    expect([session.state.status, kept()]).toEqual(["signedOut", undefined]);
  });
});
