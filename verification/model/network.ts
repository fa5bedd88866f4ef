import { SessionError } from "../../src/base/errors.ts";
import type { Engine } from "../../src/engine/engine.ts";
import type { Proven, SentProof } from "./bound.ts";
import { Task } from "./gates.ts";
import type { Jar, Tokens } from "./jar.ts";
import { judge, type Outcome, openCase } from "./judge.ts";
import type { World } from "./world.ts";

/** How long a client waits for a refresh; messages under way are lost afterwards. */
const clientTimeout = 10_000;

/** A refresh under way. */
interface Flight {
  readonly jar: Jar;
  readonly tab: number;
  readonly epoch: number;
  readonly tokens: Tokens;
  readonly deadline: number;
  /** The proof of the key; undefined where none is needed, or the thief has none. */
  readonly proof: SentProof | undefined;
  /** Whether the client has sent it again with a new nonce. */
  readonly isAgain: boolean;
  /** The nonce of the response. */
  nonce?: Extract<Proven, { provenKey: unknown }>["nonce"];
  /** Set once the tab has the response of another copy of the request. */
  ignored?: true;
  /** Set once it has reached a server. */
  task?: Task;
  /** Set once the response is on its way back. */
  outcome?: Outcome;
}

/** Carries all refreshes under way. */
export class Network {
  readonly #world: World;
  #flights: Flight[] = [];

  constructor(world: World) {
    this.#world = world;
  }

  /** When the next client stops waiting. */
  get nextDeadline(): number {
    return Math.min(...this.#flights.map(({ deadline }) => deadline));
  }

  isWaiting(jar: Jar, tab: number): boolean {
    return this.#flights.some((one) => one.jar === jar && one.tab === tab && !one.ignored);
  }

  async send(jar: Jar, tab: number, tokens: Tokens, isAgain = false): Promise<void> {
    const deadline = this.#world.time.now + clientTimeout;
    const proof = await this.#world.keys.proveRefresh(jar, tab, tokens);
    this.#flights.push({ jar, tab, epoch: jar.epoch, tokens, deadline, proof, isAgain });
  }

  double(which: number): void {
    const flight = pick(this.#flights.filter(isGoing), which);
    if (flight !== undefined) {
      this.#flights.push({ ...flight });
    }
  }

  async deliver(which: number, engine: Engine): Promise<void> {
    const flight = pick(this.#flights.filter(isGoing), which);
    if (flight !== undefined) {
      await this.#reach(flight, engine);
    }
  }

  async arrive(which: number): Promise<void> {
    const flight = pick(this.#flights.filter(isBack), which);
    if (flight !== undefined) {
      await this.#land(flight);
    }
  }

  /** Completes a refresh from wherever it is; a negative `which` selects the newest one. */
  async rush(which: number, engine: Engine): Promise<void> {
    const flight = which < 0 ? this.#flights.at(-1) : pick(this.#flights, which);
    if (flight === undefined) {
      return;
    }
    if (isGoing(flight)) {
      await this.#reach(flight, engine);
    }
    await this.#finish(flight);
    if (isBack(flight)) {
      await this.#land(flight);
    }
  }

  async lose(which: number): Promise<void> {
    const flight = pick(this.#flights, which);
    if (flight !== undefined) {
      await this.#drop((one) => one === flight);
    }
  }

  /** Drops messages for a jar with other tokens and for clients that stopped waiting. */
  async dropStale(): Promise<void> {
    const { now } = this.#world.time;
    await this.#drop(({ jar, epoch, deadline }) => epoch !== jar.epoch || deadline <= now);
  }

  /** A server completes work that it has started, even if its client stopped waiting. */
  async #drop(gone: (flight: Flight) => boolean): Promise<void> {
    const dropped = this.#flights.filter(gone);
    this.#world.tally.lost += dropped.length;
    this.#flights = this.#flights.filter((flight) => !dropped.includes(flight));
    for (const flight of dropped) {
      await this.#finish(flight);
    }
  }

  async #finish({ task }: Flight): Promise<void> {
    if (task !== undefined) {
      await this.#world.gates.finish(task);
    }
  }

  async #reach(flight: Flight, engine: Engine): Promise<void> {
    const world = this.#world;
    const { ledger, refresh: token } = flight.tokens;
    const { transport } = flight.tokens.access.claims;
    const task = new Task();
    flight.task = task;
    if (flight.jar === world.jars[2] && ledger.boundKey === null) {
      world.thieves.used(ledger);
    }
    const proven = await world.keys.check(engine, flight.jar, flight.proof);
    if ("error" in proven) {
      flight.outcome = proven;
      task.finish();
      return;
    }
    const { provenKey } = proven;
    flight.nonce = proven.nonce;
    const opened = openCase(flight.tokens, task, { now: world.time.now, provenKey });
    world.tally.boundTries += opened.isUnproven ? 1 : 0;
    await world.run(task, async () => {
      const outcome: Outcome = await engine.refresher.refresh({ token, transport, provenKey }).then(
        (refreshed) => ({ refreshed }),
        (error: unknown) => ({ error }),
      );
      flight.outcome = outcome;
      judge(opened, outcome, world.time.now, world.violate);
      world.note(outcome);
    });
  }

  async #land(flight: Flight): Promise<void> {
    const { jar, tab, epoch, tokens, outcome, ignored } = flight;
    this.#flights = this.#flights.filter((one) => one !== flight);
    if (outcome !== undefined && epoch === jar.epoch && !ignored) {
      // The tab takes the first response; copies of its request are still under way.
      for (const copy of this.#flights.filter((one) => one.jar === jar && one.tab === tab)) {
        copy.ignored = true;
      }
      this.#world.keys.learn(jar, flight.nonce);
      this.#world.receive(jar, outcome);
      if (asksForNonce(outcome) && !flight.isAgain) {
        this.#world.tally.newNonces += 1;
        await this.send(jar, tab, tokens, true);
      }
    }
  }
}

/** Returns one element of a list; undefined if the list is empty. */
export function pick<T>(list: readonly T[], which: number): T | undefined {
  return list[which % Math.max(1, list.length)];
}

function asksForNonce(outcome: Outcome): boolean {
  return (
    "error" in outcome &&
    outcome.error instanceof SessionError &&
    outcome.error.reason === "PROOF_NONCE"
  );
}

function isGoing({ task }: Flight): boolean {
  return task === undefined;
}

function isBack({ outcome }: Flight): boolean {
  return outcome !== undefined;
}
