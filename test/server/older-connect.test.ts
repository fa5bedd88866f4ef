import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ConnectRouterOptions,
  createClient,
  createConnectRouter,
} from "@connectrpc/connect";
import { createUniversalHandlerClient } from "@connectrpc/connect/protocol";
import { createTransport } from "@connectrpc/connect/protocol-connect";
import { createSessions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { afterEach, describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

// Connect 2.1, as an adapter has it that brings its own copy: it ignores gates. test/apps installs the
// real one.

const installed = vi.hoisted(() => ({ isOld: false }));

vi.mock("@connectrpc/connect", async (original) => {
  const connect = await original<typeof import("@connectrpc/connect")>();
  const create = connect.createConnectRouter;
  return {
    ...connect,
    createConnectRouter: (options?: ConnectRouterOptions) =>
      installed.isOld ? withoutGates(create, options) : create(options),
  };
});

/** A router that drops the option `requestGate`, as Connect 2.1 does. */
function withoutGates(
  create: typeof createConnectRouter,
  options?: ConnectRouterOptions,
): ConnectRouter {
  const strip = <O extends object>(given: O | undefined): O | undefined =>
    given && { ...given, requestGate: undefined };
  const router = create(strip(options));
  return {
    handlers: router.handlers,
    service: (service, implementation, own) => router.service(service, implementation, strip(own)),
    rpc: (method, implementation, own) => router.rpc(method, implementation, strip(own)),
  };
}

afterEach(() => {
  installed.isOld = false;
});

const issuer = "https://api.example.com";
const tooOld =
  /^the installed @connectrpc\/connect is older than 2\.2 .*npm install --save-exact @connectrpc/;

function openRoutes(handled: { count: number }) {
  return (router: ConnectRouter) =>
    router.service(NotesService, {
      // Handlers that do not look at the session.
      addNote: () => {
        handled.count++;
        return {};
      },
      signIn: () => {
        handled.count++;
        return {};
      },
    });
}

const clientOf = ({ handlers }: ConnectRouter) =>
  createClient(
    NotesService,
    createTransport({
      httpClient: createUniversalHandlerClient(handlers),
      baseUrl: "https://in-memory",
      useBinaryFormat: true,
      interceptors: [],
      acceptCompression: [],
      sendCompression: null,
      compressMinBytes: 1024,
      readMaxBytes: 1024,
      writeMaxBytes: 1024,
    }),
  );

describe("with a Connect that ignores gates", () => {
  it.each([
    [
      "createSessions",
      () => createSessions({ issuer, store: memoryStore(), secret: new Uint8Array(32).fill(7) }),
    ],
    ["verifySessions", () => verifySessions({ issuer, jwks: { keys: [] } })],
  ])("feat:K7 %s throws, and says what to install", (_name, create) => {
    expect(create).not.toThrow(tooOld);
    installed.isOld = true;
    expect(create).toThrow(TypeError);
    expect(create).toThrow(tooOld);
  });

  it("feat:K7 protect and check throw if only the adapter's copy of Connect is older", () => {
    const sessions = testSessions();
    const { routes, ...options } = sessions.protect({ routes: openRoutes({ count: 0 }) });
    installed.isOld = true;
    const old = createConnectRouter(options);
    expect(() => routes(old)).toThrow(tooOld);
    expect(() => sessions.check(old)).toThrow(tooOld);
    expect(old.handlers).toEqual([]);
    installed.isOld = false;
    const router = createConnectRouter(options);
    routes(router);
    sessions.check(router);
    // The method that was added to look for gates is gone.
    const own = NotesService.methods.length;
    expect(router.handlers.filter(({ service }) => service === NotesService)).toHaveLength(own);
    expect(new Set(router.handlers.map(({ requestPath }) => requestPath)).size).toBe(
      router.handlers.length,
    );
  });

  it("does not run the gates of the application to find out", () => {
    const seen = vi.fn<() => never>();
    const sessions = testSessions();
    const { routes, ...options } = sessions.protect({
      routes: openRoutes({ count: 0 }),
      requestGate: seen,
      interceptors: [() => seen],
    });
    const router = createConnectRouter(options);
    routes(router);
    sessions.check(router);
    expect(seen).not.toHaveBeenCalled();
  });
});

describe("a router from protect whose gate does not run", () => {
  it.each(["addNote", "signIn"] as const)(
    "feat:K7 refuses each call and names what is missing, also on public methods: %s",
    async (name) => {
      const handled = { count: 0 };
      const sessions = testSessions({ public: [NotesService.method.signIn] });
      const own = vi.fn<() => void>();
      const { requestGate, routes, ...rest } = sessions.protect({
        routes: openRoutes(handled),
        requestGate: own,
      });
      expect(requestGate).toBeTypeOf("function");
      // The gate is left out, as by a framework that passes on only some options.
      const router = createConnectRouter(rest);
      routes(router);
      const client = clientOf(router);
      const error: unknown = await client[name]({}).catch((reason: unknown) => reason);
      expect(ConnectError.from(error).code).toBe(Code.Internal);
      expect(ConnectError.from(error).rawMessage).toMatch(
        new RegExp(
          `^no request gate has run for notes\\.v1\\.NotesService/${name}:.*npm install`,
          "i",
        ),
      );
      expect(handled.count).toBe(0);
    },
  );
});

describe("a router of an older Connect that gets the gate alone", () => {
  it("answers from handlers that do not read the session, refuses where they do, and is found by check", async () => {
    const handled = { count: 0 };
    const sessions = testSessions();
    const { requestGate } = sessions;
    installed.isOld = true;
    const router = createConnectRouter({ requestGate });
    openRoutes(handled)(router);
    router.rpc(NotesService.method.listNotes, (_request, ctx) => {
      sessions.require(ctx);
      return {};
    });
    const client = clientOf(router);
    await client.addNote({});
    expect(handled.count).toBe(1);
    const error: unknown = await client.listNotes({}).catch((reason: unknown) => reason);
    expect(ConnectError.from(error).code).toBe(Code.Internal);
    expect(ConnectError.from(error).rawMessage).toMatch(/^nothing authenticates /);
    expect(() => sessions.check(router)).toThrow(tooOld);
  });
});
