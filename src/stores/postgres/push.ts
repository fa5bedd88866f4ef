import { randomId } from "../../base/crypto.ts";
import type { OpenPushLine } from "../push.ts";
import { nothing, type Sql, sql } from "../sql/database.ts";

/** What listening and migrating need from a connection: `pg.Client` fits. */
export interface NotifiedClient {
  connect(): Promise<unknown>;
  query(text: string, values?: unknown[]): Promise<{ readonly rows: readonly unknown[] }>;
  on(event: "notification", listener: (message: { readonly channel: string }) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  end(): Promise<void>;
  /** Lets the process exit although the connection is open. */
  unref?(): void;
}

/** One channel for each schema, since a database may hold the sessions of several services. */
export const channel: Sql = sql`'rpcsession_' || md5(coalesce(current_schema(), ''))`;

/**
 * Listens on a connection of its own. Each ping is a notification to itself. It does not come back if
 * the server has forgotten the connection, or if a pooler lends the connection to others.
 */
export function listenWith(newClient: () => Promise<NotifiedClient>): OpenPushLine {
  return async ({ wake, lost }) => {
    const client = await newClient();
    const pings = `rpcsession_${randomId(12)}`;
    let returned = (): void => {};
    client.on("error", lost);
    client.on("end", lost);
    client.on("notification", (message) => (message.channel === pings ? returned() : wake()));
    const close = (): void => void client.end().catch(() => {});
    try {
      await client.connect();
      client.unref?.();
      const { rows } = await client.query(channelName);
      const { name } = rows[0] as { readonly name: string };
      await client.query(`listen "${name}"; listen "${pings}"`);
    } catch (error) {
      close();
      throw error;
    }
    return {
      close,
      ping: () =>
        new Promise((resolve, reject) => {
          returned = resolve;
          client.query(`notify "${pings}"`).catch(reject);
        }),
    };
  };
}

const channelName = sql`select ${channel} as name`.render("numbered", nothing).text;
