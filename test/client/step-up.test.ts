import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { Action, Reason, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { header } from "../../src/base/wire.ts";
import type { StepUpHint, StepUpListener } from "../../src/client/index.ts";
import { withRefresh } from "../../src/client/index.ts";
import { type FakeServer, realm } from "./helpers/fake-server.ts";
import { latch, type SetupOptions, settle, signedIn, transports } from "./helpers/setup.ts";

/** Refuses these methods in every session but those that are strong. */
function demand(server: FakeServer, methods: readonly string[], strong: Set<string>): void {
  server.refuse = (context: HandlerContext) => {
    const credentials = ["authorization", "cookie"].map((name) => context.requestHeader.get(name));
    const [, session = ""] = /at\.(s\d+)\./.exec(credentials.join()) ?? [];
    if (!methods.includes(context.method.name) || strong.has(session)) {
      return undefined;
    }
    context.responseHeader.set(header.hint, "step-up");
    const value = {
      action: Action.STEP_UP,
      reason: Reason.STEP_UP_REQUIRED,
      ...{ realm, session, procedure: `notes.v1.NotesService/${context.method.name}` },
      ...{ acrValues: ["phr"], maxAge: { seconds: 600n } },
    };
    const details = [{ desc: RefreshHintSchema, value }];
    return new ConnectError("refused", Code.PermissionDenied, undefined, details);
  };
}

const all = ["AddNote", "WatchNotes", "ImportNotes"];

describe.each(transports)("feat:P19 onStepUp, %s mode", (via) => {
  /** A signed-in client. The user authenticates again by signing in, which replaces the session. */
  async function world(
    onStepUp?: (
      authenticate: () => Promise<unknown>,
      hint: StepUpHint,
    ) => ReturnType<StepUpListener>,
    options: SetupOptions = {},
  ) {
    const strong = new Set<string>();
    const hints: StepUpHint[] = [];
    const made = await signedIn(via, {
      ...options,
      ...(onStepUp && {
        onStepUp: (hint: StepUpHint) => {
          hints.push(hint);
          return onStepUp(authenticate, hint);
        },
      }),
    });
    const authenticate = async () => {
      await made.notes.signIn({});
      strong.add(made.session.state.sessionId ?? "");
    };
    demand(made.server, all, strong);
    return { ...made, hints, strong, authenticate };
  }
  const simple = async (authenticate: () => Promise<unknown>) => void (await authenticate());
  const codeOf = (call: Promise<unknown>) =>
    call.then(
      () => undefined,
      (error: ConnectError) => error.code,
    );

  it("feat:P3 is called with what the method demands, and the call is sent again once", async () => {
    const { server, notes, hints, session } = await world(simple);
    await notes.addNote({});
    expect(hints).toEqual([
      { procedure: "notes.v1.NotesService/AddNote", acrValues: ["phr"], maxAge: 600 },
    ]);
    expect([server.count("AddNote"), server.handled]).toEqual([2, ["SignIn", "SignIn", "AddNote"]]);
    expect([server.count("Refresh"), session.state.sessionId]).toEqual([0, "s2"]);
    await notes.addNote({});
    expect(hints).toHaveLength(1);
  });

  it("is called once for all calls that were refused until then, also for those refused later", async () => {
    const gate = latch();
    const { server, notes, hints } = await world(async (authenticate) => {
      await gate.promise;
      await authenticate();
    });
    const slow = latch();
    const calls = Array.from({ length: 20 }, () => notes.addNote({}));
    await settle();
    gate.open();
    // This one was sent before, and its refusal arrives when the user has authenticated.
    server.hold.Gate = slow.promise;
    const late = notes.addNote({});
    server.hold = {};
    slow.open();
    await Promise.all(calls);
    await late.catch(() => {});
    expect(hints).toHaveLength(1);
    expect(server.handled.filter((method) => method === "AddNote").length).toBeGreaterThanOrEqual(
      20,
    );
    expect(server.count("AddNote")).toBeLessThanOrEqual(42);
  });

  it("a call of the former session that is refused later is sent again without asking", async () => {
    const { server, notes, hints, authenticate } = await world(simple);
    const slow = latch();
    server.hold.Gate = slow.promise;
    const early = notes.addNote({});
    await settle();
    server.hold = {};
    await notes.addNote({});
    expect(hints).toHaveLength(1);
    slow.open();
    await early;
    expect(hints).toHaveLength(1);
    // Under a session of a later sign-in it would be a different call.
    const other = latch();
    server.hold.Gate = other.promise;
    demand(server, all, new Set());
    const stale = notes.addNote({});
    await settle();
    server.hold = {};
    await authenticate();
    other.open();
    expect(await codeOf(stale)).toBe(Code.PermissionDenied);
    expect(hints).toHaveLength(1);
  });

  it("is not called again if the call is refused again: a call is sent at most twice", async () => {
    const { server, notes, hints } = await world(async () => true);
    expect(await codeOf(notes.addNote({}))).toBe(Code.PermissionDenied);
    expect([hints.length, server.count("AddNote")]).toEqual([1, 2]);
  });

  it("is not called for a call that a refresh has already sent again", async () => {
    const { server, notes, hints } = await world(simple);
    let first = true;
    const { refuse } = server;
    server.refuse = (context) => {
      if (context.method.name === "AddNote" && first) {
        first = false;
        return server.hint(context, { action: Action.REFRESH, session: "s1" });
      }
      return refuse?.(context);
    };
    expect(await codeOf(notes.addNote({}))).toBe(Code.PermissionDenied);
    expect([hints.length, server.count("AddNote")]).toEqual([0, 2]);
  });

  it("does not hold the calls that it makes itself, so it cannot wait for itself", async () => {
    const codes: (Code | undefined)[] = [];
    const made = await world(async (authenticate) => {
      codes.push(await codeOf(made.notes.addNote({})));
      await authenticate();
    });
    await made.notes.addNote({});
    expect([codes, made.hints.length]).toEqual([[Code.PermissionDenied], 1]);
  });

  it("the call fails with its refusal if the user does not authenticate, and the next one asks again", async () => {
    const { server, notes, hints } = await world(async () => false);
    for (const asked of [1, 2]) {
      const error = await notes.addNote({}).catch((thrown: ConnectError) => thrown);
      expect((error as ConnectError).findDetails(RefreshHintSchema)[0]?.acrValues).toEqual(["phr"]);
      expect([hints.length, server.count("AddNote")]).toEqual([asked, asked]);
    }
  });

  it("the call fails with the error of the listener, and the next one asks again", async () => {
    const { notes, hints } = await world(async () => {
      throw new ConnectError("the user has closed the dialog", Code.Canceled);
    });
    expect(await codeOf(notes.addNote({}))).toBe(Code.Canceled);
    expect(await codeOf(notes.addNote({}))).toBe(Code.Canceled);
    expect(hints).toHaveLength(2);
  });

  it("a listener that throws at once, as plain JavaScript can, does not stop the next call", async () => {
    const { notes, hints } = await world(() => {
      throw new ConnectError("no dialog", Code.Canceled);
    });
    expect(await codeOf(notes.addNote({}))).toBe(Code.Canceled);
    expect(await codeOf(notes.addNote({}))).toBe(Code.Canceled);
    expect(hints).toHaveLength(2);
  });

  it("the call is not sent for another user who signed in meanwhile", async () => {
    const made = await world(async (authenticate) => {
      made.server.user = "bob";
      await authenticate();
    });
    expect(await codeOf(made.notes.addNote({}))).toBe(Code.PermissionDenied);
    expect(made.server.count("AddNote")).toBe(1);
    expect(made.session.state.userId).toBe("bob");
  });

  it("a stream is opened again before its first message, and its caller sees no headers of the refusal", async () => {
    const { server, notes, session, hints } = await world(simple);
    for (const client of [notes, withRefresh(notes, session)]) {
      const shown: (string | null)[] = [];
      const texts: string[] = [];
      const onHeader = (headers: Headers) => void shown.push(headers.get(header.hint));
      for await (const { note } of client.watchNotes({}, { onHeader })) {
        texts.push(note?.text ?? "");
      }
      expect([texts, shown.filter((hint) => hint === "step-up")]).toEqual([["a", "b"], []]);
    }
    expect([hints.length, server.count("WatchNotes")]).toEqual([1, 3]);
  });

  it("is not called for a request that cannot be sent again", async () => {
    const { notes, hints } = await world(simple);
    async function* requests() {
      yield {};
    }
    expect(await codeOf(notes.importNotes(requests()))).toBe(Code.PermissionDenied);
    expect(hints).toEqual([]);
  });

  it("is not called for a call with an authorization header of its own, nor by another service's hint", async () => {
    const { server, notes, hints } = await world(simple);
    const headers = { authorization: "Bearer key" };
    expect(await codeOf(notes.addNote({}, { headers }))).toBe(Code.PermissionDenied);
    const { refuse } = server;
    server.refuse = (context) => {
      const error = refuse?.(context);
      const [detail] = (error?.details ?? []) as unknown as { value: { realm: string } }[];
      if (detail) {
        detail.value.realm = "https://other.test";
      }
      return error;
    };
    expect(await codeOf(notes.addNote({}))).toBe(Code.PermissionDenied);
    expect(hints).toEqual([]);
  });

  it("without it, calls fail with the refusal and the session goes on", async () => {
    const { server, notes, session } = await world();
    expect(await codeOf(notes.addNote({}))).toBe(Code.PermissionDenied);
    expect([server.count("AddNote"), session.state.status]).toEqual([1, "signedIn"]);
  });

  it("feat:N4 must be a function", async () => {
    await expect(signedIn(via, { onStepUp: "dialog" as never })).rejects.toThrow(
      "onStepUp must be a function, got string",
    );
  });
});
