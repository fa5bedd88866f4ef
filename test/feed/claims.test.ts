// Servers in processes of their own share a store. A provider knows the roles of users, over HTTP.
import { fork } from "node:child_process";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { join } from "node:path";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { createSessionClient, memoryTokens } from "rpc-session/client";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { postgresMissing, startPostgres } from "../servers/postgres.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { createSchema } from "../stores/postgres-fixture.ts";
import { slack } from "./servers.ts";

/** `maxAge` of the source, in milliseconds. */
const maxAge = 2_000;
const serverCount = 3;

/** Roles by user. It can be told to keep the questions about a user waiting. */
async function startProvider() {
  const roles = new Map<string, string>();
  const held = new Map<string, ServerResponse[]>();
  let isHeld: (value?: unknown) => void = () => {};
  const asked: { readonly user: string; readonly session: string }[] = [];
  const answer = (user: string, response: ServerResponse) =>
    response.end(JSON.stringify(roles.get(user) ?? "admin"));
  const url = await listenForTest((request, response) => {
    const [, user = "", session = ""] = (request.url ?? "").split("/");
    asked.push({ user, session });
    const waiting = held.get(user);
    if (waiting === undefined) {
      answer(user, response);
    } else {
      waiting.push(response);
      isHeld();
    }
  });
  return {
    ...{ url, roles, asked },
    /** Resolves when the first question waits. */
    hold(user: string): Promise<unknown> {
      held.set(user, []);
      return new Promise((resolve) => {
        isHeld = resolve;
      });
    },
    waiting: (user: string) => held.get(user)?.length ?? 0,
    release(user: string) {
      const waiting = held.get(user) ?? [];
      held.delete(user);
      for (const response of waiting) {
        answer(user, response);
      }
    },
  };
}

/** Starts the servers. They end with the test. */
async function startServers(kind: string, place: string, provider: string) {
  const program = join(import.meta.dirname, "claims-program.ts");
  const execArgv = ["--conditions=@rpc-session/source"];
  const ports = Array.from({ length: serverCount }, async () => {
    const child = fork(program, [kind, place, provider], { execArgv });
    onTestFinished(async () => {
      const ended = once(child, "exit");
      child.disconnect();
      await ended;
    });
    const [port] = (await once(child, "message")) as [number];
    return `http://127.0.0.1:${port}`;
  });
  return Promise.all(ports);
}

/** Signs a user in, with a client that speaks to all servers. */
async function signIn(servers: readonly string[], user: string) {
  const [first = ""] = servers;
  let server = first;
  const tokens = memoryTokens();
  const session = createSessionClient({
    tokens,
    transport: (parts) =>
      createConnectTransport({
        ...{ baseUrl: first, httpVersion: "1.1" },
        ...parts,
        interceptors: [
          ...(parts.interceptors ?? []),
          (next) => (request) => next({ ...request, url: request.url.replace(first, server) }),
        ],
      }),
  });
  const notes = createClient(NotesService, session.transport);
  await notes.signIn({ user });
  const call = async (method: "addNote" | "listNotes", to: string) => {
    server = to;
    try {
      await notes[method]({});
      return "fine";
    } catch (error) {
      return Code[ConnectError.from(error).code];
    }
  };
  return { session, tokens, call };
}

/** Calls a server with an access token, as somebody does whose client has not heard of a change. */
async function statusOf(server: string, accessToken: string | undefined): Promise<number> {
  const response = await fetch(`${server}/notes.v1.NotesService/AddNote`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${accessToken}` },
    body: "{}",
  });
  return response.status;
}

const stores = [
  { kind: "postgres", missing: postgresMissing, open: openPostgres },
  { kind: "redis", missing: redisMissing, open: openRedis },
] as const;

describe.each(stores)("servers on $kind", ({ kind, missing, open }) => {
  it.skipIf(missing)(
    "sec:A03 feat:L2 feat:L6 refuse a role that was taken away, tell its client, and let no other session wait",
    async () => {
      // 1. Three servers, and four sessions: two of Alice, one of Bob, one of Carol.
      const provider = await startProvider();
      const servers = await startServers(kind, await open(), provider.url);
      const [first = ""] = servers;
      const [alice, phone, bob, carol] = await Promise.all(
        ["alice", "alice-phone", "bob", "carol"].map((user) => signIn(servers, user)),
      );
      if (!alice || !phone || !bob || !carol) {
        throw new Error("a client is missing");
      }
      for (const server of servers) {
        expect(await alice.call("addNote", server)).toBe("fine");
      }
      const oldToken = (await alice.tokens.load())?.accessToken;

      // 2. The role is taken away, and the provider answers no question about Alice any more. Calls are
      // allowed by what was fetched before, so none that begins after its age is over.
      provider.roles.set("alice", "reader");
      const isAsked = provider.hold("alice");
      const takenAway = performance.now();
      const began: number[] = [];
      let refused = Promise.resolve<string | undefined>("fine");
      while (provider.waiting("alice") === 0) {
        began.push(performance.now() - takenAway);
        refused = alice.call("addNote", first);
        await Promise.race([refused, isAsked]);
      }
      for (const allowed of began.slice(0, -1)) {
        expect(allowed).toBeLessThan(maxAge + slack);
      }

      // 3. Her call waits. Calls of all other sessions are answered meanwhile, on each server, also those
      // whose role is fetched again, and her own calls that need no role.
      for (let round = 0; round < 10; round++) {
        for (const server of servers) {
          expect(await bob.call("addNote", server)).toBe("fine");
          expect(await phone.call("addNote", server)).toBe("fine");
          expect(await carol.call("listNotes", server)).toBe("fine");
          expect(await alice.call("listNotes", server)).toBe("fine");
        }
      }
      expect(provider.asked.filter(({ user }) => user === "carol")).toEqual([]);
      expect(provider.waiting("alice")).toBe(1);

      // 4. It is refused, and so is each call on each server, with the new token and with the old one.
      provider.release("alice");
      expect(await refused).toBe("PermissionDenied");
      expect(alice.session.claims).toEqual({ role: "reader" });
      expect((await alice.tokens.load())?.accessToken).not.toBe(oldToken);
      for (const server of servers) {
        expect(await alice.call("addNote", server)).toBe("PermissionDenied");
        expect(await statusOf(server, oldToken)).toBe(403);
        expect(await alice.call("listNotes", server)).toBe("fine");
      }
      expect(alice.session.state.status).toBe("signedIn");
      expect(bob.session.claims).toEqual({ role: "admin" });
    },
  );
});

async function openPostgres(): Promise<string> {
  const server = await startPostgres();
  onTestFinished(() => server.stop());
  const schema = await createSchema(server);
  onTestFinished(() => schema[Symbol.asyncDispose]());
  return schema.url;
}

async function openRedis(): Promise<string> {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  return redis.socket;
}
