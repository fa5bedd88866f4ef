import {
  Code,
  ConnectError,
  createClient,
  createRouterTransport,
  type Interceptor,
} from "@connectrpc/connect";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import {
  cookieTokens,
  createSessionClient,
  memoryTokens,
  type TransportParts,
} from "../../src/client/index.ts";

const transport = (parts: TransportParts) => createRouterTransport(() => {}, { transport: parts });

describe("createSessionClient(options)", () => {
  it.each([
    ["transport", {}],
    ["transport", { transport: transport({ interceptors: [] }) }],
    ["transport", { transport: () => ({}) }],
    [
      "transport: the function must use its parts",
      { transport: () => createRouterTransport(() => {}) },
    ],
    ["refreshTimeout", { transport, refreshTimeout: "99ms" }],
    ["refreshTimeout", { transport, refreshTimeout: "61s" }],
    ["refreshTimeout", { transport, refreshTimeout: "soon" }],
    ["earlyRefresh", { transport, earlyRefresh: 0 }],
    ["earlyRefresh", { transport, earlyRefresh: 1.1 }],
    ["earlyRefresh", { transport, earlyRefresh: Number.NaN }],
    ["realm", { transport, realm: "" }],
    ["realm", { transport, realm: 7 }],
    ["onEvent", { transport, onEvent: "log" }],
    ['unknown option "timeout" for createSessionClient', { transport, timeout: "1s" }],
    ["tokens", { transport, tokens: {} }],
    ["tokens", { transport, tokens: { transport: "header", load: () => undefined } }],
  ])("throws a TypeError that names %s", (name, options) => {
    const create = () => createSessionClient(options as never);
    expect(create).toThrow(TypeError);
    expect(create).toThrow(name);
  });

  it("explains a refusal that happens because the interceptors were replaced", async () => {
    const passes: Interceptor = (next) => (request) => next(request);
    const refuses = (code: Code, take: (parts: TransportParts) => Interceptor[]) => {
      const session = createSessionClient({
        transport: (parts) =>
          createRouterTransport(
            ({ service }) =>
              void service(NotesService, {
                listNotes: () => Promise.reject(new ConnectError("refused", code)),
              }),
            { transport: { ...parts, interceptors: take(parts) } },
          ),
      });
      return createClient(NotesService, session.transport).listNotes({});
    };
    await expect(refuses(Code.Unauthenticated, () => [passes])).rejects.toThrow(
      /^transport: the function replaced the interceptors/,
    );
    await expect(refuses(Code.Unavailable, () => [passes])).rejects.toThrow(/refused/);
    await expect(
      refuses(Code.Unauthenticated, ({ interceptors }) => [...interceptors, passes]),
    ).rejects.toThrow(/refused/);
  });

  it.each([
    ["100ms", 0.001],
    ["60s", 1],
  ] as const)(
    "accepts the bounds refreshTimeout %s and earlyRefresh %s",
    (refreshTimeout, earlyRefresh) => {
      const session = createSessionClient({ transport, refreshTimeout, earlyRefresh });
      expect(session.state).toEqual({ status: "signedOut" });
    },
  );

  it("keeps tokens in cookies if there is a document", () => {
    vi.stubGlobal("document", {});
    onTestFinished(() => {
      vi.unstubAllGlobals();
    });
    const session = createSessionClient({ transport });
    onTestFinished(() => session.close());
    expect(session.state).toEqual({ status: "unknown" });
  });

  it.each([
    ["cookie", cookieTokens(), "include"],
    ["header", memoryTokens(), "omit"],
  ] as const)(
    "passes a fetch for %s mode that follows no redirects",
    async (_name, tokens, credentials) => {
      const given: TransportParts[] = [];
      const session = createSessionClient({
        tokens,
        transport: (parts) => {
          given.push(parts);
          return transport(parts);
        },
      });
      onTestFinished(() => session.close());
      const seen: unknown[] = [];
      vi.stubGlobal("fetch", async (_input: unknown, init: unknown) => {
        seen.push(init);
        return new Response();
      });
      onTestFinished(() => {
        vi.unstubAllGlobals();
      });
      expect(given.map((parts) => parts.interceptors.length)).toEqual([0, 1]);
      await given[0]?.fetch?.("https://api.test", {
        redirect: "follow",
        credentials: "same-origin",
      });
      expect(seen).toEqual([{ redirect: "manual", credentials }]);
    },
  );
});
