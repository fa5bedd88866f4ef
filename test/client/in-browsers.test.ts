// What a client does only in a browser, with the browser's globals replaced.
import { createConnectTransport } from "@connectrpc/connect-web";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import {
  cookieTokens,
  createSessionClient,
  memoryTokens,
  type SessionClientOptions,
  type TokenStore,
} from "../../src/client/index.ts";
import { type Setup, settle, setup, signedIn } from "./helpers/setup.ts";

/** Replaces the target of the page's events, and returns it. */
function page(): EventTarget {
  const target = new EventTarget();
  vi.stubGlobal("addEventListener", target.addEventListener.bind(target));
  vi.stubGlobal("removeEventListener", target.removeEventListener.bind(target));
  onTestFinished(() => void vi.unstubAllGlobals());
  return target;
}

function restored(persisted = true): Event {
  return Object.assign(new Event("pageshow"), { persisted });
}

/** Another client of the same browser that the first one does not hear. */
function silentTab({ server, clock, jar }: Setup): Setup {
  const BroadcastChannel = globalThis.BroadcastChannel;
  vi.stubGlobal("BroadcastChannel", undefined);
  const made = setup("cookie", { server, clock, jar });
  vi.stubGlobal("BroadcastChannel", BroadcastChannel);
  return made;
}

describe("a page that is restored from the back-forward cache", () => {
  it("feat:P6 learns that another tab has signed out", async () => {
    const target = page();
    const one = await signedIn("cookie");
    const other = silentTab(one);
    await other.session.signOut();
    other.session.close();
    expect(one.session.state.status).toBe("signedIn");
    target.dispatchEvent(restored());
    await vi.waitFor(() => expect(one.session.state.status).toBe("signedOut"), { interval: 1 });
    expect(one.server.count("Refresh")).toBe(1);
  });

  it("feat:P6 learns that another tab has signed in to a different session", async () => {
    const target = page();
    const one = await signedIn("cookie");
    await silentTab(one).notes.signIn({});
    target.dispatchEvent(restored());
    await vi.waitFor(() => expect(one.session.state.sessionId).toBe("s2"), { interval: 1 });
  });

  it("feat:P6 no longer believes that it is signed out, because another tab may have signed in", async () => {
    const target = page();
    const one = await signedIn("cookie");
    await one.session.signOut();
    const other = silentTab(one);
    await other.notes.signIn({});
    other.session.close();
    target.dispatchEvent(restored());
    expect(one.session.state).toMatchObject({ status: "unknown" });
    await vi.waitFor(() => expect(one.session.state.sessionId).toBe("s2"), { interval: 1 });
    expect(one.server.count("Refresh")).toBe(1);
  });

  it("asks nothing after an ordinary load, in header mode, and after session.close()", async () => {
    const target = page();
    const one = await signedIn("cookie");
    target.dispatchEvent(restored(false));
    const other = await signedIn("header", { server: one.server, clock: one.clock });
    one.session.close();
    target.dispatchEvent(restored());
    await settle();
    expect(one.server.count("Refresh")).toBe(0);
    expect([one.session.state.status, other.session.state.status]).toEqual([
      "signedIn",
      "signedIn",
    ]);
  });
});

describe("cookies that the browser does not keep", () => {
  it("feat:P6 the next call says so, with an event and a message, and the client is signed out", async () => {
    const one = await signedIn("cookie");
    one.jar.clear();
    const error = await one.notes.addNote({}).catch(String);
    expect(error).toMatch(/^ConnectError: \[unauthenticated\] this client was signed in, but/);
    expect(error).toContain("cookies: { insecure: true }");
    expect(one.events).toEqual([
      expect.objectContaining({ type: "signedIn" }),
      { type: "cookiesMissing", sessionId: "s1" },
      { type: "signedOut", sessionId: "s1", by: "server" },
    ]);
    const next = await one.notes.addNote({}).catch(String);
    expect(next).toContain("refused");
  });

  it("a refresh finds it out as well", async () => {
    const one = await signedIn("cookie");
    one.jar.clear();
    await expect(one.session.refresh()).rejects.toThrow("the browser sent no session cookie");
    expect(one.eventTypes()).toContain("cookiesMissing");
    expect(one.session.state.status).toBe("signedOut");
  });

  it("does not concern a client with header tokens", async () => {
    const header = await signedIn("header");
    header.server.refuse = (context) => header.server.hint(context, { action: 2, reason: 1 });
    await expect(header.notes.addNote({})).rejects.toThrow("refused");
    expect(header.eventTypes()).toEqual(["signedIn"]);
  });

  it("does not concern a call that was sent before the sign-in", async () => {
    const one = setup("cookie");
    const gate = Promise.withResolvers<void>();
    one.server.hold.Gate = gate.promise;
    const early = one.notes.addNote({}).catch(String);
    await settle();
    await one.notes.signIn({});
    gate.resolve();
    expect(await early).toContain("refused");
    expect(one.eventTypes()).toEqual(["signedIn"]);
  });
});

describe("the fetch of TransportParts", () => {
  it.each([
    ["cookie", "include", cookieTokens()],
    ["header", "omit", memoryTokens()],
  ] as const)(
    "feat:P9 with %s tokens has the credentials mode %s",
    async (_, credentials, tokens) => {
      const sent: (RequestInit | undefined)[] = [];
      vi.stubGlobal("fetch", async (_input: unknown, init?: RequestInit) => {
        sent.push(init);
        return new Response();
      });
      onTestFinished(() => void vi.unstubAllGlobals());
      const fetch = fetchOf({ tokens });
      await fetch("https://api.test", { credentials: "same-origin" });
      expect(sent).toEqual([{ credentials, redirect: "manual" }]);
    },
  );
});

describe("the default of `tokens`", () => {
  class WorkerGlobalScope {}
  const web = { origin: "https://app.test" };
  it.each([
    ["in a page", { document: {} }, "cookie"],
    ["in a worker of a page", { WorkerGlobalScope, location: web }, "cookie"],
    [
      "in a worker of an extension",
      { WorkerGlobalScope, location: { origin: "chrome-extension://x" } },
      "cookie",
    ],
    ["in a worker of a server runtime", { WorkerGlobalScope }, "header"],
    [
      "in a worker without an origin",
      { WorkerGlobalScope, location: { origin: "null" } },
      "header",
    ],
    ["in Node.js", {}, "header"],
  ])("feat:P9 %s", async (_, globals, transport) => {
    for (const [name, value] of Object.entries(globals)) {
      vi.stubGlobal(name, value);
    }
    onTestFinished(() => void vi.unstubAllGlobals());
    const sent: (RequestInit | undefined)[] = [];
    vi.stubGlobal("fetch", async (_input: unknown, init?: RequestInit) => {
      sent.push(init);
      return new Response();
    });
    await fetchOf({})("https://api.test");
    expect(sent[0]?.credentials).toBe(transport === "cookie" ? "include" : "omit");
  });
});

function fetchOf(options: { readonly tokens?: TokenStore }): typeof globalThis.fetch {
  let found: typeof globalThis.fetch | undefined;
  const transport: SessionClientOptions["transport"] = (parts) => {
    found = parts.fetch;
    return createConnectTransport({ baseUrl: "https://api.test", ...parts });
  };
  createSessionClient({ ...options, transport }).close();
  if (found === undefined) {
    throw new Error("the parts have no fetch");
  }
  return found;
}
