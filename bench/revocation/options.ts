import { parseArgs } from "node:util";

/** How much a run does. */
export interface RunSize {
  readonly processes: number;
  readonly sessions: number;
  /** Open streams, each of a session of its own. */
  readonly streams: number;
  /** Sessions with a stream that are revoked, one by one, so many at a time. */
  readonly revocations: number;
  readonly atATime: number;
}

export type StoreKind = "postgres" | "redis";

export const stores: readonly StoreKind[] = ["postgres", "redis"];

/** The issuer of every server; nothing of this name is ever looked up. */
export const issuer = "https://revocation.example";

const full: RunSize = {
  ...{ processes: 4, sessions: 10_000, streams: 1_000, revocations: 500, atATime: 4 },
};
/** For a look: done within a minute. */
const quick: RunSize = { ...full, sessions: 1_000, streams: 200, revocations: 64 };

/** @throws Error when the arguments are wrong */
export function readArguments(args: readonly string[]): RunSize {
  const { values } = parseArgs({ args: [...args], options: { quick: { type: "boolean" } } });
  return values.quick === true ? quick : full;
}
