import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { FixedStatement, SqlDatabase } from "../../src/stores/sql/database.ts";
import { join, names, nothing, now, sql } from "../../src/stores/sql/statement.ts";
import { SqliteConnections } from "../../src/stores/sqlite/connections.ts";
import { sqliteDialect } from "../../src/stores/sqlite/dialect.ts";
import { stillClock } from "./still-clock.ts";

const clock = stillClock();
let file: DatabaseSync;
let connections: SqliteConnections;
let database: SqlDatabase;

beforeEach(() => {
  file = new DatabaseSync(":memory:");
  connections = new SqliteConnections({
    ...{ database: file, clock },
    openAnother: () => new DatabaseSync(":memory:"),
    check: () => {},
  });
  database = new SqlDatabase(sqliteDialect, connections);
  file.exec("create table leases (name text, holder text)");
});

afterEach(() => connections.close());

function leases(): unknown[] {
  return file.prepare("select name from leases").all();
}

/** A statement that reads the clock twice, as most statements do. */
function difference(within: SqlDatabase, a: number, b: number) {
  return within.row<{
    readonly answer: number;
    readonly begun: number;
    readonly ended: number;
  }>`select ${b} - ${a} as answer, ${now} as begun, ${now} as ended`;
}

describe("a SQL statement", () => {
  it("numbers its placeholders in the order of the text", () => {
    const condition = join([sql`a = ${"x"}`, sql`b = ${null}`], " and ");
    const statement = sql`select ${1} where ${condition}${nothing} limit ${2}`;
    expect(statement.render("numbered", () => nothing)).toEqual({
      text: "select $1 where a = $2 and b = $3 limit $4",
      values: [1, "x", null, 2],
    });
  });

  it("binds the values of a piece that is repeated once, where placeholders have numbers", () => {
    const end = sql`${now} + ${60}`;
    const statement = sql`select ${end}, ${1}, ${end}, ${now}`;
    const clock = () => sql`cast(${1000} as bigint)`;
    expect(statement.render("numbered", clock)).toEqual({
      text: "select cast($1 as bigint) + $2, $3, cast($1 as bigint) + $2, cast($1 as bigint)",
      values: [1000, 60, 1],
    });
    expect(statement.render("plain", clock)).toEqual({
      text: "select cast(? as bigint) + ?, ?, cast(? as bigint) + ?, cast(? as bigint)",
      values: [1000, 60, 1, 1000, 60, 1000],
    });
    expect(statement.render("numbered", clock())).toMatchObject({ values: [1000, 60, 1] });
  });

  it("whose text is made once has the values and the time of each run", async () => {
    let made = 0;
    const later = new FixedStatement<{ by: number; from: number }>(["by", "from"], (_, given) => {
      made++;
      return sql`select ${given.from} + ${given.by} as sum, ${given.by} as by, ${now} as begun`;
    });
    for (const [by, from] of [
      [1, 10],
      [2, 20],
    ] as const) {
      await clock.advance(1000);
      const expected = { sum: from + by, by, begun: clock.now() };
      expect(await database.rowOf(later, { by, from })).toEqual(expected);
      expect(await database.transaction((within) => within.rowOf(later, { by, from }))).toEqual(
        expected,
      );
    }
    expect(made).toBe(1);
    const incomplete = { by: 1 } as { by: number; from: number };
    await expect(database.rowOf(later, incomplete)).rejects.toThrow(
      "the statement was run without a value for from; give one, or null",
    );
  });

  it("takes the names of columns, and nothing else in their place", () => {
    expect(names(["id", "user_id"]).render("numbered", nothing).text).toBe("id, user_id");
    expect(() => names(["id", "id; drop table leases"])).toThrow(
      '"id; drop table leases" is not the name of a column',
    );
  });

  it("binds a value that looks like SQL, and never inserts it into the text", async () => {
    const hostile = "'; drop table leases; --";
    await database.rows`insert into leases (name) values (${hostile})`;
    expect(leases()).toEqual([{ name: hostile }]);
  });

  it("binds the values of each run", async () => {
    expect((await difference(database, 1, 10))?.answer).toBe(9);
    expect((await difference(database, 2, 30))?.answer).toBe(28);
  });

  it("reads the clock of each run, once for the whole statement", async () => {
    for (let run = 0; run < 2; run++) {
      await clock.advance(1000);
      const now = clock.now();
      expect(await difference(database, 1, 1)).toMatchObject({ begun: now, ended: now });
    }
  });

  it("is prepared once, and used within transactions, too", async () => {
    const prepare = vi.spyOn(file, "prepare");
    for (const a of [1, 2, 3]) {
      await difference(database, a, 1);
      await database.transaction((within) => difference(within, a, 1));
    }
    const texts = prepare.mock.calls.map(([text]) => text);
    expect(texts.filter((text) => text.startsWith("select"))).toHaveLength(1);
    expect(new Set(texts).size).toBe(texts.length);
  });

  it("reads the columns that a table has by now", async () => {
    await database.rows`insert into leases (name) values (${"1"})`;
    const all = () => database.rows`select * from leases`;
    expect(await all()).toEqual([{ name: "1", holder: null }]);
    file.exec("alter table leases add column added text");
    expect(await all()).toEqual([{ name: "1", holder: null, added: null }]);
    file.exec("alter table leases drop column name");
    expect(await all()).toEqual([{ holder: null, added: null }]);
  });
});

describe("a transaction", () => {
  const add = (within: SqlDatabase, name: string) =>
    within.rows`insert into leases (name) values (${name})`;

  it("commits if its work resolves", async () => {
    expect(await database.transaction(async (within) => (await add(within, "kept")).length)).toBe(
      0,
    );
    expect(leases()).toEqual([{ name: "kept" }]);
  });

  it("rolls back if its work rejects, and rejects with that error", async () => {
    await add(database, "kept");
    const failed = database.transaction(async (within) => {
      await add(within, "undone");
      throw new Error("no more");
    });
    await expect(failed).rejects.toThrow("no more");
    expect(leases()).toEqual([{ name: "kept" }]);
  });

  it("keeps out the statements that are not its own until it ends", async () => {
    let fail = (_error: Error): void => {};
    const failed = database.transaction(async (within) => {
      await add(within, "undone");
      await new Promise((_resolve, reject) => {
        fail = reject;
      });
    });
    const added = add(database, "kept");
    await vi.waitFor(() => expect(leases()).toEqual([{ name: "undone" }]));
    fail(new Error("no more"));
    await expect(failed).rejects.toThrow("no more");
    await added;
    expect(leases()).toEqual([{ name: "kept" }]);
  });
});
