import { DatabaseSync } from "node:sqlite";
import { Kysely, SqliteDialect, sql } from "kysely";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { prepared } from "../../src/stores/sql/prepared.ts";
import { inTransaction, type SqlDatabase, type SqlSchema } from "../../src/stores/sql/schema.ts";
import { forKysely } from "../../src/stores/sqlite/driver.ts";

let time = 1000;
let file: DatabaseSync;
let database: SqlDatabase;

beforeEach(() => {
  file = new DatabaseSync(":memory:");
  database = open(file);
});

afterEach(() => database.db.destroy());

function open(opened: DatabaseSync): SqlDatabase {
  return {
    db: new Kysely<SqlSchema>({ dialect: new SqliteDialect({ database: forKysely(opened) }) }),
    now: () => sql<number>`cast(${time} as bigint)`,
    dialect: "sqlite",
    attempt: (work) => work(),
  };
}

/** A statement, and how often its text was made. */
function counted() {
  const made = vi.fn<(form: string) => void>();
  const run = prepared((on, form: "sum" | "difference", values: { a: number; b: number }) => {
    made(form);
    const now = on.now();
    const { a, b } = values;
    const answer = form === "sum" ? sql<number>`${a} + ${b}` : sql<number>`${b} - ${a}`;
    return on.db.selectNoFrom([answer.as("answer"), now.as("begun"), now.as("ended")]);
  });
  return { run, made };
}

describe("a prepared statement", () => {
  it("binds the values of each run, in the order of the text", async () => {
    const { run } = counted();
    const rowOf = async (form: "sum" | "difference", a: number, b: number) =>
      (await run(database, form, { a, b }))[0]?.answer;
    expect(await rowOf("difference", 1, 10)).toBe(9);
    expect(await rowOf("difference", 2, 30)).toBe(28);
    expect(await rowOf("sum", 2, 30)).toBe(32);
  });

  it("binds the time of each run, one for the whole statement", async () => {
    const { run } = counted();
    for (time of [2000, 3000]) {
      const [row] = await run(database, "sum", { a: 1, b: 1 });
      expect(row).toMatchObject({ begun: time, ended: time });
    }
  });

  it("is made once for each form, in transactions, too", async () => {
    const { run, made } = counted();
    for (const form of ["sum", "difference", "sum", "difference"] as const) {
      await run(database, form, { a: 1, b: 1 });
      await inTransaction(database, (within) => run(within, form, { a: 1, b: 1 }));
    }
    expect(made.mock.calls).toEqual([["sum"], ["difference"]]);
  });

  it("runs within the transaction that it is given", async () => {
    file.exec("create table rpcsession_leases (name text, holder text, expires_at bigint)");
    const add = prepared((on, _form: "", { name }: { name: string }) =>
      on.db.insertInto("rpcsession_leases").values({ name, holder: "me", expires_at: on.now() }),
    );
    await add(database, "", { name: "kept" });
    const failed = inTransaction(database, async (within) => {
      await add(within, "", { name: "undone" });
      throw new Error("no more");
    });
    await expect(failed).rejects.toThrow("no more");
    expect(file.prepare("select name from rpcsession_leases").all()).toEqual([{ name: "kept" }]);
  });

  it("is made anew for another clock", async () => {
    const { run, made } = counted();
    await using another = open(new DatabaseSync(":memory:")).db;
    const still = { ...database, db: another, now: () => sql<number>`7` };
    await run(database, "sum", { a: 1, b: 1 });
    expect(await run(still, "sum", { a: 1, b: 1 })).toEqual([{ answer: 2, begun: 7, ended: 7 }]);
    expect(made).toHaveBeenCalledTimes(2);
  });

  it("takes no clock that is not plain SQL", async () => {
    const { run } = counted();
    const odd = { toOperationNode: () => ({ kind: "ReferenceNode" }) };
    const broken = { ...database, now: () => odd as unknown as ReturnType<SqlDatabase["now"]> };
    await expect(run(broken, "sum", { a: 1, b: 1 })).rejects.toThrow(TypeError);
  });
});

describe("SQLite", () => {
  it("prepares a statement once", async () => {
    const { run } = counted();
    const prepare = vi.spyOn(file, "prepare");
    for (const a of [1, 2, 3]) {
      await run(database, "sum", { a, b: 1 });
    }
    expect(prepare).toHaveBeenCalledOnce();
  });

  it("reads the columns that a table has by now", async () => {
    file.exec(
      "create table rpcsession_leases (name text); insert into rpcsession_leases values (1)",
    );
    const all = () => database.db.selectFrom("rpcsession_leases").selectAll().execute();
    expect(await all()).toEqual([{ name: "1" }]);
    file.exec("alter table rpcsession_leases add column holder text");
    expect(await all()).toEqual([{ name: "1", holder: null }]);
    file.exec("alter table rpcsession_leases drop column name");
    expect(await all()).toEqual([{ holder: null }]);
  });
});
