import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { App, skipApps } from "./app.ts";
import { visit } from "./visit.ts";

const ready = /listening on/;

/** Installs an application, checks its types and starts it. */
async function start(name: string) {
  const app = await App.install(name);
  await app.run("tsc", []);
  return { app, server: await app.serve("node", ["server.ts"], { ready }) };
}

describe.skipIf(skipApps)("an application that had no sessions", () => {
  it("feat:K5 gets them on the newest Connect, 2.3", async () => {
    const { server } = await start("plain");
    await visit(server);
  });

  it("feat:K5 gets them with Fastify, better-auth for the passwords, and connect-query", async () => {
    const { app, server } = await start("better-auth");
    await visit(server);
    const env = { PORT: String(server.port) };
    const { stdout } = await app.run("node", ["client.ts"], { env });
    expect(stdout).toBe(
      "ConnectError: [unauthenticated] the call needs a session; sign in first\n[ 'bread' ]\n",
    );
  });

  it("feat:K5 gets them beside its API keys", async () => {
    const { server } = await start("api-keys");
    await visit(server);
    const notes = createClient(NotesService, createConnectTransport({ baseUrl: server.url }));
    const withKey = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });
    await notes.addNote({ note: { text: "oil" } }, withKey("key_of_a_robot"));
    const list = await notes.listNotes({}, withKey("key_of_a_robot"));
    expect(list.notes).toMatchObject([{ text: "oil" }]);
    for (const key of ["key_of_nobody", "robot", ""]) {
      const error: unknown = await notes.listNotes({}, withKey(key)).catch((reason) => reason);
      expect(ConnectError.from(error).code).toBe(Code.Unauthenticated);
    }
  });
});
