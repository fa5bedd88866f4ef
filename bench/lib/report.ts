import type { Spread } from "./stats.ts";

/** What the last line of the output holds; medians, and ratios of medians of the same rounds. */
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
  "sign_in_per_s_postgres",
  "bytes_per_session",
  "bytes_per_session_1e6",
  "longest_pause_ms_1e6",
  "bytes_per_stream",
  "growth_bytes_per_hour",
  "first_call_ms",
  "install_kb",
  "client_bundle_kb",
  "slope_sessions_ns",
  "slope_revocations_ns",
  "slope_methods_ns",
] as const;

export type HeadlineKey = (typeof headlineKeys)[number];
/** Null where it could not be measured here; a note says why. */
export type Headline = Record<HeadlineKey, number | null>;

/** A figure in a table: measured, said in words, or missing. */
export type Cell = Spread | number | string | null;

/** One table of the results. */
export interface Table {
  readonly title: string;
  /** What stands in the columns after the first, with its unit. */
  readonly columns: readonly string[];
  readonly rows: readonly { readonly name: string; readonly cells: readonly Cell[] }[];
}

/** What one section found. */
export interface Findings {
  readonly tables: readonly Table[];
  readonly headline: Partial<Headline>;
  /** What the reader must know: bottlenecks, and why a figure is missing. */
  readonly notes: readonly string[];
}

/** Every key, in order; null for what no section found, as for what is no number. */
export function headlineOf(found: readonly Partial<Headline>[]): Headline {
  const all: Partial<Headline> = Object.assign({}, ...found);
  const value = (key: HeadlineKey): number | null => {
    const number = all[key];
    return typeof number === "number" && Number.isFinite(number) ? significant(number) : null;
  };
  return Object.fromEntries(headlineKeys.map((key) => [key, value(key)])) as Headline;
}

/** A table in Markdown. */
export function markdown({ title, columns, rows }: Table): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [
    line([title, ...columns]),
    line(["---", ...columns.map(() => "--:")]),
    ...rows.map(({ name, cells }) => line([name, ...cells.map(written)])),
  ].join("\n");
}

/** A text with the part between two markers replaced. @throws Error without them */
export function between(text: string, name: string, part: string): string {
  const [begin, end] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from === -1 || to < from) {
    throw new Error(`there are no markers ${begin} and ${end}`);
  }
  return `${text.slice(0, from + begin.length)}\n${part}\n${text.slice(to)}`;
}

/** The figure, and the quartiles where they are known. */
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

/** Three digits that mean something; whole above a thousand. */
function significant(value: number): number {
  return Math.abs(value) >= 1000 ? Math.round(value) : Number(value.toPrecision(3));
}
