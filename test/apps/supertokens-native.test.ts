// The unchanged code of SuperTokens' SDK for React Native, under Node.js, on a server with rpc-session.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { SessionEvent } from "rpc-session";
import { superTokens } from "rpc-session/compat/supertokens";
import { createFakeClock, type JsonObject, testSessions } from "rpc-session/testing";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { App, skipApps } from "./app.ts";

/** The SDK; see test/apps/supertokens-native/app.js. */
interface Sdk {
  readonly SuperTokens: {
    init(options: object): void;
    doesSessionExist(): Promise<boolean>;
    getUserId(): Promise<string>;
    getAccessTokenPayloadSecurely(): Promise<Record<string, unknown>>;
    addAxiosInterceptors(instance: object): void;
    signOut(): Promise<void>;
  };
  readonly axios: { create(): Axios };
}

interface Axios {
  post(url: string, data: object, options: object): Promise<{ readonly data: Notes }>;
}

interface Notes {
  readonly notes: readonly { readonly text: string }[];
}

const plainFetch = globalThis.fetch;

describe.skipIf(skipApps)("feat:P20 the SDK of SuperTokens for React Native", () => {
  // The SDK replaces the global fetch, once in a process.
  let phone: Awaited<ReturnType<typeof start>>;
  beforeAll(async () => {
    const app = await App.install("supertokens-native");
    phone = await start(await bundle(app.folder));
  });
  afterAll(() => phone?.stop());

  /** The app on a phone, and its server. */
  async function start(file: string) {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
    const issuer = `http://localhost:${(server.address() as AddressInfo).port}`;
    const events: SessionEvent["type"][] = [];
    const clock = createFakeClock(Date.now());
    const sessions = testSessions({
      ...{ issuer, clock, public: [NotesService.method.signIn] },
      clientClaims: ({ role }: JsonObject) => ({ role }),
      onEvent: ({ type }) => events.push(type),
    });
    const rpcs = connectNodeAdapter(
      sessions.protect({
        routes: (router) =>
          router.service(NotesService, {
            async signIn({ user }, ctx) {
              await sessions.create(ctx, { userId: user, claims: { role: "reader" } });
              return {};
            },
            listNotes: (_, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
            async addNote({ note }, ctx) {
              await sessions.require(ctx).updateClaims({ role: note?.text ?? "" });
              return {};
            },
          }),
      }),
    );
    const handle = superTokens(sessions, { issuer }).node(rpcs);
    const state = { down: false, refreshes: 0, refreshToken: "" };
    server.on("request", (request, response) => {
      if (request.url === "/auth/session/refresh") {
        state.refreshes += 1;
        state.refreshToken = request.headers.authorization?.replace("Bearer ", "") ?? "";
        if (state.down) {
          response.writeHead(503).end();
          return;
        }
      }
      handle(request, response);
    });
    const sdk = (await import(pathToFileURL(file).href)) as Sdk;
    const { SuperTokens } = sdk;
    SuperTokens.init({ apiDomain: issuer, tokenTransferMethod: "header" });
    const axios = sdk.axios.create();
    SuperTokens.addAxiosInterceptors(axios);
    const stop = async () => {
      globalThis.fetch = plainFetch;
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await sessions.close();
    };

    const headers = { "content-type": "application/json" };
    const post = (method: string, message: object) =>
      fetch(`${issuer}/notes.v1.NotesService/${method}`, {
        ...{ method: "POST", headers, body: JSON.stringify(message) },
      });
    const byFetch = async () => {
      const response = await post("ListNotes", {});
      return response.ok ? ((await response.json()) as Notes).notes[0]?.text : response.status;
    };
    const byAxios = async () => {
      const url = `${issuer}/notes.v1.NotesService/ListNotes`;
      // Without `validateStatus`: the SDK throws `true` for a 401 that is no error.
      const { data } = await axios.post(url, {}, { headers });
      return data.notes[0]?.text;
    };
    return { SuperTokens, post, byFetch, byAxios, clock, events, state, issuer, stop };
  }

  it("signs in, refreshes once for parallel calls by fetch, once for a call by axios, and signs out", async () => {
    const { SuperTokens, post, byFetch, byAxios, clock, events, state } = phone;
    expect(await SuperTokens.doesSessionExist()).toBe(false);
    expect((await post("SignIn", { user: "ada" })).status).toBe(200);
    expect(await SuperTokens.doesSessionExist()).toBe(true);
    expect(await SuperTokens.getUserId()).toBe("ada");
    // Its interceptors of axios may refresh once more if others have just done so, so each kind by itself.
    for (const call of [byFetch, byAxios]) {
      clock.advance("20m");
      state.refreshes = 0;
      const answers = await Promise.all([call(), ...(call === byFetch ? [call(), call()] : [])]);
      expect(new Set(answers)).toEqual(new Set(["ada"]));
      expect(state.refreshes).toBe(1);
    }
    await SuperTokens.signOut();
    expect(await SuperTokens.doesSessionExist()).toBe(false);
    expect(await byFetch()).toBe(401);
    expect(events).not.toContain("theft");
  });

  it("sees changed claims at once", async () => {
    const { SuperTokens, post } = phone;
    await post("SignIn", { user: "ada" });
    expect(await SuperTokens.getAccessTokenPayloadSecurely()).toMatchObject({ role: "reader" });
    await post("AddNote", { note: { text: "editor" } });
    expect(await SuperTokens.getAccessTokenPayloadSecurely()).toMatchObject({ role: "editor" });
  });

  it("keeps its session when a refresh meets an outage", async () => {
    const { SuperTokens, post, byFetch, clock, state } = phone;
    await post("SignIn", { user: "ada" });
    clock.advance("20m");
    state.down = true;
    expect(await byFetch()).toBe(503);
    state.down = false;
    expect(await byFetch()).toBe("ada");
    expect(await SuperTokens.doesSessionExist()).toBe(true);
  });

  it("loses its session when a thief uses a former refresh token", async () => {
    const { SuperTokens, post, byFetch, clock, events, state, issuer } = phone;
    await post("SignIn", { user: "ada" });
    clock.advance("20m");
    expect(await byFetch()).toBe("ada");
    const stolen = state.refreshToken;
    for (let i = 0; i < 4; i++) {
      clock.advance("2m");
      expect(await byFetch()).toBe("ada");
      clock.advance("20m");
      expect(await byFetch()).toBe("ada");
    }
    const refreshed = await plainFetch(`${issuer}/auth/session/refresh`, {
      method: "POST",
      headers: { authorization: `Bearer ${stolen}`, "st-auth-mode": "header", rid: "session" },
    });
    expect(refreshed.status).toBe(401);
    expect(events).toContain("theft");
    expect(await byFetch()).toBe(401);
    expect(await SuperTokens.doesSessionExist()).toBe(false);
  });
});

/** Bundles the app, with a storage of its own in place of the one of a phone. */
async function bundle(folder: string): Promise<string> {
  await build({
    configFile: false,
    logLevel: "warn",
    root: folder,
    resolve: {
      alias: { "@react-native-async-storage/async-storage": join(folder, "storage.js") },
    },
    build: {
      outDir: join(folder, "dist"),
      // As it is for Node.js: an axios for browsers would call the fetch that the SDK replaces.
      rollupOptions: { external: ["axios"] },
      target: "esnext",
      minify: false,
      lib: { entry: join(folder, "app.js"), formats: ["es"], fileName: () => "app.mjs" },
    },
  });
  return join(folder, "dist/app.mjs");
}
