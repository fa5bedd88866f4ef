// npm run soak -- --store sqlite|postgres|redis --seconds N --processes P --seed S --older COMMIT
//
// Runs real server processes on one store, with many clients and injected faults, and checks the
// recorded history against the session rules. The last line is JSON; the exit code is 1 if a rule
// was broken. All traffic stays on this machine.
import { randomBytes } from "node:crypto";
import { readOrExplain } from "../../tools/usage.ts";
import { runApp, runBoundApp } from "./apps.ts";
import { BoundThieves } from "./bound.ts";
import { browse } from "./browsers.ts";
import type { Causes } from "./explain.ts";
import { createHistory, type History, secretOf } from "./history.ts";
import { unpackOlder } from "./older.ts";
import { readArguments, type SoakOptions } from "./options.ts";
import { createRandom, type Random } from "./random.ts";
import { judge } from "./report.ts";
import { startServers } from "./servers.ts";
import { type SoakStore, startStore } from "./store.ts";
import { createWindows, sleep, type Windows } from "./windows.ts";
import type { World } from "./world.ts";

const browsers = 20;
const robbedBrowsers = 6;
const apps = 5;
/** Older versions know nothing of bound sessions. */
const boundApps = 5;
/** Milliseconds for which a fault of the store may have effects after it has ended. */
const storeGrace = 1_500;

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  // The "exit" handlers end all child processes.
  process.once(signal, () => process.exit(130));
}
const options = readOrExplain(
  "npm run soak -- [--store sqlite|postgres|redis] [--seconds N] [--processes P] [--seed S] [--older COMMIT] [--mixed-formats] [--failover]",
  () => readArguments(process.argv.slice(2)),
);
// End the run even if something hangs.
setTimeout(() => process.exit(2), (options.seconds + 90) * 1_000).unref();
process.exitCode = await soak(options);

async function soak(options: SoakOptions): Promise<number> {
  const random = createRandom(options.seed);
  const history = createHistory();
  const now = () => history.now();
  const store = await startStore(options, random.fork("store"));
  const [old, next] = [secret(), secret()];
  const olderFile = options.older === undefined ? undefined : unpackOlder(options.older);
  const servers = await startServers({
    ...options,
    olderFile,
    url: store.url,
    secrets: [old],
    now,
  });
  const until = now() + options.seconds * 1_000;
  const thieves = new BoundThieves();
  const world: World = { history, servers, thieves, until, retired: undefined };
  const storeDown = createWindows(now, storeGrace);
  const rollingOut = createWindows(now, storeGrace);
  const [, , dropped] = await Promise.all([
    breakStore(store, { world, windows: storeDown, random: random.fork("faults") }),
    killServers(world, random.fork("kills")),
    olderFile === undefined
      ? rollOut(world, { secrets: [old, next], windows: rollingOut, seconds: options.seconds })
      : upgradeAndRollBack(world, options.seconds),
    ...runClients(world, random),
    ...runBound(world, random, options.older === undefined ? boundApps : 0),
  ]);
  // Requests that their clients gave up are observed until they end.
  await sleep(1_000);
  await servers.stop();
  // Without servers, the remaining requests end.
  await sleep(200);
  await store.stop();
  const causes: Causes = { store: storeDown, servers, dropped, rollOut: rollingOut };
  const summary = judge(history, causes, { ...options, thieves });
  console.error(about(history, causes));
  console.log(JSON.stringify(summary));
  const { false_logouts, missed_thefts, resurrected, forks, errors_unexplained } = summary;
  const got = thieves.refreshes + thieves.callsAfterExpiry + thieves.proofCalls;
  const broken = false_logouts + missed_thefts + resurrected + forks + errors_unexplained + got;
  return broken === 0 ? 0 : 1;
}

function runBound(world: World, random: Random, count: number): Promise<void>[] {
  return Array.from({ length: count }, (_, i) =>
    runBoundApp(world, `bound ${i}`, random.fork(`bound ${i}`)),
  );
}

function runClients(world: World, random: Random): Promise<void>[] {
  const running: Promise<void>[] = [];
  for (let i = 0; i < browsers + robbedBrowsers; i++) {
    const user = `browser ${i}`;
    running.push(browse(world, { user, random: random.fork(user), robbed: i >= browsers }));
  }
  for (let i = 0; i < apps; i++) {
    running.push(runApp(world, `app ${i}`, random.fork(`app ${i}`)));
  }
  return running;
}

interface Breaking {
  readonly world: World;
  readonly windows: Windows;
  readonly random: Random;
}

/** Injects one fault after another, with pauses in which no error may occur. */
async function breakStore(
  { faults }: SoakStore,
  { world, windows, random }: Breaking,
): Promise<void> {
  const names = Object.keys(faults);
  for (let i = 0; ; i++) {
    await sleep(random.between(3_000, 6_000));
    if (world.history.now() > world.until - 2_000) {
      return;
    }
    const name = names[i % names.length] ?? "";
    const over = windows.open(name);
    await faults[name]?.();
    over();
  }
}

async function killServers(world: World, random: Random): Promise<void> {
  const { servers, history, until } = world;
  for (;;) {
    await sleep(random.between(5_000, 9_000));
    if (history.now() > until - 3_000) {
      return;
    }
    await servers.kill(Math.floor(random.between(0, servers.count)));
  }
}

interface RollOut {
  readonly secrets: readonly [string, string];
  readonly windows: Windows;
  readonly seconds: number;
}

/** Rolls out a new secret in three steps under load; each step restarts one server after another. */
async function rollOut(
  world: World,
  { secrets: [old, next], windows, seconds }: RollOut,
): Promise<Causes["dropped"]> {
  const { servers, history } = world;
  const part = seconds * 1_000;
  const start = world.until - part;
  const at = (share: number): Promise<void> =>
    sleep(Math.max(0, start + share * part - history.now()));
  const oldId = (): string =>
    secretOf(history.exchanges.find(({ what, token }) => what === "signIn" && token)?.token ?? "");
  await at(0.15);
  await servers.rollOut([old, next]);
  await at(0.35);
  await servers.rollOut([next, old]);
  // In production the old secret stays until its sessions have ended; here they are ended early.
  await at(0.65);
  world.retired = oldId();
  await at(0.75);
  const over = windows.open("rollOut");
  const dropped = { secretId: oldId(), from: history.now() };
  await servers.rollOut([next]);
  over();
  return dropped;
}

/** Upgrades all servers, rolls all of them back, and upgrades one half again, under load. */
async function upgradeAndRollBack(
  { servers, history, until }: World,
  seconds: number,
): Promise<undefined> {
  const half = Math.floor(servers.count / 2);
  const start = until - seconds * 1_000;
  const plan = [
    { share: 0.15, older: half },
    { share: 0.4, older: 0 },
    { share: 0.6, older: servers.count },
    { share: 0.8, older: half },
  ];
  for (const { share, older } of plan) {
    await sleep(Math.max(0, start + share * seconds * 1_000 - history.now()));
    await servers.runOlder(older);
  }
}

function secret(): string {
  return randomBytes(32).toString("base64url");
}

function about(history: History, { servers, store }: Causes): string {
  const count = (type: string): number =>
    servers.reports.filter((report) => report.type === type).length;
  const broken = store.all.map(({ name }) => name).join(" ");
  return [
    `sessions stolen: ${history.thefts.size}, thefts detected: ${count("theft")}`,
    `requests: ${history.exchanges.length}, failures reported: ${count("failed")}`,
    `faults of the store: ${broken || "none"}`,
  ].join("; ");
}
