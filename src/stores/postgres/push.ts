import { type Clock, inTime } from "../../base/clock.ts";
import { randomId } from "../../base/crypto.ts";
import { gathered, type OpenPushLine, PushImpossible, type PushLine } from "../push.ts";
import { nothing, type Sql, sql } from "../sql/statement.ts";

/** What listening and migrating need from a connection: `pg.Client` fits. */
export interface NotifiedClient {
  /** The process of the server that the connection leads to. A pooler announces another number. */
  readonly processID?: number | null;
  connect(): Promise<unknown>;
  query(text: string, values?: unknown[]): Promise<{ readonly rows: readonly unknown[] }>;
  on(event: "notification", listener: (message: Notification) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  end(): Promise<void>;
  /** Lets the process exit although the connection is open. */
  unref?(): void;
}

interface Notification {
  readonly channel: string;
  readonly payload?: string | undefined;
}

/** Runs a statement of this file on a connection of the pool. */
type Ask = (text: string, values: string[]) => Promise<readonly unknown[]>;

/** What {@link listenWith} and {@link Announcer} need. */
interface ChannelOptions {
  readonly clock: Clock;
  readonly ask: Ask;
  /** Sent with each notification of this store, so that it does not wake itself. */
  readonly self: string;
}

/**
 * One channel for each schema, since a database may hold the sessions of several services. The name
 * comes from the schema of the table. A search path may differ from connection to connection.
 */
const channel: Sql = sql`'rpcsession_' || md5((select space.nspname from pg_class as log
    join pg_namespace as space on space.oid = log.relnamespace
    where log.oid = to_regclass('rpcsession_changes'))::text)`;

const channelName = text(sql`select ${channel} as name`);

/**
 * A notification says only that committed entries exist, so it need not survive a crash itself. Without
 * a flush to disk, it holds the lock of NOTIFY, one for the whole cluster, for a few microseconds.
 */
const announce = text(sql`select set_config('synchronous_commit', 'off', true),
    pg_notify(${channel}, $1)`);

/** Milliseconds between two notifications of this process. */
const announceEvery = 20;
/** Milliseconds that closing waits for the last notification. */
const patienceAtEnd = 1_000;
/** Milliseconds that opening a line may take. */
const patience = 4_000;

/**
 * Notifies the other processes of this one's commits: the first at once, those of the following 20 ms
 * together. NOTIFY within a transaction would serialise the commits of all databases in the cluster.
 */
export class Announcer {
  readonly #options: ChannelOptions;
  readonly #gathered: () => void;
  #pending = false;
  #underWay: Promise<unknown> = Promise.resolve();

  constructor(options: ChannelOptions) {
    this.#options = options;
    const send = (): void => this.#send();
    const { clock } = options;
    this.#gathered = gathered({ clock, action: send, pause: announceEvery, keepAlive: true });
  }

  announce(): void {
    this.#pending = true;
    this.#gathered();
  }

  /** Sends what is pending. Resolves when it was sent, or cannot be sent in time. */
  async close(): Promise<void> {
    if (this.#pending) {
      this.#send();
    }
    const late = (): Error => new Error("the last notification was not sent in time");
    const { clock } = this.#options;
    await inTime(this.#underWay, { clock, ms: patienceAtEnd, keepAlive: true, late }).catch(
      () => {},
    );
  }

  #send(): void {
    if (this.#pending) {
      this.#pending = false;
      // If it fails, the other processes find the entries when they poll.
      const sent = this.#options.ask(announce, [this.#options.self]).catch(() => {});
      this.#underWay = Promise.all([this.#underWay, sent]);
    }
  }
}

/**
 * Listens on a connection of its own.
 *
 * PostgreSQL wakes every listening process of a database for every notification, whatever its channel.
 * So only the opening of a line is proven by a notification. Afterwards a line asks its server process
 * whether it still is the same one and still listens.
 */
export function listenWith(
  newClient: () => Promise<NotifiedClient>,
  options: ChannelOptions,
): OpenPushLine {
  return async ({ wake, lost }) => {
    const { clock, ask, self } = options;
    const opened: NotifiedClient[] = [];
    const another = async (): Promise<NotifiedClient> => {
      const client = await newClient();
      opened.push(client);
      client.on("error", lost);
      return client;
    };
    const close = (): void => {
      for (const client of opened) {
        client.end().catch(() => {});
      }
    };
    const proof = `rpcsession_${randomId(12)}`;
    let prove = (): void => {};
    const proven = new Promise<void>((resolve) => {
      prove = resolve;
    });
    const open = async (): Promise<PushLine> => {
      const client = await another();
      client.on("end", lost);
      client.on("notification", (message) => {
        if (message.channel === proof) {
          prove();
        } else if (message.payload !== self) {
          wake();
        }
      });

      // 1. Connect. Through a pooler that lends its connections, LISTEN would stay on a connection
      // of others: they would get the notifications.
      await client.connect();
      client.unref?.();
      const pid = await pidOf(client);
      if (pid !== client.processID && (await isLent(client, pid, another))) {
        throw new PushImpossible("a pooler lends the connections to the database");
      }

      // 2. Prove that a notification from the pool arrives while this connection is idle. Nobody else
      // knows this channel.
      await client.query(`listen "${proof}"`);
      await ask("select pg_notify($1, '')", [proof]);
      await proven;

      // 3. Listen. The pool names the channel, because its connections write and read the log.
      const [row] = await ask(channelName, []);
      const { name } = row as { readonly name: string };
      await client.query(`unlisten "${proof}"; listen "${name}"`);
      return lineOn(client, { pid, name, close });
    };
    try {
      const late = (): Error => new Error("the database did not answer in time");
      return await inTime(open(), { clock, ms: patience, late });
    } catch (error) {
      close();
      throw error;
    }
  };
}

interface Listening {
  readonly pid: number;
  readonly name: string;
  readonly close: () => void;
}

function lineOn(client: NotifiedClient, { pid, name, close }: Listening): PushLine {
  return {
    close,
    async ping() {
      const { rows } = await client.query(
        `select from pg_listening_channels() as name where name = '${name}' and pg_backend_pid() = ${pid}`,
      );
      if (rows.length === 0) {
        throw new Error("the connection does not listen any more");
      }
    },
  };
}

/**
 * How often {@link isLent} looks. A busy pooler with two processes may lend the same ones by chance: each
 * time with a probability of one in four.
 */
const looks = 16;

/**
 * Whether a pooler lends the server process of an idle connection to others, as PgBouncer does in
 * transaction mode. Leaves nothing behind. A pooler that lends is found whether it takes the process
 * that was used last (PgBouncer's default), the next one in turn, or any.
 */
async function isLent(
  client: NotifiedClient,
  pid: number,
  another: () => Promise<NotifiedClient>,
): Promise<boolean> {
  const other = await another();
  await other.connect();
  try {
    for (let look = 0; look < looks; look++) {
      if ((await pidOf(client)) !== pid || (await pidOf(other)) === pid) {
        return true;
      }
      // One statement more now and then, so that processes in turn do not come out even.
      if (look % 2 === 1 && (await pidOf(other)) === pid) {
        return true;
      }
    }
    return false;
  } finally {
    other.end().catch(() => {});
  }
}

async function pidOf(client: NotifiedClient): Promise<number> {
  const { rows } = await client.query("select pg_backend_pid() as pid");
  return (rows[0] as { readonly pid: number }).pid;
}

function text(statement: Sql): string {
  return statement.render("numbered", nothing).text;
}
