import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  createContextValues,
  createHandlerContext,
  type HandlerContext,
} from "@connectrpc/connect";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { cel } from "../../src/cel/index.ts";
import { createSessions, type MethodPolicyOptions } from "../../src/index.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import type { Contestant } from "../lib/rounds.ts";
import { issuer } from "../lib/tokens.ts";

const sessionCount = 200;
const ops = 5_000;

/**
 * A complete warm authentication: the request gate of a call whose access token is in the cache. It
 * reads the tokens, applies the policy, verifies, checks revocations and attaches the session.
 */
export async function warmCallContestant(
  name: string,
  policy: MethodPolicyOptions = {},
): Promise<Contestant> {
  const sessions = createSessions({
    ...{ issuer, store: memoryStore(), conditions: cel() },
    methods: { "notes.v1.NotesService/ListNotes": policy },
  });
  const claims = { role: "editor", groups: ["staff"], level: 3 };
  const issued = await Promise.all(
    Array.from({ length: sessionCount }, (_, i) => sessions.issue({ userId: `user-${i}`, claims })),
  );
  const tokens = issued.map(({ tokens: { accessToken } }) => accessToken);
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as (options: { readonly type: "minor" }) => void;
  let contexts: HandlerContext[] = [];
  return {
    name,
    ops,
    prepare() {
      contexts = Array.from({ length: ops }, (_, i) => contextOf(tokens[i % sessionCount] ?? ""));
      // Else some batches pay for moving all these contexts out of the young generation.
      gc({ type: "minor" });
    },
    async batch() {
      for (const context of contexts) {
        await sessions.requestGate(context);
      }
    },
  };
}

/** The same call under policies that look at its claims. */
export const claimPolicies: Readonly<Record<string, MethodPolicyOptions>> = {
  "the same, with three rules on claims": {
    claims: {
      role: ["admin", "editor"],
      groups: { allOf: ["staff"], noneOf: ["out"] },
      level: { gte: 3 },
    },
  },
  "the same, with a condition in CEL": {
    allow: "session.claims.role == 'admin' || session.claims.level >= 3",
  },
  "the same, with this condition in code": {
    validate: ({ role, level }) =>
      role === "admin" || Number(level) >= 3
        ? undefined
        : { claim: "level", requirement: "at least 3" },
  },
};

function contextOf(token: string): HandlerContext {
  return createHandlerContext({
    service: NotesService,
    method: NotesService.method.listNotes,
    protocolName: "connect",
    requestMethod: "POST",
    url: `${issuer}/notes.v1.NotesService/ListNotes`,
    requestHeader: new Headers({ authorization: `Bearer ${token}` }),
    contextValues: createContextValues(),
  });
}
