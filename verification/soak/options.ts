import { parseArgs } from "node:util";

/** The options of a run. */
export interface SoakOptions {
  readonly store: StoreKind;
  readonly seconds: number;
  readonly processes: number;
  readonly seed: number;
  /** An older version that runs beside this one: a commit of this repository. */
  readonly older: string | undefined;
  /** Whether every second server mints refresh tokens of format 1, and the others of format 2. */
  readonly mixedFormats: boolean;
  /** Whether the primary of PostgreSQL dies again and again, and its standby takes over. */
  readonly failover: boolean;
}

export type StoreKind = "sqlite" | "postgres" | "redis";

/**
 * Milliseconds. They are short, so that a run goes through many generations, but keep the
 * proportions that `createSessions` requires: clientTimeout < overlap < access / 2.
 */
export const times = { access: 4_000, overlap: 1_500, settle: 500, clientTimeout: 500 } as const;

/** The issuer of every server. The name is never looked up. */
export const issuer = "https://soak.example";

/** @throws Error if an argument is unknown or out of range */
export function readArguments(args: readonly string[]): SoakOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      store: { type: "string", default: "sqlite" },
      seconds: { type: "string", default: "40" },
      processes: { type: "string", default: "4" },
      seed: { type: "string", default: String(Math.floor(Math.random() * 1_000_000)) },
      older: { type: "string" },
      "mixed-formats": { type: "boolean", default: false },
      failover: { type: "boolean", default: false },
    },
  });
  const { store } = values;
  if (store !== "sqlite" && store !== "postgres" && store !== "redis") {
    throw new Error(`--store must be sqlite, postgres or redis, got ${JSON.stringify(store)}`);
  }
  if (values.failover && store !== "postgres") {
    throw new Error(`--failover needs --store postgres, got --store ${store}`);
  }
  return {
    store,
    seconds: count("seconds", values.seconds, { min: 20, max: 3_600 }),
    processes: count("processes", values.processes, { min: 2, max: 16 }),
    seed: count("seed", values.seed, { min: 0, max: 0xffff_ffff }),
    older: values.older,
    mixedFormats: values["mixed-formats"],
    failover: values.failover,
  };
}

function count(name: string, text: string, { min, max }: { min: number; max: number }): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new Error(`--${name} must be an integer from ${min} to ${max}`);
  }
  return value;
}
