import { readLifetimes } from "../../src/engine/lifetimes.ts";
import type { RefreshWrite, SessionRecord, Stored } from "../../src/engine/store.ts";
import type { WorldTime } from "./clock.ts";
import type { ViolationKind } from "./tally.ts";

/** The times of `design.md` 4, which every rule is held against. */
export const times = readLifetimes({}, {});

/** What is known of a session from outside: from what was written, used and answered, and when. */
export interface SessionLedger {
  readonly id: string;
  generation: number;
  /** When the present generation was minted, and when it was first used once it was settled. */
  mintedAt: number;
  confirmedAt: number | null;
  /** By generation: when it was minted for the first time. */
  readonly firstMinted: Map<number, number>;
  /** By generation: its refresh token. */
  readonly tokens: Map<number, string>;
  idleEnd: number;
  readonly absoluteEnd: number;
  /** Whether somebody other than its owner has its tokens; then it may end as theft. */
  stolen: boolean;
  /** How it was ended, and whether the one who ended it was told so. */
  endedBy: string | undefined;
  acknowledged: boolean;
  thefts: number;
}

/** Keeps the ledgers, and finds what a store must never have written. */
export class Ledgers {
  readonly #byId = new Map<string, SessionLedger>();
  readonly #time: WorldTime;
  readonly #violate: (kind: ViolationKind, message: string) => void;
  /** Called when a session was ended. */
  onEnd: (ledger: SessionLedger) => void = () => {};

  constructor(time: WorldTime, violate: (kind: ViolationKind, message: string) => void) {
    this.#time = time;
    this.#violate = violate;
  }

  open({ id, idleExpiresAt, expiresAt }: SessionRecord, token: string): SessionLedger {
    const { now } = this.#time;
    const ledger: SessionLedger = {
      id,
      generation: 0,
      mintedAt: now,
      confirmedAt: null,
      firstMinted: new Map([[0, now]]),
      tokens: new Map([[0, token]]),
      idleEnd: idleExpiresAt,
      absoluteEnd: expiresAt,
      stolen: false,
      endedBy: undefined,
      acknowledged: false,
      thefts: 0,
    };
    this.#byId.set(id, ledger);
    return ledger;
  }

  get(id: string): SessionLedger | undefined {
    return this.#byId.get(id);
  }

  /** A refresh was committed. */
  wrote(write: RefreshWrite, { record }: Stored<SessionRecord | undefined>): void {
    const ledger = this.#byId.get(write.id);
    if (record === undefined || ledger === undefined) {
      return;
    }
    const { now } = this.#time;
    if (ledger.endedBy !== undefined) {
      this.#violate("resurrected", `a refresh was written after ${ledger.endedBy}`);
    }
    if (now >= Math.min(ledger.idleEnd, ledger.absoluteEnd)) {
      this.#violate("out_of_bounds", "a refresh was written after the session's end");
    }
    ledger.idleEnd = Math.min(now + times.idle, ledger.absoluteEnd);
    if (write.kind === "keep") {
      if (write.settle !== null) {
        this.confirmed(write.id, write.generation);
      }
      return;
    }
    const next = write.kind === "advance" ? ledger.generation + 1 : write.to;
    const branched = write.kind === "advance" && write.generation !== ledger.generation;
    if (branched || record.generation !== next) {
      const from = `${write.generation}, now ${ledger.generation}`;
      this.#violate("forks", `generation ${record.generation} was made from ${from}`);
    }
    this.#move(ledger, record.generation);
  }

  /** A use of a generation was told to the store. */
  confirmed(id: string, generation: number): void {
    const ledger = this.#byId.get(id);
    const age = this.#time.now - (ledger?.mintedAt ?? 0);
    if (ledger?.generation === generation && age >= times.settle) {
      ledger.confirmedAt ??= this.#time.now;
    }
  }

  /** An end was committed. */
  ended(id: string, endedBy: string): void {
    const ledger = this.#byId.get(id);
    if (ledger !== undefined && ledger.endedBy === undefined) {
      ledger.endedBy = endedBy;
      this.onEnd(ledger);
    }
  }

  /** The store came back with an older generation. */
  wentBack(ledger: SessionLedger): void {
    ledger.idleEnd = Math.min(this.#time.now + times.idle, ledger.absoluteEnd);
    this.#move(ledger, ledger.generation - 1);
  }

  #move(ledger: SessionLedger, generation: number): void {
    const { now } = this.#time;
    ledger.generation = generation;
    ledger.mintedAt = now;
    ledger.confirmedAt = null;
    if (!ledger.firstMinted.has(generation)) {
      ledger.firstMinted.set(generation, now);
    }
  }
}

/** Equal refreshes on one server share an answer for this long, so a verdict may come as much later. */
const shared = 1_000;

/** Whether whoever presents this generation now must be told that it is theft. */
export function mustBeTheft(ledger: SessionLedger, presented: number, now: number): boolean {
  const { generation, confirmedAt } = ledger;
  return (
    presented < generation - 1 ||
    (presented === generation - 1 &&
      confirmedAt !== null &&
      now - confirmedAt > times.overlap + shared)
  );
}

/** Whether the session may be told to have expired, which it may within its last second. */
export function mayBeExpired({ idleEnd, absoluteEnd }: SessionLedger, now: number): boolean {
  return now >= Math.min(idleEnd, absoluteEnd) - 1_000;
}
