import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { describePostgres } from "../stores/describe-postgres.ts";
import { createSchema, tablesOf } from "../stores/postgres-fixture.ts";
import { stillClock } from "../stores/still-clock.ts";

const main = join(import.meta.dirname, "../../src/cli/main.ts");

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program in an empty folder. */
function rpcSession(...args: readonly string[]): Promise<Outcome> {
  const node = [process.execPath, ["--conditions=@rpc-session/source", main, ...args]] as const;
  return new Promise((resolve) => {
    execFile(...node, { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "rpcsession-cli-"));
});
afterEach(() => rm(folder, { recursive: true }));

describe("rpc-session migrate <file>", () => {
  it("creates the tables and can be repeated, but creates no secret", async () => {
    const done = { code: 0, stdout: "The tables are up to date.\n", stderr: "" };
    expect(await rpcSession("migrate", "sessions.db")).toEqual(done);
    expect(await rpcSession("migrate", "sessions.db")).toEqual(done);
    expect(await readdir(folder)).toEqual(["sessions.db"]);
  });

  it("refuses the tables of a newer version", async () => {
    await rpcSession("migrate", "sessions.db");
    const database = new DatabaseSync(join(folder, "sessions.db"));
    database.exec("insert into rpcsession_migrations values (99, 0)");
    database.close();
    const { code, stderr } = await rpcSession("migrate", "sessions.db");
    expect(code).toBe(1);
    expect(stderr).toMatch(/^rpc-session: sqliteStore: .*newer rpc-session \(schema 99/);
  });

  it("prints SQL that creates the same tables", async () => {
    await rpcSession("migrate", "made.db");
    const { code, stdout } = await rpcSession("migrate", "--print", "printed.db");
    expect(code).toBe(0);
    expect(await readdir(folder)).toEqual(["made.db"]);
    const file = join(folder, "printed.db");
    const printed = new DatabaseSync(file);
    printed.exec(stdout);
    expect(schemaOf(printed)).toEqual(schemaOf(new DatabaseSync(join(folder, "made.db"))));
    expect(() => printed.exec(stdout)).toThrow("UNIQUE constraint failed");
    printed.close();
    const store = sqliteStore(file);
    await store.open({ clock: stillClock() });
    await store.insert(newSession());
    await store.close();
  });
});

describe("rpc-session with invalid arguments", () => {
  it.each([
    [[], "no command given"],
    [["postgres://u:hidden@h/d"], "unknown command"],
    [["migrate"], "takes exactly one database, got 0"],
    [["migrate", "a.db", "b.db"], "takes exactly one database, got 2"],
    [["migrate", "--force", "a.db"], "unknown option '--force'"],
    [["migrate", ""], "is not the path of a file"],
    [["migrate", ":memory:"], "is not the path of a file"],
    [["migrate", "mysql://u:hidden@h/d"], '"mysql:" is not a database'],
    [["migrate", "--print", "redis://u:hidden@h"], '"redis:" is not a database'],
    [["migrate", "postgres:hidden"], 'begin with "postgres://"'],
  ])("%j exits with 2, prints the reason and the usage, and does nothing", async (args, reason) => {
    const { code, stdout, stderr } = await rpcSession(...args);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain(reason);
    const usage = args[0] === "migrate" ? "migrate <database>" : "<command>";
    expect(stderr).toContain(`Usage: rpc-session ${usage}`);
    expect(stderr).not.toContain("hidden");
    expect(await readdir(folder)).toEqual([]);
  });

  it("--help exits with 0", async () => {
    const { code, stdout } = await rpcSession("--help");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Usage: rpc-session <command>/);
    expect(stdout).toContain("rpc-session migrate ");
  });

  it("an unreachable database exits with 1 and does not print the password", async () => {
    const { code, stderr } = await rpcSession("migrate", "postgres://u:hidden@127.0.0.1:1/d");
    expect(code).toBe(1);
    expect(stderr).toBe("rpc-session: connect ECONNREFUSED 127.0.0.1:1\n");
  });
});

describePostgres("rpc-session migrate <postgres url>", (server) => {
  it("creates the tables, and prints SQL that creates the same ones", async () => {
    await using made = await createSchema(server());
    await using printed = await createSchema(server());
    expect(await rpcSession("migrate", made.url)).toMatchObject({ code: 0, stderr: "" });
    expect(await rpcSession("migrate", made.url)).toMatchObject({ code: 0, stderr: "" });
    const { stdout } = await rpcSession("migrate", "--print", "postgres");
    await printed.admin.query(stdout);
    const tables = await tablesOf(made);
    expect(tables).not.toEqual([]);
    expect(await tablesOf(printed)).toEqual(tables);
    await expect(printed.admin.query(stdout)).rejects.toThrow("duplicate key");
    await printed.admin.query("rollback");
    expect(await rpcSession("migrate", printed.url)).toMatchObject({ code: 0 });
  });
});

function schemaOf(database: DatabaseSync): unknown[] {
  return database.prepare("select type, name, sql from sqlite_schema order by name").all();
}
