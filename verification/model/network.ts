import type { Engine } from "../../src/engine/engine.ts";
import { Task } from "./gates.ts";
import type { Jar, Tokens } from "./jar.ts";
import { judge, type Outcome, openCase } from "./judge.ts";
import type { World } from "./world.ts";

/** How long a client waits for a refresh; then what is on its way is lost. */
const clientTimeout = 10_000;

/** A refresh under way. */
interface Flight {
  readonly jar: Jar;
  readonly tab: number;
  readonly epoch: number;
  readonly tokens: Tokens;
  readonly deadline: number;
  /** Set once the tab has another answer: a copy that the network made of the request. */
  ignored?: true;
  /** Set once it has reached a server. */
  task?: Task;
  /** Set once the answer is on its way back. */
  outcome?: Outcome;
}

/** All refreshes under way, and what becomes of them. */
export class Network {
  readonly #world: World;
  #flights: Flight[] = [];

  constructor(world: World) {
    this.#world = world;
  }

  /** When the next client loses patience. */
  get nextDeadline(): number {
    return Math.min(...this.#flights.map(({ deadline }) => deadline));
  }

  isWaiting(jar: Jar, tab: number): boolean {
    return this.#flights.some((one) => one.jar === jar && one.tab === tab && !one.ignored);
  }

  send(jar: Jar, tab: number, tokens: Tokens): void {
    const deadline = this.#world.time.now + clientTimeout;
    this.#flights.push({ jar, tab, epoch: jar.epoch, tokens, deadline });
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

  arrive(which: number): void {
    const flight = pick(this.#flights.filter(isBack), which);
    if (flight !== undefined) {
      this.#land(flight);
    }
  }

  /** Takes a refresh all the way, wherever it is now; a negative `which` means the newest. */
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
      this.#land(flight);
    }
  }

  async lose(which: number): Promise<void> {
    const flight = pick(this.#flights, which);
    if (flight !== undefined) {
      await this.#drop((one) => one === flight);
    }
  }

  /** What is on its way for a jar that is another one now, or for a client that lost patience. */
  async dropStale(): Promise<void> {
    const { now } = this.#world.time;
    await this.#drop(({ jar, epoch, deadline }) => epoch !== jar.epoch || deadline <= now);
  }

  /** A server carries on what it has begun, also when nobody waits for the answer any more. */
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
    const { ledger, generation, refresh: token } = flight.tokens;
    const { transport } = flight.tokens.access.claims;
    const task = new Task();
    flight.task = task;
    if (flight.jar === world.jars[2]) {
      world.thieves.used(ledger);
    }
    const opened = openCase(ledger, generation, task, world.time.now);
    await world.run(task, async () => {
      const outcome: Outcome = await engine.refresh({ token, transport }).then(
        (refreshed) => ({ refreshed }),
        (error: unknown) => ({ error }),
      );
      flight.outcome = outcome;
      judge(opened, outcome, world.time.now, world.violate);
      world.note(outcome);
    });
  }

  #land(flight: Flight): void {
    const { jar, tab, epoch, outcome, ignored } = flight;
    this.#flights = this.#flights.filter((one) => one !== flight);
    if (outcome !== undefined && epoch === jar.epoch && !ignored) {
      // The tab takes the first answer; copies of its request are still on their way.
      for (const copy of this.#flights.filter((one) => one.jar === jar && one.tab === tab)) {
        copy.ignored = true;
      }
      this.#world.receive(jar, outcome);
    }
  }
}

/** One of a list; undefined when it is empty. */
export function pick<T>(list: readonly T[], which: number): T | undefined {
  return list[which % Math.max(1, list.length)];
}

function isGoing({ task }: Flight): boolean {
  return task === undefined;
}

function isBack({ outcome }: Flight): boolean {
  return outcome !== undefined;
}
