import type { TokenTransport } from "../../src/base/wire.ts";
import type { Created } from "../../src/engine/create.ts";
import type { Refreshed } from "../../src/engine/refresh/refresh.ts";
import { type SessionLedger, times } from "./ledger.ts";

/** The tokens of a client. */
export interface Tokens {
  readonly ledger: SessionLedger;
  readonly generation: number;
  readonly refresh: string;
  /** When a server last sent the refresh token; milliseconds since 1970. */
  readonly sentAt: number;
  readonly access: Refreshed["access"];
  /** When the access token arrived; milliseconds since 1970. */
  readonly at: number;
}

interface Write {
  readonly at: number;
  readonly tokens: Tokens | undefined;
}

/** The tokens that the tabs of one browser share, and the part of them that is on its disk. */
export class Jar {
  readonly name: string;
  readonly transport: TokenTransport;
  /** Incremented when the browser crashes or gets other tokens, which voids all calls under way. */
  epoch = 0;
  /** Oldest first; the tabs see the last one. */
  #writes: Write[] = [];

  constructor(name: string, transport: TokenTransport) {
    this.name = name;
    this.transport = transport;
  }

  get tokens(): Tokens | undefined {
    return this.#writes.at(-1)?.tokens;
  }

  /** Stores a new session or copied tokens. On disk at once, because losing a new session is harmless. */
  begin(tokens: Tokens): void {
    this.epoch += 1;
    this.#writes = [{ at: tokens.at, tokens }];
  }

  /** Signs out, by choice or because the server reported the end of the session. */
  clear(): void {
    this.epoch += 1;
    this.#writes = [];
  }

  /**
   * Stores the result of a refresh. With `cut`, something in between passed on only the first
   * `Set-Cookie`: the access token without the refresh token.
   */
  receive(refreshed: Refreshed, at: number, cut: boolean): void {
    const { access, record } = refreshed;
    const refreshToken = cut && this.transport === "cookie" ? undefined : refreshed.refreshToken;
    const old = this.tokens;
    // Any response overwrites cookies; a client that uses headers keeps the newest tokens.
    if (old === undefined || (this.transport === "header" && !isNewer(access, old.access))) {
      return;
    }
    const renewed =
      refreshToken === undefined
        ? {}
        : { generation: record.generation, refresh: refreshToken, sentAt: old.ledger.sentAt };
    const tokens = { ...old, access, at, ...renewed };
    this.#writes = this.#writes.filter((_write, i) => {
      const next = this.#writes[i + 1];
      return next === undefined || at - next.at < times.settle;
    });
    this.#writes.push({ at, tokens });
  }

  /**
   * The browser crashes and starts again with the tokens on disk. The library promises recovery
   * only if the lost refresh token was sent less than `settle` ago, so older ones count as written,
   * unless `anyAge` is set.
   */
  crash(now: number, lag: number, anyAge: boolean): void {
    this.epoch += 1;
    const kept = this.#writes.findLastIndex(({ at, tokens }, i) => {
      const settled = !anyAge && now - (tokens?.sentAt ?? 0) >= times.settle;
      return i === 0 || at <= now - lag || settled;
    });
    this.#writes = this.#writes.slice(0, kept + 1);
  }
}

/** Returns the tokens of a new session. */
export function tokensOf(created: Created, ledger: SessionLedger, at: number): Tokens {
  const { access, refreshToken: refresh } = created;
  return { ledger, generation: 0, refresh, sentAt: ledger.sentAt, access, at };
}

function isNewer({ claims: a }: Refreshed["access"], { claims: b }: Refreshed["access"]): boolean {
  return a.gen > b.gen || (a.gen === b.gen && a.exp >= b.exp);
}
