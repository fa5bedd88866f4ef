import type { TokenTransport } from "../../src/base/wire.ts";
import type { Created } from "../../src/engine/create.ts";
import type { Refreshed } from "../../src/engine/refresh/refresh.ts";
import { type SessionLedger, times } from "./ledger.ts";

/** What a client holds. */
export interface Tokens {
  readonly ledger: SessionLedger;
  readonly generation: number;
  readonly refresh: string;
  readonly access: Refreshed["access"];
  /** When the access token arrived; milliseconds since 1970. */
  readonly at: number;
}

interface Write {
  readonly at: number;
  readonly tokens: Tokens | undefined;
}

/** The tokens that the tabs of one browser share, and what of them is on its disk. */
export class Jar {
  readonly name: string;
  readonly transport: TokenTransport;
  /** Raised when the browser dies or gets other tokens: what was on its way is not for it any more. */
  epoch = 0;
  /** Oldest first; the last one is what the tabs see. */
  #writes: Write[] = [];

  constructor(name: string, transport: TokenTransport) {
    this.name = name;
    this.transport = transport;
  }

  get tokens(): Tokens | undefined {
    return this.#writes.at(-1)?.tokens;
  }

  /** A new session, or somebody else's tokens. On disk at once: losing a new session is no harm. */
  begin(tokens: Tokens): void {
    this.epoch += 1;
    this.#writes = [{ at: tokens.at, tokens }];
  }

  /** Signed out: by itself, or because the server said that the session is over. */
  clear(): void {
    this.epoch += 1;
    this.#writes = [];
  }

  /** The answer of a refresh. */
  receive({ access, refreshToken, record }: Refreshed, at: number): void {
    const old = this.tokens;
    // Cookies are overwritten by whatever comes; a client with headers orders what it gets.
    if (old === undefined || (this.transport === "header" && !isNewer(access, old.access))) {
      return;
    }
    const generation = refreshToken === undefined ? old.generation : record.generation;
    const tokens = { ...old, access, at, generation, refresh: refreshToken ?? old.refresh };
    this.#writes = this.#writes.filter((_write, i) => {
      const next = this.#writes[i + 1];
      return next === undefined || at - next.at < times.settle;
    });
    this.#writes.push({ at, tokens });
  }

  /**
   * The browser dies and starts again with what was on disk. Promised is only that a generation may
   * get lost while it is younger than `settle`, so older ones count as written, unless `anyAge`.
   */
  crash(now: number, lag: number, anyAge: boolean): void {
    this.epoch += 1;
    const kept = this.#writes.findLastIndex(({ at, tokens }, i) => {
      const minted = tokens?.ledger.firstMinted.get(tokens.generation) ?? 0;
      const settled = !anyAge && now - minted >= times.settle;
      return i === 0 || at <= now - lag || settled;
    });
    this.#writes = this.#writes.slice(0, kept + 1);
  }
}

/** The tokens of a new session. */
export function tokensOf(created: Created, ledger: SessionLedger, at: number): Tokens {
  const { access, refreshToken: refresh } = created;
  return { ledger, generation: 0, refresh, access, at };
}

function isNewer({ claims: a }: Refreshed["access"], { claims: b }: Refreshed["access"]): boolean {
  return a.gen > b.gen || (a.gen === b.gen && a.exp >= b.exp);
}
