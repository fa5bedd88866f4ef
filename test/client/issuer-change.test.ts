import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { Action, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { memoryTokens, type TokenStore } from "../../src/client/index.ts";
import type { FakeServer } from "./helpers/fake-server.ts";
import { realm } from "./helpers/fake-server.ts";
import { settle, setup, signedIn, transports } from "./helpers/setup.ts";

const renamed = "https://new.test";

/** Changes the issuer of the service. */
function rename(server: FakeServer, acceptsOlder: boolean): void {
  server.realm = renamed;
  server.olderRealms = acceptsOlder ? ["https://oldest.test", realm] : [];
}

describe.each(transports)("after the issuer of the service has changed, %s mode", (via) => {
  it("a sign-in makes the new issuer the realm of the client", async () => {
    const { server, notes, session, events } = await signedIn(via);
    rename(server, false);
    await notes.signIn({});
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s2", realm: renamed });
    expect(events.at(-1)).toEqual({ type: "signedIn", sessionId: "s2", realm: renamed });
    // The new realm counts from now on.
    server.expireAll();
    await notes.addNote({});
    expect(server.count("Refresh")).toBe(1);
  });

  it("stored tokens of before do not stand in the way of a sign-in", async () => {
    const kept: unknown[] = [];
    const { server, clock, jar } = await signedIn("header", {
      tokens: { ...memoryTokens(), save: (tokens) => void kept.push(tokens) },
    });
    await settle();
    rename(server, false);
    server.sessions.length = 0;
    server.expireAll();
    const tokens = via === "header" ? { tokens: memoryTokens(kept.at(-1) as never) } : {};
    const { notes, session } = setup(via, { server, clock, jar, ...tokens });
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    await notes.signIn({});
    expect(session.state).toMatchObject({ status: "signedIn", realm: renamed });
    await notes.addNote({});
  });

  it.each([undefined, realm])(
    "the session survives if older issuers are accepted: realm %s",
    async (pinned) => {
      const options = pinned === undefined ? {} : { realm: pinned };
      const { server, notes, session } = await signedIn(via, options);
      rename(server, true);
      for (let round = 0; round < 3; round++) {
        server.expireAll();
        await notes.addNote({});
        expect(session.state).toMatchObject({ sessionId: "s1", realm: pinned ?? renamed });
      }
      expect(server.count("Refresh")).toBe(3);
    },
  );

  it("a notice of any other call does not change the realm, but its tokens count", async () => {
    const { server, notes, session, events } = await signedIn(via);
    rename(server, true);
    const [own] = server.sessions;
    server.onHandler = ({ responseHeader }) => {
      if (own !== undefined) {
        own.claimsVersion += 1;
        server.write(responseHeader, own, "reissued");
      }
    };
    await notes.addNote({});
    expect(session.state.realm).toBe(realm);
    expect(events.map(({ type }) => type)).not.toContain("answerDropped");
    server.onHandler = undefined;
    await notes.addNote({});
    await session.refresh();
    expect(session.state.realm).toBe(renamed);
  });

  it("a hint of a foreign realm alone signs nobody out", async () => {
    const { server, notes, session } = await signedIn(via);
    for (const olderRealms of [[], [realm]]) {
      server.refuse = (context) =>
        server.hint(context, {
          ...{ action: Action.SIGN_IN, tokens: Tokens.CLEAR, session: "s1", realm: renamed },
          ...({ olderRealms } as object),
        });
      await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
      expect(session.state.status).toBe(olderRealms.length === 0 ? "signedIn" : "signedOut");
    }
  });

  it("a refused refresh that names the older issuer ends the session", async () => {
    const { server, notes, session } = await signedIn(via);
    rename(server, true);
    server.expireAll();
    for (const known of server.sessions) {
      known.live = false;
    }
    server.refuse = ({ method }) =>
      method.name === "AddNote"
        ? server.hint(undefined, { action: Action.REFRESH, realm })
        : undefined;
    await expect(notes.addNote({})).rejects.toBeInstanceOf(ConnectError);
    expect(session.state.status).toBe("signedOut");
  });

  it("a pinned realm never changes, and an event says so", async () => {
    const { server, notes, session, events } = await signedIn(via, { realm });
    rename(server, false);
    await notes.signIn({});
    expect(session.state).toMatchObject({ sessionId: "s1", realm });
    expect(events.at(-1)).toEqual({ type: "answerDropped", sessionId: "s2", why: "foreign" });
  });
});

it("stored tokens of a client with a pinned realm count after a restart", async () => {
  const kept: unknown[] = [];
  const tokens: TokenStore = { ...memoryTokens(), save: (value) => void kept.push(value) };
  const { server, clock, session } = await signedIn("header", { realm, tokens });
  rename(server, true);
  await session.refresh();
  await settle();
  const again = setup("header", {
    server,
    clock,
    realm,
    tokens: memoryTokens(kept.at(-1) as never),
  });
  expect(again.session.state).toMatchObject({ status: "signedIn", realm });
  await again.notes.addNote({});
});
