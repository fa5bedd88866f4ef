/** A scenario, and the keys that it adds to the last line. */
export interface Listed {
  /** The file of this folder, without its ending. */
  readonly file: string;
  /** The function that the file exports. */
  readonly name: string;
  /** What the last line promises. A scenario may add further figures. */
  readonly keys: readonly string[];
}

/** The scenarios in the order in which they run. */
export const scenarios: readonly Listed[] = [
  {
    file: "confirmations",
    name: "confirmations",
    keys: ["confirms_per_generation_20_servers", "writes_second_round_1e6"],
  },
  { file: "signouts", name: "signouts", keys: ["signout_push_ratio"] },
  { file: "idle-listeners", name: "idleListeners", keys: ["idle_300_cpu"] },
  { file: "log-reads", name: "logReads", keys: ["log_reads_100x100"] },
  { file: "doubts", name: "doubts", keys: ["doubted_calls_ratio"] },
  { file: "updates", name: "updates", keys: ["hot_ratio"] },
  { file: "start", name: "start", keys: ["start_1e6_s"] },
  { file: "redis-memory", name: "redisMemory", keys: ["redis_bytes_per_session"] },
  { file: "migration", name: "migration", keys: ["migration_s", "migration_failed"] },
];
