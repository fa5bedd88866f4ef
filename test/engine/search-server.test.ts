import { expect, it } from "vitest";
import type { SessionRecord, SessionStore } from "../../src/engine/store.ts";
import type { TokenClaims } from "../../src/jwt/claims.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import {
  afterTime,
  arriving,
  exchanged,
  overlap,
  settle,
  stopped,
  used,
  writtenBy,
} from "../../verification/search/moves.ts";
import { start } from "../../verification/search/search.ts";
import { rules, step, times } from "../../verification/search/server.ts";
import type { Server, State } from "../../verification/search/state.ts";
import { createRandom, type Random } from "../../verification/soak/random.ts";
import { startEngine, type TestEngine } from "../helpers/engine.ts";

/** The tokens of a generation, as their client has them. */
interface Tokens {
  readonly refresh: string;
  readonly claims: TokenClaims;
}

/** Two engines on one store. They write the uses that they have gathered when the test says so. */
class RealServers {
  /** The tokens of each generation. */
  readonly #tokens: Tokens[] = [];
  readonly #memory = memoryStore();
  readonly #time = createFakeClock();
  readonly #clock = { ...this.#time, after: () => () => {} };
  readonly #engines: TestEngine[] = [];
  #session = "";
  /** How often the store was asked to confirm the current generation. */
  asked = 0;

  async open(): Promise<this> {
    this.#engines.push(await this.#start(), await this.#start());
    const { id, token } = await this.#at(0).signIn();
    const { access } = await this.#at(0).exchange(token);
    this.#session = id;
    this.#tokens.push({ refresh: token, claims: access.claims });
    return this;
  }

  #start(): Promise<TestEngine> {
    const { overlap: overlapMs, settle: settleMs, clientTimeout } = times;
    const confirm: SessionStore["confirm"] = (uses) => {
      this.asked += uses.filter(({ generation }) => generation === this.#tokens.length - 1).length;
      return this.#memory.confirm(uses);
    };
    return startEngine({
      ...{ store: { ...this.#memory, confirm }, clock: this.#clock },
      refresh: {
        overlap: `${overlapMs}ms`,
        settle: `${settleMs}ms`,
        clientTimeout: `${clientTimeout}ms`,
      },
    });
  }

  #at(server: number): TestEngine {
    return this.#engines[server] as TestEngine;
  }

  pass(): void {
    this.#time.advance(`${step}ms`);
  }

  /** Uses the access token of a generation, relative to the current one. */
  use(server: number, generation: number): void {
    const { claims } = this.#tokens.at(generation - 1) as Tokens;
    this.#at(server).used(claims, [], this.#clock.now());
  }

  async write(server: number): Promise<void> {
    await this.#at(server).settled();
  }

  async restart(server: number): Promise<void> {
    this.#engines[server] = await this.#start();
  }

  /** Presents the refresh token of a generation, and says whether the answer has one. */
  async refresh(server: number, generation: number): Promise<boolean | "theft"> {
    const { refresh } = this.#tokens.at(generation - 1) as Tokens;
    try {
      const { access, refreshToken } = await this.#at(server).exchange(refresh);
      this.#tokens[access.claims.gen] = { refresh: refreshToken ?? refresh, claims: access.claims };
      return refreshToken !== undefined;
    } catch (error) {
      expect(error).toMatchObject({ kind: "unauthorized" });
      return "theft";
    }
  }

  /** The row, with its ages in steps and cut off as those of the search are. */
  async row(): Promise<State["row"]> {
    const { record } = await this.#memory.load(this.#session);
    const { confirmedAt, sentAt } = record as SessionRecord;
    const age = (at: number, most: number) => Math.min((this.#clock.now() - at) / step, most);
    return {
      confirmed: confirmedAt === null ? null : age(confirmedAt, overlap + 1),
      sent: age(sentAt, settle),
    };
  }

  get generations(): number {
    return this.#tokens.length;
  }
}

/** Takes one random step in the search's model and with real servers; undefined at a theft. */
async function stepOfBoth(
  state: State,
  real: RealServers,
  random: Random,
): Promise<State | undefined> {
  const at = random.pick([0, 1]);
  const generation = -Math.min(random.pick([0, 0, 0, 1, 2]), real.generations - 1);
  switch (random.pick(["pass", "pass", "pass", "use", "use", "write", "refresh", "stop"])) {
    case "use":
      real.use(at, generation);
      return used(state, at, generation, rules.nothing);
    case "write": {
      const asked = real.asked;
      await real.write(at);
      const { gathered, knows } = state.servers[at] as Server;
      const writes = gathered !== null;
      if (writes || knows) {
        expect(real.asked - asked).toBe(writes ? 1 : 0);
      }
      return writes ? writtenBy(state, at, rules.nothing) : state;
    }
    case "stop":
      await real.restart(at);
      return stopped(state, at);
    case "refresh": {
      const answer = exchanged(state, arriving(state, generation, rules.nothing), rules.nothing);
      const sends = await real.refresh(at, generation);
      if (answer === null || typeof answer === "string") {
        expect([answer, sends]).toEqual(["false theft", "theft"]);
        return undefined;
      }
      expect(sends).toBe(answer.refresh !== null);
      return answer.state;
    }
    default:
      // A use that was sent again since it was gathered is written within ten seconds, and refused.
      for (const [i, { gathered }] of state.servers.entries()) {
        if (gathered === null) {
          await real.write(i);
        }
      }
      real.pass();
      return afterTime(state, rules.nothing);
  }
}

it("the servers of the exhaustive search decide, remember and write what two real engines do", {
  timeout: 300_000,
}, async () => {
  const seen = { thefts: 0, generations: 0, confirmed: 0, sentAgain: 0 };
  for (let seed = 1; seed <= 60; seed++) {
    const random = createRandom(seed);
    const real = await new RealServers().open();
    let state: State | undefined = start;
    for (let i = 0; i < 120; i++) {
      const before: State = state;
      state = await stepOfBoth(before, real, random);
      if (state === undefined) {
        seen.thefts += 1;
        break;
      }
      expect(await real.row(), `seed ${seed}, step ${i}`).toEqual(state.row);
      seen.confirmed += before.row.confirmed === null && state.row.confirmed !== null ? 1 : 0;
      seen.sentAgain += state.row.sent < before.row.sent ? 1 : 0;
    }
    seen.generations += real.generations;
  }
  // Fewer than some of each would mean that the walks miss what the search is about.
  for (const count of Object.values(seen)) {
    expect(count).toBeGreaterThan(20);
  }
});
