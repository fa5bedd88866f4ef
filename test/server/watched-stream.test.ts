import { expect, it } from "vitest";
import type { SessionError } from "../../src/base/errors.ts";
import type { VerifiedSession } from "../../src/engine/session.ts";
import type { EndedEntry } from "../../src/engine/store.ts";
import { WatchedStream, type WatchedStreamOptions } from "../../src/server/streams/watched.ts";
import { settled } from "../helpers/pass.ts";

it("an answer of the store that arrives after a handler has ended its session leaves the handler its last message", async () => {
  let now = 0;
  let tell: (entry: EndedEntry) => void = () => {};
  const answer = Promise.withResolvers<object>();
  const ends: SessionError[] = [];
  const engine = {
    revocations: {
      unsure: false,
      storeNow: () => now,
      isClosed: () => false,
      watch: (_id: string, listener: typeof tell) => {
        tell = listener;
        return () => {};
      },
    },
    loadUnsure: () => answer.promise,
  } as unknown as WatchedStreamOptions["engine"];
  const session = { id: "s1", accessExpiresAt: new Date(900_000) } as VerifiedSession;
  const stream = new WatchedStream(
    {
      engine,
      outlivesToken: true,
      onRevoke: true,
      isLogLost: () => false,
      monotonic: () => now,
      end: (error) => ends.push(error),
      closed: () => {},
    },
    session,
  );

  // 1. Shortly before the end, the stream asks the store, which is slow.
  now = 899_999;
  stream.look();

  // 2. Meanwhile the handler signs its user out.
  await stream.ownEnd(async () =>
    tell({ kind: "revoked", session: "s1", endedBy: "signOut", at: now }),
  );
  answer.resolve({ record: undefined, now });
  await settled();
  expect(ends).toEqual([]);

  // 3. After its last message the stream ends for the reason of the handler.
  stream.sent();
  stream.look();
  expect(ends.map(({ reason }) => reason)).toEqual(["SESSION_REVOKED"]);
});
