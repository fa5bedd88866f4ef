import type { Spread } from "./stats.ts";

/** The keys of the last line of the output: medians, and ratios of medians of the same rounds. */
export const headlineKeys = [
  "warm_verify_ns",
  "warm_authenticate_ns",
  "warm_vs_jose",
  "warm_vs_fastjwt_cache",
  "cold_vs_raw",
  "cold_vs_raw_rs256",
  "cold_vs_raw_eddsa",
  "cpu_added_http1",
  "cpu_added_http1_json",
  "cpu_added_grpc",
  "cpu_added_strict_http1",
  "cpu_vs_jose_http1",
  "cpu_vs_jose_grpc",
  "revocation_feed_ns",
  "revocation_postgres_us",
  "revocation_redis_us",
  "refresh_per_s_memory",
  "refresh_per_s_sqlite",
  "refresh_per_s_postgres",
  "refresh_per_s_redis",
  "refresh_vs_floor_sqlite",
  "refresh_vs_floor_postgres",
  "refresh_vs_floor_redis",
  "refresh_cpu_vs_signature",
  "statements_per_refresh",
  "refresh_p50_vs_write",
  "sign_in_per_s_postgres",
  "bytes_per_session",
  "bytes_per_session_1e6",
  "longest_pause_ms_1e6",
  "bytes_per_stream",
  "growth_bytes_per_hour",
  "first_call_ms",
  "install_kb",
  "client_bundle_kb",
  "client_gzip_bytes",
  "react_gzip_bytes",
  "slope_sessions_ns",
  "slope_revocations_ns",
  "slope_methods_ns",
] as const;

export type HeadlineKey = (typeof headlineKeys)[number];
/** A value is null if it could not be measured; a note gives the reason. */
export type Headline = Record<HeadlineKey, number | null>;

/** A cell of a table: a measurement, words, or null if the figure is missing. */
export type Cell = Spread | number | string | null;

/** One table of the results. */
export interface Table {
  readonly title: string;
  /** The headings of the columns after the first, with units. */
  readonly columns: readonly string[];
  readonly rows: readonly { readonly name: string; readonly cells: readonly Cell[] }[];
}

/** The results of one section. */
export interface Findings {
  readonly tables: readonly Table[];
  readonly headline: Partial<Headline>;
  /** Remarks for the reader: bottlenecks, and reasons for missing figures. */
  readonly notes: readonly string[];
}

/** Returns every key in order; the value is null if no section found a finite number. */
export function headlineOf(found: readonly Partial<Headline>[]): Headline {
  const all: Partial<Headline> = Object.assign({}, ...found);
  const value = (key: HeadlineKey): number | null => {
    const number = all[key];
    return typeof number === "number" && Number.isFinite(number) ? significant(number) : null;
  };
  return Object.fromEntries(headlineKeys.map((key) => [key, value(key)])) as Headline;
}

/** Returns a table in Markdown. */
export function markdown({ title, columns, rows }: Table): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [
    line([title, ...columns]),
    line(["---", ...columns.map(() => "--:")]),
    ...rows.map(({ name, cells }) => line([name, ...cells.map(written)])),
  ].join("\n");
}

/**
 * Returns a text with the part between two markers replaced.
 *
 * @throws Error if a marker is missing
 */
export function between(text: string, name: string, part: string): string {
  const [begin, end] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from === -1 || to < from) {
    throw new Error(`the text has no markers ${begin} and ${end}`);
  }
  return `${text.slice(0, from + begin.length)}\n${part}\n${text.slice(to)}`;
}

/** Returns the figure, with its quartiles if they are known. */
export function written(cell: Cell): string {
  if (cell === null) {
    return "–";
  }
  if (typeof cell === "string") {
    return cell;
  }
  if (typeof cell === "number") {
    return short(cell);
  }
  return `${short(cell.median)} (${short(cell.q1)}–${short(cell.q3)})`;
}

function short(value: number): string {
  return significant(value).toLocaleString("en-US", { maximumFractionDigits: 4 });
}

/** Rounds to three significant digits, and to integers above a thousand. */
function significant(value: number): number {
  return Math.abs(value) >= 1000 ? Math.round(value) : Number(value.toPrecision(3));
}
