import { parseArgs } from "node:util";

/** The size of a run. */
export interface RunSize {
  readonly processes: number;
  readonly sessions: number;
  /** The number of open streams, each of a session of its own. */
  readonly streams: number;
  /** The number of sessions with a stream that are revoked one by one, `atATime` of them at once. */
  readonly revocations: number;
  readonly atATime: number;
}

export type StoreKind = "postgres" | "redis";

export const stores: readonly StoreKind[] = ["postgres", "redis"];

/** The issuer of every server. The name is never looked up. */
export const issuer = "https://revocation.example";

const full: RunSize = {
  ...{ processes: 4, sessions: 10_000, streams: 1_000, revocations: 500, atATime: 4 },
};
/** A size that takes less than a minute. */
const quick: RunSize = { ...full, sessions: 1_000, streams: 200, revocations: 64 };

/** @throws Error if an argument is unknown */
export function readArguments(args: readonly string[]): RunSize {
  const { values } = parseArgs({ args: [...args], options: { quick: { type: "boolean" } } });
  return values.quick === true ? quick : full;
}
