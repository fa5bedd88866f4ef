import type { DescMethod } from "@bufbuild/protobuf";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { systemClock } from "../../src/base/clock.ts";
import { KnownChanges } from "../../src/engine/revocation/known.ts";
import { createVerifiedCache } from "../../src/jwt/verified-cache.ts";
import { Policies } from "../../src/server/policy/policy.ts";
import type { BenchOptions } from "../lib/options.ts";
import type { Cell, Findings } from "../lib/report.ts";
import { type Contestant, cpuRounds } from "../lib/rounds.ts";
import { slopePerDecade, spreadOf } from "../lib/stats.ts";
import { claimsOf, makeKey } from "../lib/tokens.ts";

const ops = 100_000;
const counts = [10, 100, 1_000, 10_000, 100_000, 1_000_000];

/** The indexes that a call looks up, with their smallest and largest measured sizes. */
const causes = {
  "cached sessions": { from: 1_000, to: 1_000_000, make: cachedSessions },
  "revocations in the feed": { from: 10, to: 1_000_000, make: revocationsInFeed },
  methods: { from: 10, to: 1_000, make: methodsWithPolicies },
} as const;

/** Measures whether a call costs more as the indexes grow. */
export async function growthSection({ quick }: BenchOptions): Promise<Findings> {
  const rows: { name: string; cells: Cell[] }[] = [];
  const slopes: number[] = [];
  for (const [name, { from, to, make }] of Object.entries(causes)) {
    const sizes = counts.filter((count) => count >= from && count <= to);
    const contestants = [];
    for (const size of sizes) {
      contestants.push({ ...(await make(size)), name: String(size) });
    }
    const found = await cpuRounds(contestants, quick ? 5 : 11);
    const medianOf = (size: number): number => spreadOf(found.get(String(size)) ?? []).median;
    const slope = slopePerDecade(sizes.map((n) => ({ n, value: medianOf(n) })));
    slopes.push(slope);
    const cells = counts.map((size) => (sizes.includes(size) ? medianOf(size) : null));
    rows.push({ name, cells: [...cells, slope] });
  }
  return {
    tables: [
      {
        title: "ns CPU for one lookup among",
        columns: [...counts.map((count) => count.toLocaleString("en-US")), "per tenfold growth"],
        rows,
      },
    ],
    headline: {
      slope_sessions_ns: slopes[0] ?? null,
      slope_revocations_ns: slopes[1] ?? null,
      slope_methods_ns: slopes[2] ?? null,
    },
    notes: [
      "growth: lookups visit 1,000 entries spread over the whole index. The remaining rise comes from memory outside of the processor's caches.",
    ],
  };
}

/** Returns up to a thousand positions, spread over the whole index. */
function places(size: number): number[] {
  const asked = Math.min(size, 1_000);
  return Array.from({ length: asked }, (_, i) => Math.floor((i * size) / asked));
}

async function cachedSessions(size: number): Promise<Omit<Contestant, "name">> {
  const { verification: key } = await makeKey("ES256");
  const limits = { entries: 2 * size, bytes: Number.MAX_SAFE_INTEGER };
  const cache = createVerifiedCache(limits, systemClock);
  const tokenOf = (i: number): string =>
    `${"x".repeat(500)}.${Buffer.from(`signature of ${i}`.padEnd(64)).reverse().toString("base64url")}${String(i).padStart(12, "0")}`;
  for (let i = 0; i < size; i++) {
    cache?.add(tokenOf(i), { claims: claimsOf(i), key, beginsAt: 0 });
  }
  const asked = places(size).map(tokenOf);
  return lookUps(asked, (token) => cache?.get(token) !== undefined);
}

async function revocationsInFeed(size: number): Promise<Omit<Contestant, "name">> {
  const revocations = new KnownChanges({ clock: systemClock, window: 3_600_000 });
  const idOf = (i: number): string => `session-id-${String(i).padStart(10, "0")}x`;
  for (let i = 0; i < size; i++) {
    revocations.apply({ kind: "revoked", session: idOf(i), endedBy: "revoked", at: Date.now() });
  }
  const asked = places(size).map((i) => idOf(i + size));
  return lookUps(asked, (id) => revocations.get(id) === undefined && !revocations.isOverfull);
}

async function methodsWithPolicies(size: number): Promise<Omit<Contestant, "name">> {
  const policies = new Policies({ public: [], methods: {} });
  const methodOf = (i: number): DescMethod => ({
    ...NotesService.method.listNotes,
    name: `Method${i}`,
  });
  const methods = Array.from({ length: size }, (_, i) => methodOf(i));
  policies.assertServed(methods);
  const asked = places(size).flatMap((i) => methods[i] ?? []);
  return lookUps(asked, (method) => policies.of(method).auth === "required");
}

function lookUps<T>(asked: readonly T[], look: (one: T) => boolean): Omit<Contestant, "name"> {
  const all = Array.from({ length: ops }, (_, i) => asked[(i * 7_919) % asked.length]) as T[];
  return {
    ops,
    batch() {
      for (const one of all) {
        if (!look(one)) {
          throw new Error("a lookup returned an unexpected result");
        }
      }
    },
  };
}
