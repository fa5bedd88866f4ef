import { describe, expect, it } from "vitest";
import { RowReads } from "../../src/engine/reach.ts";

/** A store whose answers wait until they are given, oldest first. */
function slowStore() {
  const held: ((error?: Error) => void)[] = [];
  let loads = 0;
  const reads = new RowReads({
    load() {
      loads += 1;
      return new Promise((resolve, reject) => {
        held.push((error) => (error ? reject(error) : resolve({ record: undefined, now: 0 })));
      });
    },
  });
  return { reads, held, loads: () => loads };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe("sec:V04 row reads", () => {
  it("are 64 at a time; the others have their turn, also after one that failed", async () => {
    const { reads, held, loads } = slowStore();
    const all = Array.from({ length: 66 }, () => reads.load("s").catch((error) => error.kind));
    await turn();
    expect(loads()).toBe(64);
    held.shift()?.(new Error("down"));
    held.shift()?.();
    await turn();
    expect(loads()).toBe(66);
    held.forEach((answer) => {
      answer();
    });
    const answers = await Promise.all(all);
    expect(answers.filter((answer) => answer === "unavailable")).toHaveLength(1);
  });

  it("reject beyond those who may wait, and take on more once there is room", async () => {
    const { reads, held } = slowStore();
    const all = Array.from({ length: 1_064 }, () => reads.load("s"));
    await turn();
    await expect(reads.load("s")).rejects.toMatchObject({ kind: "unavailable" });
    held.shift()?.();
    await turn();
    all.push(reads.load("s"));
    await turn();
    while (held.length > 0) {
      held.splice(0).forEach((answer) => {
        answer();
      });
      await turn();
    }
    expect(await Promise.all(all)).toHaveLength(1_065);
  });
});
