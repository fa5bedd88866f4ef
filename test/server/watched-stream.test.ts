import { expect, it, onTestFinished, vi } from "vitest";
import type { SessionError } from "../../src/base/errors.ts";
import type { VerifiedSession } from "../../src/engine/session.ts";
import type { EndedEntry } from "../../src/engine/store.ts";
import { WatchedStream, type WatchedStreamOptions } from "../../src/server/streams/watched.ts";
import { settled } from "../helpers/pass.ts";

function watched() {
  const log = { asked: 0, ends: [] as SessionError[], now: 0 };
  let tell: (entry: EndedEntry) => void = () => {};
  let answer = Promise.withResolvers<object>();
  const engine = {
    revocations: {
      unsure: false,
      storeNow: () => log.now,
      isClosed: () => false,
      watch: (_id: string, listener: typeof tell) => {
        tell = listener;
        return () => {};
      },
    },
    loadUnsure: () => {
      log.asked += 1;
      return answer.promise;
    },
  } as unknown as WatchedStreamOptions["engine"];
  const session = { id: "s1", accessExpiresAt: new Date(900_000) } as VerifiedSession;
  const stream = new WatchedStream(
    {
      engine,
      outlivesToken: true,
      onRevoke: true,
      isLogLost: () => false,
      monotonic: () => log.now,
      end: (error) => log.ends.push(error),
      closed: () => {},
    },
    session,
  );
  return {
    ...{ log, stream },
    tell: (entry: EndedEntry) => tell(entry),
    /** Answers the questions so far. */
    answer: async (found: object): Promise<void> => {
      answer.resolve(found);
      answer = Promise.withResolvers();
      await settled();
    },
    at: (now: number): void => {
      log.now = now;
      stream.look();
    },
  };
}

it("an answer of the store that arrives after a handler has ended its session leaves the handler its last message", async () => {
  const { log, stream, tell, answer, at } = watched();
  // 1. Shortly before the end, the stream asks the store, which is slow.
  at(899_999);

  // 2. Meanwhile the handler signs its user out.
  const ended = { kind: "revoked", session: "s1", endedBy: "signOut", at: log.now } as const;
  await stream.ownEnd(async () => tell(ended));
  await answer({ record: undefined, now: log.now });
  expect(log.ends).toEqual([]);

  // 3. After its last message the stream ends for the reason of the handler.
  stream.sent();
  stream.look();
  expect(log.ends.map(({ reason }) => reason)).toEqual(["SESSION_REVOKED"]);
});

it.each([
  ["earliest", 1, 840_000],
  ["latest", 0, 870_000],
])(
  "a stream asks the store within the last minute, 30 s before its end at the latest: %s",
  (_, random, due) => {
    vi.spyOn(Math, "random").mockReturnValue(random);
    onTestFinished(() => void vi.restoreAllMocks());
    const { log, at } = watched();
    at(due - 1);
    expect(log.asked).toBe(0);
    at(due);
    expect(log.asked).toBe(1);
  },
);

it("a stream asks again after 10 s, and not before", async () => {
  const { log, at, answer } = watched();
  at(870_000);
  const record = { revokedAt: null, idleExpiresAt: 900_000, expiresAt: 900_000 };
  await answer({ record, now: log.now });
  at(879_999);
  expect(log.asked).toBe(1);
  at(880_000);
  expect(log.asked).toBe(2);
});

it("an answer of the store about a former session does not end the stream", async () => {
  const { log, stream, answer, at } = watched();
  at(870_000);
  stream.follow({ id: "s2", accessExpiresAt: new Date(1_800_000) } as VerifiedSession);
  await answer({ record: undefined, now: log.now });
  stream.look();
  expect(log.ends).toEqual([]);
});

it("an answer of the store that arrives while a handler ends its session leaves the handler its last message", async () => {
  const { log, stream, tell, answer, at } = watched();
  at(899_999);
  const ended = { kind: "revoked", session: "s1", endedBy: "signOut", at: log.now } as const;
  await stream.ownEnd(async () => {
    await answer({ record: undefined, now: log.now });
    tell(ended);
  });
  expect(log.ends).toEqual([]);
});
