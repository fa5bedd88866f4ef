import { expect, it } from "vitest";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { openedSqlite } from "../stores/sqlite-fixture.ts";
import { ask, issue, lastAccepted, promptly, pushed, startServer } from "./servers.ts";

it("sec:V01 SQLite pushes a revocation to other processes on the file, long before their next poll", async () => {
  await using fixture = await openedSqlite();
  const maxStaleness = "60s";
  const here = await startServer(fixture.another(), { maxStaleness });
  const there = await startServer(fixture.another(), { maxStaleness });
  await pushed(here, there);
  for (let i = 0; i < 10; i++) {
    const issued = await issue(here);
    expect(await ask(there, issued)).toBe("accepted");
    await here.revoke(issued.id);
    expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
  }
  await Promise.all([here.close(), there.close()]);
});

it("SQLite checks the file without reading the log if nothing was written, once per jump of the clock", async () => {
  await using fixture = await openedSqlite();
  const store = fixture.another();
  const clock = createFakeClock();
  const jumped = { looks: 0 };
  await store.open({
    clock: {
      ...clock,
      after(ms, action) {
        jumped.looks += 1;
        return clock.after(ms, action);
      },
    },
  });
  let woken = 0;
  const stop = store.onChange(() => {
    woken += 1;
  });
  await expect.poll(() => store.pushed?.()).toBe(true);
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  clock.advance("10h");
  await turn();
  expect([jumped.looks, woken]).toEqual([2, 0]);
  await fixture.store.lease("a", "b", 1_000);
  clock.advance("100ms");
  await turn();
  expect(woken).toBe(1);
  clock.advance("100ms");
  await turn();
  expect(woken).toBe(1);
  stop();
  await store.close();
  const before = jumped.looks;
  clock.advance("1h");
  await turn();
  expect(jumped.looks).toBe(before);
});
