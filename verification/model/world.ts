import { SessionError } from "../../src/base/errors.ts";
import type { SessionEvent } from "../../src/base/events.ts";
import { Engine } from "../../src/engine/engine.ts";
import type { SessionStore, TokenFormat } from "../../src/engine/store.ts";
import type { Schedule } from "./actions.ts";
import { Keys, restoredBeforeBinding } from "./bound.ts";
import { type Skew, WorldTime } from "./clock.ts";
import { issuer, secrets } from "./forger.ts";
import { Gates, type Task } from "./gates.ts";
import { Jar } from "./jar.ts";
import type { Outcome } from "./judge.ts";
import { Ledgers, times } from "./ledger.ts";
import { Network } from "./network.ts";
import { byNodeClock, type Removal } from "./rules.ts";
import { type Tally, Violation, type ViolationKind } from "./tally.ts";
import { Thieves } from "./thieves.ts";
import { watched } from "./watched-store.ts";

/** The options of a world. */
export interface WorldOptions {
  readonly store: SessionStore;
  readonly tally: Tally;
  readonly schedule: Schedule;
  readonly removal: Removal | undefined;
  /** Whether a crash may also lose settled generations, for which the library promises no recovery. */
  readonly anyCrash: boolean;
  /** The format of new refresh tokens of each server. */
  readonly formats: readonly TokenFormat[];
}

/** Two servers on one store, two browsers, possibly a thief, and the network between them. */
export class World {
  readonly options: WorldOptions;
  readonly tally: Tally;
  readonly time = new WorldTime();
  readonly gates = new Gates();
  readonly ledgers: Ledgers;
  readonly network: Network;
  readonly thieves: Thieves;
  readonly keys: Keys;
  /** The wall clocks of the servers. */
  readonly skews: readonly Skew[];
  /** The jars of the two browsers and of the thief. */
  readonly jars: readonly Jar[] = [
    new Jar("browser", "cookie"),
    new Jar("device", "header"),
    new Jar("thief", "cookie"),
  ];
  engines: readonly Engine[] = [];
  /** Whether a proxy passes on only the first `Set-Cookie` of a response. */
  cutsCookies = false;
  /** Unfinished work of the servers, from which a step can choose. */
  tasks: Task[] = [];
  #violation: Violation | undefined;

  constructor(options: WorldOptions) {
    this.options = options;
    this.tally = options.tally;
    this.skews = options.schedule.ahead.map((ahead) => ({ ahead }));
    this.ledgers = new Ledgers(this.time, this.violate);
    this.ledgers.formatsDiffer = new Set(options.formats).size > 1;
    this.network = new Network(this);
    this.keys = new Keys(this);
    this.thieves = new Thieves(options.tally);
    this.ledgers.onEnd = (ledger) => this.thieves.sessionEnded(ledger);
  }

  async open(): Promise<void> {
    const { removal, store, formats, schedule } = this.options;
    // Open the store first: it takes its clock from the first opener, and this clock is correct.
    const storeClock: Skew = { ahead: 0 };
    await store.open({ clock: this.time.view(storeClock) });
    const rows = schedule.bound && schedule.restored ? restoredBeforeBinding(store) : store;
    const shared = removal?.store?.(rows) ?? rows;
    const engines: Engine[] = [];
    for (const skew of this.skews) {
      const clock = this.time.view(skew);
      const mine = removal?.nodeClock ? byNodeClock(shared, storeClock, skew) : shared;
      const engine = await new Engine({
        issuer,
        audience: issuer,
        store: watched(mine, this.gates, this.ledgers),
        secret: secrets,
        lifetimes: { ...times, ...removal?.lifetimes, tokenFormat: formats[engines.length] },
        clockSkew: 60_000,
        clock,
        emit: (event) => this.#hear(event),
      }).open();
      removal?.engine?.(engine);
      engine.refresher.decide = removal?.decide ?? engine.refresher.decide;
      engines.push(engine);
    }
    this.engines = engines;
    await this.keys.open(engines);
  }

  async close(): Promise<void> {
    for (const task of this.tasks) {
      await this.gates.finish(task);
    }
    this.thieves.scheduleEnded();
    for (const engine of this.engines) {
      await engine.close();
    }
    await this.options.store.close();
  }

  /** Records a violation. It is not thrown here, because the engine would treat it as an outage. */
  readonly violate = (kind: ViolationKind, message: string): void => {
    this.#violation ??= new Violation(kind, message);
  };

  /** Throws the recorded violation. */
  check(): void {
    if (this.#violation !== undefined) {
      throw this.#violation;
    }
  }

  /** Runs work of a server to its first gate. */
  async run(task: Task, work: () => Promise<void>): Promise<void> {
    await this.gates.start(task, work);
    this.keep(task);
  }

  /** Keeps unfinished work of a server for a later step. */
  keep(task: Task): void {
    this.tasks = this.tasks.filter(({ done }) => !done);
    if (!task.done) {
      this.tasks.push(task);
    }
  }

  /** Called when a server has responded to a refresh. */
  note(outcome: Outcome): void {
    if ("refreshed" in outcome) {
      this.tally.refreshes += 1;
      this.tally.boundRefreshes += outcome.refreshed.record.boundKey === null ? 0 : 1;
    }
  }

  /** Called when a response has reached a client. */
  receive(jar: Jar, outcome: Outcome): void {
    if ("refreshed" in outcome) {
      jar.receive(outcome.refreshed, this.time.now, this.cutsCookies);
    } else if (outcome.error instanceof SessionError && outcome.error.kind === "unauthorized") {
      this.#refused(jar, outcome.error);
    }
  }

  /** The client drops its tokens, unless it can go on with another proof. A thief never gives up. */
  #refused(jar: Jar, error: SessionError): void {
    const isAboutProof = error.reason.startsWith("PROOF_");
    this.keys.learnFrom(jar, error);
    if (!isAboutProof || (jar !== this.jars[2] && error.proofNonce === undefined)) {
      jar.clear();
    }
  }

  /** Copies the tokens of a jar to the thief and marks their session as stolen. */
  steal(from: Jar, thief: Jar): void {
    const { tokens } = from;
    if (tokens !== undefined && this.options.schedule.thief) {
      // Whoever has only the tokens of a bound session cannot end it.
      tokens.ledger.stolen ||= tokens.ledger.boundKey === null;
      thief.begin(tokens);
    }
  }

  #hear(event: SessionEvent): void {
    this.tally.recovered += event.type === "recovered" ? 1 : 0;
    if (event.type !== "theft") {
      return;
    }
    const ledger = this.ledgers.get(event.sessionId);
    if (ledger === undefined) {
      return;
    }
    ledger.thefts += 1;
    if (ledger.thefts > 1) {
      this.violate("double_thefts", `theft was reported ${ledger.thefts} times`);
    }
    if (!ledger.stolen) {
      this.violate(
        "false_logouts",
        `theft reported for generation ${event.presented} at generation ${event.generation}`,
      );
    }
  }
}
