import { readLifetimes } from "../../src/engine/lifetimes.ts";
import type { RefreshWrite, SessionRecord, Stored } from "../../src/engine/store.ts";
import type { WorldTime } from "./clock.ts";
import type { ViolationKind } from "./tally.ts";

/** The default lifetimes, by which every rule is judged. */
export const times = readLifetimes({}, {});

/** An observer's record of a session: its writes, uses and responses, with their times. */
export interface SessionLedger {
  readonly id: string;
  /** The thumbprint of the key that it is bound to; null for none. */
  readonly boundKey: string | null;
  generation: number;
  /** When the refresh token of the current generation was last sent; it settles from then on. */
  sentAt: number;
  /** How long re-sends have prolonged that, in milliseconds. */
  prolonged: number;
  confirmedAt: number | null;
  /** The refresh token of each generation. */
  readonly tokens: Map<number, string>;
  idleEnd: number;
  readonly absoluteEnd: number;
  /** Whether its tokens were copied, so that it may end as theft. */
  stolen: boolean;
  /** How it was ended, and whether the end was acknowledged. */
  endedBy: string | undefined;
  acknowledged: boolean;
  thefts: number;
  /** Whether a generation may have a token of each format, because the store was restored. */
  eitherFormat?: boolean;
}

/** Keeps the ledgers and reports writes that a store must never accept. */
export class Ledgers {
  readonly #byId = new Map<string, SessionLedger>();
  readonly #time: WorldTime;
  readonly #violate: (kind: ViolationKind, message: string) => void;
  /** Called when a session has ended. */
  onEnd: (ledger: SessionLedger) => void = () => {};
  /** Whether the servers mint refresh tokens of different formats. */
  formatsDiffer = false;

  constructor(time: WorldTime, violate: (kind: ViolationKind, message: string) => void) {
    this.#time = time;
    this.#violate = violate;
  }

  open(
    { id, idleExpiresAt, expiresAt }: SessionRecord,
    token: string,
    boundKey: string | null,
  ): SessionLedger {
    const { now } = this.#time;
    const ledger: SessionLedger = {
      id,
      boundKey,
      generation: 0,
      sentAt: now,
      prolonged: 0,
      confirmedAt: null,
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

  /** Records a committed refresh. */
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
        this.confirmed(write.id, write.generation, write.settle);
      }
      return;
    }
    if (write.kind === "resend") {
      resent(ledger, now);
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

  /**
   * Records the confirmation of a generation.
   * @param settle how old it must be; a server that gathered the use asks for more than `times.settle`
   */
  confirmed(id: string, generation: number, settle: number = times.settle): void {
    const ledger = this.#byId.get(id);
    const age = this.#time.now - (ledger?.sentAt ?? 0);
    if (ledger?.generation === generation && age >= Math.max(settle, times.settle)) {
      ledger.confirmedAt ??= this.#time.now;
    }
  }

  /** Records the committed end of a session. */
  ended(id: string, endedBy: string): void {
    const ledger = this.#byId.get(id);
    if (ledger !== undefined && ledger.endedBy === undefined) {
      ledger.endedBy = endedBy;
      this.onEnd(ledger);
    }
  }

  /** Records that the store was restored with an older generation. */
  wentBack(ledger: SessionLedger): void {
    ledger.idleEnd = Math.min(this.#time.now + times.idle, ledger.absoluteEnd);
    if (this.formatsDiffer) {
      // From now on, a server may mint a lost generation in the other format. Both tokens are accepted.
      ledger.eitherFormat = true;
    }
    this.#move(ledger, ledger.generation - 1);
  }

  #move(ledger: SessionLedger, generation: number): void {
    const { now } = this.#time;
    ledger.generation = generation;
    ledger.sentAt = now;
    ledger.prolonged = 0;
    ledger.confirmedAt = null;
  }
}

/** Re-sends prolong the settling of a generation by ten times `settle` at most. */
function resent(ledger: SessionLedger, now: number): void {
  const prolonged = ledger.prolonged + Math.min(now - ledger.sentAt, times.settle);
  if (prolonged <= 10 * times.settle) {
    ledger.sentAt = now;
    ledger.prolonged = prolonged;
  }
}

/** Equal refreshes on one server share a result this long, so theft may be detected this much later. */
const shared = 1_000;

/** Whether a refresh with this generation must now be refused as theft. */
export function mustBeTheft(ledger: SessionLedger, presented: number, now: number): boolean {
  const { generation, confirmedAt } = ledger;
  return (
    presented < generation - 1 ||
    (presented === generation - 1 &&
      confirmedAt !== null &&
      now - confirmedAt > times.overlap + shared)
  );
}

/** Whether the session may be reported as expired; that is allowed within its last second. */
export function mayBeExpired({ idleEnd, absoluteEnd }: SessionLedger, now: number): boolean {
  return now >= Math.min(idleEnd, absoluteEnd) - 1_000;
}
