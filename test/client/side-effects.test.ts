import { ConnectError } from "@connectrpc/connect";
import { afterEach, describe, expect, it, vi } from "vitest";
import { memoryTokens } from "../../src/client/index.ts";
import { type Setup, settle, setup, transports } from "./helpers/setup.ts";

/** A channel of which one operation throws, as browsers let them do. */
function brokenChannel(broken: "constructor" | "postMessage" | "nothing") {
  return class {
    onmessage: unknown;
    constructor() {
      if (broken === "constructor") {
        throw new DOMException("The operation is insecure.", "SecurityError");
      }
    }
    postMessage(): void {
      if (broken === "postMessage") {
        throw new DOMException("The channel is closed.", "InvalidStateError");
      }
    }
    close(): void {}
  };
}

/** Signs in, refreshes, has a call refreshed for it, and signs out. Returns the sessions left. */
async function useSession({ session, server, notes }: Setup): Promise<number> {
  await notes.signIn({});
  expect(session.state.status).toBe("signedIn");
  await session.refresh();
  server.expireAll();
  await notes.addNote({});
  await session.signOut();
  expect(session.state.status).toBe("signedOut");
  return server.sessions.filter(({ live }) => live).length;
}

afterEach(() => {
  vi.unstubAllGlobals();
});

describe("no side effect stands in the way of the answer", () => {
  it.each(transports)("a client with %s tokens does everything after close()", async (via) => {
    const made = setup(via);
    made.session.close();
    made.session.close();
    expect(await useSession(made)).toBe(0);
    expect(await useSession(made)).toBe(0);
  });

  it.each(["constructor", "postMessage"] as const)(
    "the %s of BroadcastChannel may throw",
    async (broken) => {
      vi.stubGlobal("BroadcastChannel", brokenChannel(broken));
      const made = setup("cookie");
      expect(await useSession(made)).toBe(0);
      made.session.close();
      expect(await useSession(made)).toBe(0);
    },
  );

  it("the locks of the browser may be forbidden", async () => {
    vi.stubGlobal("navigator", {
      get locks() {
        throw new DOMException("The operation is insecure.", "SecurityError");
      },
    });
    expect(await useSession(setup("cookie"))).toBe(0);
  });

  const failures: [string, () => never][] = [
    [
      "throw",
      () => {
        throw new RangeError("from the application");
      },
    ],
    ["reject", () => Promise.reject(new RangeError("from the application")) as never],
  ];
  const combinations = failures.flatMap(([how, fails]) =>
    transports.map((via) => [how, via, fails] as const),
  );
  // Vitest fails on a rejection that nothing handles.
  it.each(combinations)("listeners may %s, with %s tokens", async (_, via, fails) => {
    const tokens = via === "header" ? { tokens: { ...memoryTokens(), save: fails } } : {};
    const made = setup(via, { onEvent: fails, ...tokens });
    made.session.subscribe(fails);
    expect(await useSession(made)).toBe(0);
    await settle();
  });

  it.each(failures)("the onInterrupted of a resumed stream may %s", async (_, fails) => {
    const made = setup("header");
    await made.notes.signIn({});
    const { server, session, notes, clock } = made;
    server.refuse = () => ConnectError.from("busy", 14);
    const texts: string[] = [];
    const read = async (): Promise<void> => {
      for await (const { note } of session.resume((_cursor, call) => notes.watchNotes({}, call), {
        onInterrupted: fails,
      })) {
        texts.push(note?.text ?? "");
      }
    };
    const ended = read();
    await settle();
    server.refuse = undefined;
    clock.advance(1_000);
    await ended;
    expect(texts).toEqual(["a", "b"]);
  });

  it("a listener may use the session at once", async () => {
    const made: Setup = setup("header", {
      onEvent: ({ type }) => {
        if (type === "signedIn") {
          seen.push(made.session.state.status);
          calls.push(made.notes.addNote({}));
        }
      },
    });
    const seen: string[] = [];
    const calls: Promise<unknown>[] = [];
    await made.notes.signIn({});
    await Promise.all(calls);
    expect(seen).toEqual(["signedIn"]);
    expect(made.server.count("AddNote")).toBe(1);
  });
});
