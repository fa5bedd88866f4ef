import { Code, ConnectError } from "@connectrpc/connect";
import { QueryClient, QueryObserver } from "@tanstack/react-query";
import type { SessionState } from "rpc-session/client";
import { bindQueries, retryQuery } from "rpc-session/query";
import { describe, expect, it, onTestFinished } from "vitest";
import { RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { latch, settle } from "../client/helpers/setup.ts";

const unknown: SessionState = { status: "unknown" };
const signedOut: SessionState = { status: "signedOut" };
const userOf = (userId: string, sessionId = userId): SessionState => ({
  status: "signedIn",
  sessionId,
  userId,
});

const memorySession = { state: unknown, subscribe: () => () => {} };

/** A query that is in use, and one that is not, over a session that the test changes. */
async function bound(state: SessionState) {
  const listeners = new Set<(state: SessionState) => void>();
  const session = {
    state,
    subscribe(listener: (state: SessionState) => void) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
  const client = new QueryClient();
  const unbind = bindQueries(session, client);
  let asked = 0;
  let answer = async (): Promise<string> => "data";
  const queryFn = () => {
    asked += 1;
    return answer();
  };
  await client.prefetchQuery({ queryKey: ["unused"], queryFn: () => "old", retry: false });
  const observer = new QueryObserver(client, { queryKey: ["used"], queryFn, retry: false });
  onTestFinished(observer.subscribe(() => {}));
  onTestFinished(() => client.clear());
  await settle();
  return {
    ...{ client, unbind, listeners },
    asked: () => asked,
    answers: (next: () => Promise<string>) => {
      answer = next;
    },
    become: (next: SessionState): void => {
      session.state = next;
      for (const listener of listeners) {
        listener(next);
      }
    },
    data: (key: string) => client.getQueryData([key]),
  };
}

it.each<[string, SessionState, SessionState[], boolean]>([
  ["the user signs out", userOf("alice"), [signedOut], false],
  ["the user signs in", signedOut, [userOf("alice")], false],
  ["another user replaces the user", userOf("alice"), [userOf("bob")], false],
  [
    "the page learns that the user signed out elsewhere",
    userOf("alice"),
    [unknown, signedOut],
    false,
  ],
  ["the page learns of another user", userOf("alice"), [unknown, userOf("bob")], false],
  ["the user's session is replaced", userOf("alice", "s1"), [userOf("alice", "s2")], true],
  ["the page learns who the user is", unknown, [userOf("alice")], true],
  ["the page learns that nobody is signed in", unknown, [signedOut], true],
  [
    "the page asks again, and it is the same user",
    userOf("alice"),
    [unknown, userOf("alice")],
    true,
  ],
])("feat:P18 when %s, cached data is dropped unless it is the same user's", async (...row) => {
  const [, before, changes, isKept] = row;
  const { client, become, data, asked } = await bound(before);
  const slow = latch();
  const mutation = client.getMutationCache().build(client, { mutationFn: () => slow.promise });
  const running = mutation.execute(undefined);
  expect([data("used"), data("unused"), asked()]).toEqual(["data", "old", 1]);

  for (const state of changes) {
    become(state);
  }
  expect([data("used"), data("unused")]).toEqual(isKept ? ["data", "old"] : [undefined, undefined]);
  expect(client.getMutationCache().getAll()).toHaveLength(isKept ? 1 : 0);

  // A query that is in use is fetched again.
  await settle();
  expect([data("used"), asked()]).toEqual(["data", isKept ? 1 : 2]);
  slow.open();
  await running;
});

it("feat:P18 an answer for the former user that arrives later is dropped", async () => {
  const { client, answers, become, data } = await bound(userOf("alice"));
  const slow = latch();
  answers(async () => {
    await slow.promise;
    return "of alice";
  });
  const fetching = client.refetchQueries().catch(() => {});
  answers(async () => "of bob");
  become(userOf("bob"));
  await settle();
  slow.open();
  await fetching;
  await settle();
  expect(data("used")).toBe("of bob");
});

it("the function that bindQueries returns ends the connection", async () => {
  const { unbind, listeners } = await bound(userOf("alice"));
  unbind();
  expect(listeners.size).toBe(0);
});

it.each<[string, () => unknown]>([
  ["no query client", () => bindQueries(memorySession, undefined as never)],
  ["no session", () => bindQueries(undefined as never, new QueryClient())],
  ["both swapped", () => bindQueries(new QueryClient() as never, memorySession as never)],
])("bindQueries with %s says what to pass", (_, bind) => {
  expect(bind).toThrow(TypeError);
  expect(bind).toThrow("bindQueries(session, queryClient)");
});

describe("retryQuery", () => {
  const codes = Object.values(Code).filter((code) => typeof code === "number");

  it("feat:P18 retries no answer of the service except those that may pass", () => {
    // As a transport reads it from a response.
    const answer = (code: Code) => new ConnectError("", code, undefined, [hint()]);
    expect(codes.filter((code) => retryQuery(0, answer(code)))).toEqual([
      ...[Code.DeadlineExceeded, Code.ResourceExhausted, Code.Aborted, Code.Unavailable],
    ]);
  });

  it.each([
    ["a connection that was lost", ConnectError.from(new TypeError("Failed to fetch"))],
    ["an outage", new ConnectError("", Code.Unavailable)],
    ["an error of something else than Connect", new TypeError("Failed to fetch")],
  ])("feat:P18 retries %s three times", (_, error) => {
    expect([0, 1, 2, 3].map((count) => retryQuery(count, error))).toEqual([
      true,
      true,
      true,
      false,
    ]);
  });
});

const hint = () => ({ desc: RefreshHintSchema, value: {} });
