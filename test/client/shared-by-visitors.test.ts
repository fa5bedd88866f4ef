import { createServer } from "node:net";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { testSessions } from "rpc-session/testing";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import type { TokenStore } from "../../src/client/index.ts";
import { notesApp } from "../helpers/notes.ts";

const said = vi.fn<(text: string) => void>();
const server = createServer();

beforeEach(() => {
  said.mockClear();
  vi.spyOn(console, "warn").mockImplementation(said);
  // As in a new process.
  vi.resetModules();
});

afterEach(async () => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  await new Promise((resolve) => server.close(resolve));
});

const listen = () => new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));

/** Creates two clients of a service in this process, and signs in with both. */
async function signIn(tokens?: (client: { memoryTokens(): TokenStore }) => TokenStore) {
  const client = await import("../../src/client/index.ts");
  const sessions = testSessions({ public: [NotesService.method.signIn] });
  const { routes, ...router } = sessions.protect({ routes: notesApp(sessions).routes });
  for (let i = 0; i < 2; i++) {
    const session = client.createSessionClient({
      transport: (parts) => createRouterTransport(routes, { router, transport: parts }),
      ...(tokens && { tokens: tokens(client) }),
    });
    await createClient(NotesService, session.transport).signIn({ user: "alice" });
    expect(session.state.status).toBe("signedIn");
  }
}

describe("a client whose session all visitors of a server would share", () => {
  it("says so once, and what to use", async () => {
    vi.stubEnv("NODE_ENV", "production");
    await listen();
    await signIn();
    expect(said.mock.calls).toEqual([
      [
        expect.stringMatching(
          /^rpc-session: all visitors .* rpc-session\/ssr, .* memoryTokens\(\)$/,
        ),
      ],
    ]);
  });

  it.each([
    ["in a process that accepts no connections", "production", false, undefined],
    ["in a test of a server and its client", "test", true, undefined],
    ["if the tokens are for the whole process by choice", "production", true, "memory"],
  ] as const)("says nothing %s", async (_when, mode, listens, tokens) => {
    vi.stubEnv("NODE_ENV", mode);
    if (listens) {
      await listen();
    }
    await signIn(tokens && ((client) => client.memoryTokens()));
    expect(said).not.toHaveBeenCalled();
  });
});
