// Two servers in processes and time zones of their own share a store.
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { header } from "../../src/base/wire.ts";
import { postgresMissing, startPostgres } from "../servers/postgres.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { createSchema } from "./postgres-fixture.ts";
import { createSqlite } from "./sqlite-fixture.ts";

const stores = [
  { kind: "sqlite", missing: undefined, open: openSqlite },
  { kind: "postgres", missing: postgresMissing, open: openPostgres },
  { kind: "redis", missing: redisMissing, open: openRedis },
] as const;

/** Sessions that are raced for on each store, each with four calls on either process. */
const races = 25;

const oddUserIds = [
  ...[
    "a b",
    "Ünïcødé 😀",
    "e\u0301",
    "İstanbul",
    "' OR 1=1 --",
    '"',
    "%_\\",
    "{a}:b}",
    "../..",
    "0",
  ],
  ...["null", "__proto__", "a\r\nb: c", "\t", "\u202eabc", "x".repeat(255), "user@example.com"],
];

describe.each(stores)("two processes on $kind", ({ kind, missing, open }) => {
  it.skipIf(missing)(
    "feat:D4 answer refreshes that race with one successor, and take nobody for a thief",
    async () => {
      const [east, west] = await start(kind, await open());
      for (let race = 0; race < races; race++) {
        const { refresh } = await east.signIn("alice");
        // The first race is for the first token, the second for its successor.
        let token = refresh;
        for (let round = 0; round < 2; round++) {
          const answers = await Promise.all(
            Array.from({ length: 8 }, (_, i) => (i % 2 === 0 ? east : west).refresh(token)),
          );
          expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
          const successors = new Set(answers.map((answer) => answer.refresh ?? token));
          expect(successors.size).toBe(1);
          [token = ""] = successors;
        }
        const { access } = await west.refresh(token);
        expect(await east.whoAmI(access)).toMatchObject({ userId: "alice" });
      }
    },
  );

  it.skipIf(missing)(
    "feat:B14 agree on users with odd ids, and on times, in any time zone",
    async () => {
      const [east, west] = await start(kind, await open());
      for (const userId of oddUserIds) {
        const { access, refresh } = await east.signIn(userId);
        const [here, there] = [await east.whoAmI(access), await west.whoAmI(access)];
        expect(there).toMatchObject({ userId, createdAt: here.createdAt, id: here.id });
        expect(Math.abs(Date.parse(String(here.createdAt)) - Date.now())).toBeLessThan(600_000);
        expect(await west.listed(access)).toEqual([userId]);
        expect(await west.signOut(refresh)).toBe(200);
        expect(await east.refresh(refresh)).toMatchObject({ status: 401 });
      }
    },
  );
});

interface Answer {
  readonly status: number;
  readonly access: string;
  /** Undefined if the token stays the same. */
  readonly refresh: string | undefined;
  readonly body: unknown;
}

/** Starts both servers. They end with the test. */
async function start(kind: string, place: string) {
  const program = join(import.meta.dirname, "process-server.ts");
  const execArgv = ["--conditions=@rpc-session/source"];
  const zones = ["Pacific/Kiritimati", "America/St_Johns"];
  const ports = zones.map(async (TZ) => {
    const child = fork(program, [kind, place], { execArgv, env: { ...process.env, TZ } });
    const ended = once(child, "exit");
    onTestFinished(async () => {
      if (child.connected) {
        child.disconnect();
      }
      await ended;
    });
    const failed = ended.then(([code]) => {
      throw new Error(`a server has ended with ${code} before it served`);
    });
    const [port] = (await Promise.race([once(child, "message"), failed])) as [number];
    return port;
  });
  return Promise.all(ports.map(async (port) => api(await port))) as Promise<[Api, Api]>;
}

type Api = ReturnType<typeof api>;

function api(port: number) {
  const call = async (method: string, message: object, headers = {}): Promise<Answer> => {
    const response = await fetch(`http://127.0.0.1:${port}/${method}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify(message),
    });
    return {
      status: response.status,
      access: response.headers.get(header.accessToken) ?? "",
      refresh: response.headers.get(header.refreshToken) ?? undefined,
      body: await response.json(),
    };
  };
  const bearer = (access: string) => ({ authorization: `Bearer ${access}` });
  return {
    async signIn(user: string) {
      const transport = { [header.transport]: "header" };
      const { access, refresh = "" } = await call(
        "notes.v1.NotesService/SignIn",
        { user },
        transport,
      );
      return { access, refresh };
    },
    refresh: (refreshToken: string) =>
      call("rpcsession.v1.SessionService/Refresh", { refreshToken }),
    async signOut(refreshToken: string) {
      return (await call("rpcsession.v1.SessionService/SignOut", { refreshToken })).status;
    },
    async whoAmI(access: string) {
      const { body } = await call("rpcsession.v1.SessionService/GetSession", {}, bearer(access));
      return (body as { readonly session: Record<string, unknown> }).session;
    },
    async listed(access: string) {
      const { body } = await call("rpcsession.v1.SessionService/ListSessions", {}, bearer(access));
      const { sessions } = body as { readonly sessions: readonly { readonly userId: string }[] };
      return sessions.map(({ userId }) => userId);
    },
  };
}

async function openSqlite(): Promise<string> {
  const fixture = await createSqlite();
  onTestFinished(() => fixture.close());
  return fixture.file;
}

async function openPostgres(): Promise<string> {
  const server = await startPostgres();
  onTestFinished(() => server.stop());
  const schema = await createSchema(server);
  onTestFinished(() => schema.admin.end());
  return schema.url;
}

async function openRedis(): Promise<string> {
  const redis = await startRedis();
  onTestFinished(() => redis.stop());
  return redis.socket;
}
