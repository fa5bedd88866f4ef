import { Code, ConnectError } from "@connectrpc/connect";
import type { Server } from "./fleet.ts";
import type { RunSize } from "./options.ts";

/** What one revocation took, in milliseconds after its acknowledgement; at least 0. */
export interface Sample {
  /** Until the first refusal, for each other process. */
  readonly refusals: readonly number[];
  /** Until its stream had ended. */
  readonly stream: number;
}

/** Everything that was measured. */
export interface Measured {
  readonly samples: readonly Sample[];
  /** Calls that were verified, accepted or refused. */
  readonly calls: number;
  /** Reads of the store meanwhile. */
  readonly reads: number;
}

/** Milliseconds after which a server that accepts is a failure, far past the promised bound. */
const giveUp = 30_000;
/** Between two calls of the same session to the same server. */
const pause = 2;

interface Subject {
  readonly headers: { readonly authorization: string };
  /** When its stream had ended, by `performance.now()`. */
  readonly streamEnded: Promise<number>;
}

/** Opens the streams, revokes sessions, and watches every server notice. */
export async function measure(servers: readonly Server[], size: RunSize): Promise<Measured> {
  const share = Math.ceil(size.sessions / servers.length);
  const issued = await Promise.all(servers.map((server) => server.issue(share)));
  const tokens = issued.flat().slice(0, size.streams);
  const subjects: Subject[] = [];
  for (let at = 0; at < tokens.length; at += 50) {
    const some = tokens.slice(at, at + 50);
    const opening = some.map((token, i) => open(servers[streamServer(at + i, size)], token));
    subjects.push(...(await Promise.all(opening)));
  }
  const readsBefore = await readsOf(servers);
  const counter = { calls: 0 };
  const samples: Sample[] = [];
  const queue = subjects.slice(0, size.revocations).entries();
  const work = async (): Promise<void> => {
    for (const [i, subject] of queue) {
      samples.push(await revoke(servers, { subject, by: revokingServer(i, size), counter }));
    }
  };
  await Promise.all(Array.from({ length: size.atATime }, work));
  const reads = (await readsOf(servers)) - readsBefore;
  return { samples, calls: counter.calls, reads };
}

/** One server after the other: what a server revokes itself wakes it, and would tell it more. */
function revokingServer(i: number, { processes, revocations }: RunSize): number {
  return Math.floor((i * processes) / revocations) % processes;
}

/** Never the one that revokes: that one need not be told. */
function streamServer(i: number, size: RunSize): number {
  const { processes } = size;
  return (revokingServer(i, size) + 1 + (i % (processes - 1))) % processes;
}

/** Opens a stream, and resolves when it stands. */
async function open(server: Server | undefined, token: string): Promise<Subject> {
  if (server === undefined) {
    throw new Error("there are no servers");
  }
  const headers = { authorization: `Bearer ${token}` };
  const messages = server.notes.watchNotes({}, { headers })[Symbol.asyncIterator]();
  await messages.next();
  const streamEnded = messages.next().then(
    () => Promise.reject(new Error("a stream ended without an error")),
    (error: unknown) => {
      assertRefused(error);
      return performance.now();
    },
  );
  // Those that are not revoked end with their servers.
  streamEnded.catch(() => {});
  return { headers, streamEnded };
}

interface Revocation {
  readonly subject: Subject;
  /** The server that is asked. */
  readonly by: number;
  readonly counter: { calls: number };
}

async function revoke(
  servers: readonly Server[],
  { subject, by, counter }: Revocation,
): Promise<Sample> {
  const { headers } = subject;
  const watches = servers
    .filter((_, i) => i !== by)
    .map((server) => watchRefusal(server, headers, counter));
  await Promise.all(watches.map(({ accepted }) => accepted));
  await servers[by]?.session.signOut({}, { headers });
  const acknowledged = performance.now();
  const after = (moment: number): number => Math.max(0, moment - acknowledged);
  const refusals = await Promise.all(watches.map(({ refused }) => refused));
  return {
    refusals: refusals.map(after),
    stream: after(await within(giveUp, subject.streamEnded)),
  };
}

/** Calls until it is refused. */
function watchRefusal(
  { notes }: Server,
  headers: Subject["headers"],
  counter: { calls: number },
): { readonly accepted: Promise<void>; readonly refused: Promise<number> } {
  const { promise: accepted, resolve, reject } = Promise.withResolvers<void>();
  const call = async (): Promise<number> => {
    const until = performance.now() + giveUp;
    while (performance.now() < until) {
      counter.calls += 1;
      try {
        await notes.listNotes({}, { headers });
        resolve();
      } catch (error) {
        reject(error);
        assertRefused(error);
        return performance.now();
      }
      await new Promise((done) => setTimeout(done, pause));
    }
    throw new Error(`a revoked session was still accepted after ${giveUp} ms`);
  };
  return { accepted, refused: call() };
}

function assertRefused(error: unknown): void {
  if (ConnectError.from(error).code !== Code.Unauthenticated) {
    throw error;
  }
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`a stream was still open after ${ms} ms`)), ms);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

async function readsOf(servers: readonly Server[]): Promise<number> {
  const all = await Promise.all(servers.map((server) => server.countReads()));
  return all.reduce((sum, reads) => sum + reads, 0);
}
