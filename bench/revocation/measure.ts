import { Code, ConnectError } from "@connectrpc/connect";
import type { Server } from "./fleet.ts";
import type { RunSize } from "./options.ts";

/** The delays of one revocation, in milliseconds after its acknowledgement; at least 0. */
export interface Sample {
  /** The delay until the first refusal, for each other process. */
  readonly refusals: readonly number[];
  /** The delay until the stream of the session had ended. */
  readonly stream: number;
}

/** The raw results of a run. */
export interface Measured {
  readonly samples: readonly Sample[];
  /** The number of verified calls, accepted or refused. */
  readonly calls: number;
  /** The number of store reads in the same time. */
  readonly reads: number;
}

/** Milliseconds after which a server that still accepts fails the run; far above the promised bound. */
const giveUp = 30_000;
/** Milliseconds between two calls of the same session to the same server. */
const pause = 2;

interface Subject {
  readonly headers: { readonly authorization: string };
  /** Resolves with the time when the stream ended, by `performance.now()`. */
  readonly streamEnded: Promise<number>;
}

/** Opens the streams, revokes sessions and measures when every server reacts. */
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

/** The servers revoke one after another: its own revocation makes a server read the log at once. */
function revokingServer(i: number, { processes, revocations }: RunSize): number {
  return Math.floor((i * processes) / revocations) % processes;
}

/** A stream is never on the server that revokes, which knows without reading the log. */
function streamServer(i: number, size: RunSize): number {
  const { processes } = size;
  return (revokingServer(i, size) + 1 + (i % (processes - 1))) % processes;
}

/** Opens a stream and resolves when its first message has arrived. */
async function open(server: Server | undefined, token: string): Promise<Subject> {
  if (server === undefined) {
    throw new Error("the fleet has no servers");
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
  // Streams of sessions that are not revoked end with their servers.
  streamEnded.catch(() => {});
  return { headers, streamEnded };
}

interface Revocation {
  readonly subject: Subject;
  /** The server that revokes. */
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

/** Repeats a call until it is refused. */
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
