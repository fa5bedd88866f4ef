// What 300 servers that do nothing cost the database: the processor time of all its processes.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { systemClock } from "../../src/base/clock.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { postgresMissing, startPostgres, type TestPostgres } from "../../test/servers/postgres.ts";
import { type Figures, requireService, type ScenarioOptions } from "./scenario.ts";

const count = 300;

export async function idleListeners({ quick, log }: ScenarioOptions): Promise<Figures> {
  requireService(postgresMissing);
  const server = await startPostgres({ connections: 2 * count + 50 });
  const url = server.url("public");
  const stores: SessionStore[] = [];
  try {
    for (let i = 0; i < count; i++) {
      const store = postgresStore(url, { connections: 1 });
      await store.open({ clock: systemClock });
      store.onChange(() => {});
      stores.push(store);
    }
    await until(() => stores.every((store) => store.pushed?.() === true));
    log(`${count} servers listen`);
    // The connections of the pools, which opened the stores, close after 10 s.
    await pause(15_000);
    const seconds = quick ? 30 : 90;
    const before = ticksOf(server);
    await pause(seconds * 1000);
    const after = ticksOf(server);
    let ticks = 0;
    for (const [pid, now] of after) {
      ticks += now - (before.get(pid) ?? 0);
    }
    const share = ticks / ticksPerSecond() / seconds;
    log(`${(share * 100).toFixed(2)} % of one core for ${count} idle listeners`);
    return { idle_300_cpu: share };
  } finally {
    await Promise.all(stores.map((store) => store.close()));
    await server.stop();
  }
}

/** The processor time of each process of the server, in ticks. */
function ticksOf({ process: { pid = 0 } }: TestPostgres): Map<number, number> {
  const children = execFileSync("ps", ["-o", "pid=", "--ppid", String(pid)], { encoding: "utf8" });
  const ticks = new Map<number, number>();
  for (const each of [pid, ...children.trim().split(/\s+/).map(Number)]) {
    try {
      // proc(5): after the name in parentheses, user and system time are the 12th and 13th fields.
      const fields = readFileSync(`/proc/${each}/stat`, "utf8")
        .replace(/^.*\) /s, "")
        .split(" ");
      ticks.set(each, Number(fields[11]) + Number(fields[12]));
    } catch {
      // It has ended.
    }
  }
  return ticks;
}

function ticksPerSecond(): number {
  return Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) {
    await pause(50);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
