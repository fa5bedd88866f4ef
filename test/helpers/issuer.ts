import { connectNodeAdapter } from "@connectrpc/connect-node";
import { jwksFallback } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { listenForTest } from "./listen.ts";
import { notesApp } from "./notes.ts";
import type { TestSessionsOptions } from "./server.ts";

/** A service on a local port that creates sessions and publishes its keys. */
export interface Issuer {
  readonly sessions: TestSessions;
  readonly url: string;
  readonly jwks: string;
  /** How often the keys were requested. */
  readonly asked: { count: number };
  /** The response to requests for keys; a status of undefined serves the keys. */
  readonly instead: { status: number | undefined; headers?: Record<string, string> };
}

/** Starts an issuer and stops it when the test is over. */
export async function startIssuer(options: TestSessionsOptions = {}): Promise<Issuer> {
  const sessions = testSessions({
    store: memoryStore(),
    public: [NotesService.method.signIn],
    ...options,
  });
  const asked = { count: 0 };
  const instead: Issuer["instead"] = { status: undefined };
  const publish = jwksFallback(sessions);
  const url = await listenForTest(
    connectNodeAdapter({
      ...sessions.protect({ routes: notesApp(sessions).routes }),
      fallback(request, response) {
        asked.count++;
        if (instead.status === undefined) {
          publish(request, response);
        } else {
          response.writeHead(instead.status, instead.headers);
          response.end();
        }
      },
    }),
  );
  return { sessions, url, jwks: `${url}/.well-known/jwks.json`, asked, instead };
}
