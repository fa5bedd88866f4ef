import type { Engine } from "../../src/engine/engine.ts";
import type { Action } from "./actions.ts";
import { forge } from "./forger.ts";
import { type Fault, Task, tick } from "./gates.ts";
import { type Jar, tokensOf } from "./jar.ts";
import { times } from "./ledger.ts";
import { pick } from "./network.ts";
import { use } from "./use.ts";
import type { World } from "./world.ts";

/** The share of an access token's life after which a client refreshes ahead of its end. */
const early = 0.8;

/**
 * Plays one step.
 *
 * @throws Violation if an outcome breaks a rule
 */
export async function play(world: World, action: Action): Promise<void> {
  world.tally.steps += 1;
  await carryOut(world, action);
  await world.network.dropStale();
  world.check();
}

async function carryOut(world: World, action: Action): Promise<void> {
  const { network } = world;
  switch (action.do) {
    case "call":
      return call(world, action);
    case "deliver":
      return network.deliver(action.which, engineOf(world, action.engine));
    case "goOn":
      return goOn(world, action.which, action.fault);
    case "arrive":
      return network.arrive(action.which);
    case "rush":
      return network.rush(action.which, engineOf(world, action.engine));
    case "lose":
      return network.lose(action.which);
    case "double":
      return network.double(action.which);
    case "cut":
      world.cutsCookies = action.cookies;
      return;
    case "pause":
      return pause(world, action.ms);
    case "crash":
      world.tally.crashes += 1;
      return jarOf(world, action.jar).crash(world.time.now, action.lag, world.options.anyCrash);
    case "end":
      return end(world, action);
    case "skew":
      return skew(world, action.engine, action.ms);
    case "steal":
      return world.steal(jarOf(world, action.jar), jarOf(world, 2));
    case "forge":
      return forge(world, jarOf(world, action.jar), engineOf(world, action.engine), action);
    case "rollBack":
      return rollBack(world, jarOf(world, action.jar));
  }
}

function engineOf({ engines }: World, index: number): Engine {
  return engines[index] as Engine;
}

function jarOf({ jars }: World, index: number): Jar {
  return jars[index] as Jar;
}

type Call = Extract<Action, { readonly do: "call" }>;

async function call(world: World, action: Call): Promise<void> {
  // A thief without tokens has nothing to do, so the first browser acts instead.
  const asked = jarOf(world, action.jar);
  const jar = action.jar === 2 && asked.tokens === undefined ? jarOf(world, 0) : asked;
  const { tokens } = jar;
  if (tokens === undefined) {
    return signIn(world, jar, engineOf(world, action.engine));
  }
  if (world.network.isWaiting(jar, action.tab)) {
    return;
  }
  const refreshAt = tokens.at + tokens.access.expiresIn * early;
  if (tokens.ledger.boundKey !== null) {
    await callBound(world, jar, action);
  }
  if (action.eager || world.time.now >= refreshAt) {
    await world.network.send(jar, action.tab, tokens);
    if (action.through) {
      // The newest one comes last.
      await world.network.rush(-1, engineOf(world, action.engine));
    }
  } else {
    await use(world, tokens, { engine: engineOf(world, action.engine), confirm: action.confirm });
  }
}

/** The calls of a bound session that have a proof, and those of a thief whose token is over. */
async function callBound(world: World, jar: Jar, { tab, engine }: Call): Promise<void> {
  const { tokens } = jar;
  if (tokens === undefined) {
    return;
  }
  if (jar === world.jars[2]) {
    await world.keys.callLate(engineOf(world, engine), tokens);
  }
  if (tab === 2) {
    await world.keys.callProven(engineOf(world, engine), jar, tokens);
  }
}

async function signIn(world: World, jar: Jar, engine: Engine): Promise<void> {
  const boundKey = world.keys.keyOf(jar);
  const created = await engine.creator.create({
    userId: jar.name,
    tenantId: null,
    claims: {},
    data: {},
    device: {},
    transport: jar.transport,
    replaces: null,
    boundKey,
  });
  const ledger = world.ledgers.open(created.record, created.refreshToken, boundKey);
  jar.begin(tokensOf(created, ledger, world.time.now));
}

async function goOn(world: World, which: number, fault: Fault): Promise<void> {
  const task = pick(
    world.tasks.filter(({ atGate }) => atGate),
    which,
  );
  if (task !== undefined) {
    world.tally.outages += fault === "none" ? 0 : 1;
    await world.gates.release(task, fault);
  }
}

async function pause(world: World, ms: number): Promise<void> {
  const end = world.time.now + ms;
  world.thieves.pause(ms);
  while (world.network.nextDeadline <= end) {
    world.time.advance(Math.max(0, world.network.nextDeadline - world.time.now));
    // The servers read the change log.
    await tick();
    await world.network.dropStale();
  }
  world.time.advance(end - world.time.now);
  await tick();
}

async function end(world: World, action: Extract<Action, { readonly do: "end" }>): Promise<void> {
  const jar = jarOf(world, action.jar);
  const ledger = jar.tokens?.ledger;
  if (ledger === undefined) {
    return;
  }
  const task = new Task();
  const engine = engineOf(world, action.engine);
  await world.run(task, async () => {
    const acknowledged = await engine.revoke(ledger.id, action.by).then(
      () => true,
      () => false,
    );
    ledger.acknowledged ||= acknowledged;
    world.tally.revokes += 1;
  });
  await world.gates.release(task, action.fault);
  if (action.by === "signOut") {
    jar.clear();
  }
}

function skew({ skews }: World, engine: number, ahead: number): void {
  const node = skews[engine];
  if (node !== undefined) {
    node.ahead = ahead;
  }
}

/** Uses only the contract of the store, so that it works with every store. */
async function rollBack(world: World, { tokens }: Jar): Promise<void> {
  const { store } = world.options;
  const ledger = tokens?.ledger;
  const { record } = await store.load(ledger?.id ?? "");
  if (ledger === undefined || record === undefined || record.generation === 0) {
    return;
  }
  if (record.salt === "" && record.lastSalted !== null) {
    // A real restore would bring the salt back, which no write of the contract does.
    return;
  }
  const { id, generation, secretId } = record;
  const to = generation - 1;
  const write = { kind: "forward", id, generation, to, secretId, idle: times.idle } as const;
  if ((await store.refresh(write)).record !== undefined) {
    world.tally.rollbacks += 1;
    world.ledgers.wentBack(ledger);
  }
}
