import type { BoundThieves } from "./bound.ts";
import type { History } from "./history.ts";
import type { Random } from "./random.ts";
import type { Servers } from "./servers.ts";

/** The state that all clients of a run share. */
export interface World {
  readonly history: History;
  readonly servers: Servers;
  readonly thieves: BoundThieves;
  /** When clients stop, on the clock of the history. */
  readonly until: number;
  /** The id of the secret that is about to be removed; clients with its tokens sign out. */
  retired: string | undefined;
}

/** Returns a random server, preferably one that is up. */
export function someServer({ servers }: World, random: Random): number {
  const all = Array.from({ length: servers.count }, (_, index) => index);
  const up = all.filter((server) => servers.isUp(server));
  return random.pick(up.length > 0 && random.chance(0.95) ? up : all);
}

export function isOver({ history, until }: World): boolean {
  return history.now() >= until;
}
