import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { postgresMissing, startPostgres } from "../servers/postgres.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { createSchema } from "../stores/postgres-fixture.ts";
import { createSqlite } from "../stores/sqlite-fixture.ts";

/** Runs the program, which must exit by itself. */
async function run(...args: string[]): Promise<string> {
  const program = join(import.meta.dirname, "exit-program.ts");
  const node = ["--conditions=@rpc-session/source", program, ...args];
  const { stdout } = await promisify(execFile)(process.execPath, node, { timeout: 120_000 });
  return stdout;
}

it("a process with nothing left to do exits although its sessions are open: SQLite", async () => {
  const fixture = await createSqlite();
  expect(await run("sqlite", fixture.file)).toBe("22 connected");
  await fixture.close();
});

it.skipIf(postgresMissing)(
  "a process with nothing left to do exits although its sessions are open: PostgreSQL",
  async () => {
    const server = await startPostgres();
    const schema = await createSchema(server);
    expect(await run("postgres", schema.url)).toBe("22 connected");
    await schema.admin.end();
    await server.stop();
  },
);

it.skipIf(redisMissing)(
  "a process with nothing left to do exits although its sessions are open: Redis",
  async () => {
    const redis = await startRedis();
    expect(await run("redis", redis.socket)).toBe("22 connected");
    await redis.stop();
  },
);
