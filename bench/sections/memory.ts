import { join } from "node:path";
import type { CachedSessions } from "../children/cached-sessions.ts";
import type { OpenStreams } from "../children/open-streams.ts";
import type { SimulatedHours } from "../children/simulated-hours.ts";
import { askChild } from "../children/talk.ts";
import type { BenchOptions } from "../lib/options.ts";
import type { Findings } from "../lib/report.ts";

const children = join(import.meta.dirname, "../children");

/** Measures the memory that sessions and streams take, and the growth over time. */
export async function memorySection({ quick }: BenchOptions): Promise<Findings> {
  const cached = (count: number) =>
    askChild<CachedSessions>(join(children, "cached-sessions.ts"), [String(count)], {
      flags: ["--max-old-space-size=8192"],
    });
  const few = await cached(100_000);
  const many = await cached(1_000_000);
  const streams = (id: string) =>
    askChild<OpenStreams>(join(children, "open-streams.ts"), [id, quick ? "1000" : "5000"]);
  const bare = await streams("bare");
  const ours = await streams("feed");
  const hours = await askChild<SimulatedHours>(join(children, "simulated-hours.ts"), [
    quick ? "200" : "1000",
  ]);
  const row = (name: string, found: CachedSessions) => ({
    name,
    cells: [
      found.bytesPerSession,
      found.tokenLength,
      found.heapMegabytes,
      found.longestGc,
      found.longestCall,
    ],
  });
  return {
    tables: [
      {
        title: "cached sessions",
        columns: [
          "bytes each, without the token",
          "characters of a token",
          "heap, MB",
          "longest GC, ms",
          "longest call, ms",
        ],
        rows: [row("100,000", few), row("1,000,000", many)],
      },
      {
        title: "memory",
        columns: ["bytes"],
        rows: [
          { name: "an open gRPC stream, both ends, no auth", cells: [bare.bytesPerStream] },
          { name: "the same with a session", cells: [ours.bytesPerStream] },
          { name: "growth in a simulated hour", cells: [growthPerHour(hours)] },
        ],
      },
    ],
    headline: {
      bytes_per_session: few.bytesPerSession,
      bytes_per_session_1e6: many.bytesPerSession,
      longest_pause_ms_1e6: Math.max(many.longestGc, many.longestCall),
      bytes_per_stream: ours.bytesPerStream - bare.bytesPerStream,
      growth_bytes_per_hour: growthPerHour(hours),
    },
    notes: [
      "cached sessions: signatures were accepted unchecked, because creating a million takes minutes; parsing, claims and the cache are real.",
      `simulated hour: the second of two hours with ${hours.calls} calls and ${hours.refreshes} refreshes of a constant number of sessions; least squares over samples every five minutes.`,
    ],
  };
}

function growthPerHour({ samples }: SimulatedHours): number {
  const meanMinute = samples.reduce((sum, { minute }) => sum + minute, 0) / samples.length;
  const meanBytes = samples.reduce((sum, { bytes }) => sum + bytes, 0) / samples.length;
  const rise = samples.reduce(
    (sum, { minute, bytes }) => sum + (minute - meanMinute) * (bytes - meanBytes),
    0,
  );
  const spread = samples.reduce((sum, { minute }) => sum + (minute - meanMinute) ** 2, 0);
  return (rise / spread) * 60;
}
