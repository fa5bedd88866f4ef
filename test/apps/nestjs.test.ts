import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { createSessionClient, memoryTokens } from "../../src/client/index.ts";
import { App, skipApps } from "./app.ts";
import { password, visit, visitByGrpc } from "./visit.ts";

describe.skipIf(skipApps)("an application of NestJS", () => {
  const ready = /application successfully started|microservice successfully started/;
  let app: App;
  beforeAll(async () => {
    app = await App.install("nestjs");
    await app.run("tsc", []);
  });

  it("feat:K5 serves Connect beside its controllers, and both know the session", async () => {
    const server = await app.serve("node", ["dist/src/main.js"], { ready });
    await visit(server);

    const exported = (headers: Record<string, string> = {}) =>
      fetch(`${server.url}/export`, { headers });
    const stranger = await exported();
    expect([stranger.status, await stranger.json()]).toEqual([
      401,
      { message: expect.stringContaining("session") },
    ]);
    const tokens = memoryTokens();
    const session = createSessionClient({
      transport: (parts) => createConnectTransport({ baseUrl: server.url, ...parts }),
      tokens,
    });
    const notes = createClient(NotesService, session.transport);
    await notes.signIn({ user: "grace", password });
    await notes.addNote({ note: { text: "bread" } });
    const { accessToken = "" } = (await tokens.load()) ?? {};
    const owner = await exported({ authorization: `Bearer ${accessToken}` });
    expect([owner.status, await owner.json()]).toEqual([200, ["bread"]]);
    await server.later();
    expect((await exported({ authorization: `Bearer ${accessToken}` })).status).toBe(401);
  });

  it("feat:K5 serves its controllers over gRPC, and errors keep their codes and hints", async () => {
    await visitByGrpc(await app.serve("node", ["dist/src/microservice.js"], { ready }));
  });
});
