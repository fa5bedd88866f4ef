import type { ModelFailure } from "./run.ts";
import type { Tally } from "./tally.ts";

/** Describes a run. */
export function summary(tally: Tally, tookMs: number): string {
  const { steps, refreshes, recovered, lost, crashes, outages, revokes, rollbacks } = tally;
  const rate = Math.round(steps / (tookMs / 1_000));
  const never = tally.endedOtherwise + tally.unfound;
  const share = tally.thieves === 0 ? 0 : Math.round((never / tally.thieves) * 1_000) / 10;
  return [
    `${steps} steps in ${Math.round(tookMs / 100) / 10} s, ${rate} steps/s`,
    `${refreshes} refreshes, ${recovered} of them recovered after a lost response; ${lost} messages lost`,
    `${crashes} crashes, ${outages} store outages, ${revokes} revocations, ${rollbacks} restores of an older store`,
    `${tally.forged} tokens made with a leaked secret, a copy of the store or both`,
    `${tally.boundRefreshes} refreshes of bound sessions, ${tally.newNonces} sent again with a new nonce; ${tally.boundTries} attempts of thieves without the key`,
    `${tally.orphans} uses of access tokens whose signing key had already been removed`,
    `${tally.thieves} thieves, ${tally.foundAfter.length} detected: half of them within ${tally.quantile(0.5)} access token lifetimes of their first refresh,`,
    `  p90 ${tally.quantile(0.9)}, p99 ${tally.quantile(0.99)}, maximum ${tally.quantile(1)}`,
    `  not detected, because they took turns with the owner until the session or the schedule ended: ${share} % (${tally.endedOtherwise} + ${tally.unfound})`,
  ].join("\n");
}

/** The options of a run that a replay must repeat. */
export interface Described {
  readonly store: string;
  readonly without: string | undefined;
  readonly anyCrash: boolean;
  readonly mixedFormats: boolean;
}

/** Describes a violation, its schedule and the command that replays it. */
export function describeFailure(
  { violation, seed, path, schedule }: ModelFailure,
  { store, without, anyCrash, mixedFormats }: Described,
): string {
  const removed = without === undefined ? "" : ` --without ${without}`;
  const rule = `${removed}${anyCrash ? " --any-crash" : ""}${mixedFormats ? " --mixed-formats" : ""}`;
  return [
    violation.message,
    `  thief: ${schedule.thief}, clocks ahead by ${schedule.ahead.join(" and ")} ms`,
    ...schedule.actions.map((action) => `  ${JSON.stringify(action)}`),
    `replay: npm run model -- --seed ${seed} --path ${path} --store ${store}${rule}`,
  ].join("\n");
}

/** Returns the last line of the output, which is JSON. */
export function lastLine(tally: Tally, seed: number): string {
  const { steps, refreshes, lost, violations } = tally;
  const lives = { p50: tally.quantile(0.5), p90: tally.quantile(0.9), p99: tally.quantile(0.99) };
  return JSON.stringify({ steps, refreshes, lost, ...violations, seed, thief_access_lives: lives });
}
