import { describe, expect, it } from "vitest";
import { Gathering } from "../../src/stores/gathering.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";

/** A gathering of numbers whose statements end when the test says so. */
function createGathering() {
  const clock = createFakeClock();
  const alone: Statement<number, string>[] = [];
  const together: Statement<readonly number[], readonly (string | undefined)[]>[] = [];
  const gathering = new Gathering<number, string>({
    clock,
    one: (write) => started(alone, write),
    many: (writes) => started(together, writes),
  });
  return { clock, alone, together, gathering };
}

/** A statement under way. */
interface Statement<Given, Result> {
  readonly given: Given;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
}

function started<Given, Result>(
  statements: Statement<Given, Result>[],
  given: Given,
): Promise<Result> {
  const { promise, resolve, reject } = Promise.withResolvers<Result>();
  statements.push({ given, resolve, reject });
  return promise;
}

describe("gathering writes", () => {
  it("does the first two at once and alone, and gathers what comes while they are under way", async () => {
    const { gathering, alone, together } = createGathering();
    const writes = [1, 2, 3, 4, 5].map((write) => gathering.add(write));
    expect(alone.map(({ given }) => given)).toEqual([1, 2]);
    expect(together).toEqual([]);
    alone[1]?.resolve("second");
    expect(await writes[1]).toBe("second");
    await expect.poll(() => together.map(({ given }) => given)).toEqual([[3, 4, 5]]);
    together[0]?.resolve(["third", "fourth", "fifth"]);
    expect(await Promise.all(writes.slice(2))).toEqual(["third", "fourth", "fifth"]);
    alone[0]?.resolve("first");
    expect(await writes[0]).toBe("first");
  });

  it("does a gathered write alone when it is the only one", async () => {
    const { gathering, alone, together } = createGathering();
    const writes = [1, 2, 3].map((write) => gathering.add(write));
    alone[0]?.resolve("first");
    await expect.poll(() => alone.map(({ given }) => given)).toEqual([1, 2, 3]);
    alone[2]?.resolve("third");
    expect(await writes[2]).toBe("third");
    expect(together).toEqual([]);
  });

  it("does those alone that the statement for many leaves out, and others need not wait for them", async () => {
    const { gathering, alone, together } = createGathering();
    const writes = [1, 2, 3, 4].map((write) => gathering.add(write));
    alone[0]?.resolve("first");
    await expect.poll(() => together).toHaveLength(1);
    together[0]?.resolve([undefined, "fourth"]);
    expect(await writes[3]).toBe("fourth");
    await expect.poll(() => alone.map(({ given }) => given)).toEqual([1, 2, 3]);
    // The statement for many has ended, so that the next write need not wait.
    const next = gathering.add(5);
    alone[3]?.resolve("fifth");
    expect(await next).toBe("fifth");
    alone[2]?.resolve("third");
    expect(await writes[2]).toBe("third");
  });

  it("lets nobody wait for longer than 50 ms for a statement that waits for a lock", async () => {
    const { gathering, alone, together, clock } = createGathering();
    const writes = [1, 2, 3, 4].map((write) => gathering.add(write));
    clock.advance("49ms");
    expect([alone.length, together.length]).toEqual([2, 0]);
    clock.advance("1ms");
    expect(together.map(({ given }) => given)).toEqual([[3, 4]]);
    together[0]?.resolve(["third", "fourth"]);
    expect(await Promise.all(writes.slice(2))).toEqual(["third", "fourth"]);
    const later = gathering.add(5);
    clock.advance("50ms");
    alone[2]?.resolve("fifth");
    expect(await later).toBe("fifth");
  });

  it("lets nobody wait longer either when more writes wait than fit into one statement", async () => {
    const { gathering, alone, together, clock } = createGathering();
    const writes = Array.from({ length: 103 }, (_, write) => gathering.add(write));
    clock.advance("50ms");
    together[0]?.resolve(Array.from({ length: 100 }, () => "done"));
    expect(await writes[2]).toBe("done");
    clock.advance("50ms");
    alone[2]?.resolve("the last");
    expect(await writes[102]).toBe("the last");
  });

  it("puts 100 writes at most into one statement", async () => {
    const { gathering, alone, together } = createGathering();
    const writes = Array.from({ length: 352 }, (_, write) => gathering.add(write));
    alone[0]?.resolve("first");
    await expect.poll(() => together.map(({ given }) => given.length)).toEqual([100]);
    for (const length of [100, 100, 100, 50]) {
      const { given = [], resolve } = together.at(-1) ?? {};
      expect(given).toHaveLength(length);
      resolve?.(given.map(String));
      await Promise.all(given.map(async (write) => writes[write]));
      await expect.poll(() => together.at(-1)?.given === given).toBe(length === 50);
    }
    alone[1]?.resolve("second");
    expect(await writes[1]).toBe("second");
  });

  it("an error is that of every write of its statement, and of no other", async () => {
    const { gathering, alone, together } = createGathering();
    const writes = [1, 2, 3, 4].map((write) => gathering.add(write));
    const outcomes = Promise.allSettled(writes);
    alone[0]?.reject(new Error("alone"));
    await expect.poll(() => together).toHaveLength(1);
    together[0]?.reject(new Error("together"));
    alone[1]?.resolve("second");
    expect(
      (await outcomes).map((one) => ("reason" in one ? String(one.reason) : one.value)),
    ).toEqual(["Error: alone", "second", "Error: together", "Error: together"]);
    const next = gathering.add(5);
    alone[2]?.resolve("fifth");
    expect(await next).toBe("fifth");
  });
});
