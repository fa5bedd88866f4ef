import { type RawBuilder, sql } from "kysely";
import { randomId } from "../../base/crypto.ts";
import type { OpenPushLine } from "../push.ts";

/** What is needed of a connection to hear notifications: `pg.Client` fits. */
export interface NotifiedClient {
  connect(): Promise<unknown>;
  query(text: string): Promise<{ readonly rows: readonly unknown[] }>;
  on(event: "notification", listener: (told: { readonly channel: string }) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  end(): Promise<void>;
  /** Lets the process exit although the connection is open. */
  unref?(): void;
}

/** One channel for each schema, since a database may hold the sessions of several services. */
const channel = "'rpcsession_' || md5(coalesce(current_schema(), ''))";

/** Tells, once the transaction is committed, that it appended to the change log. */
export const notifyAppended: RawBuilder<unknown> = sql`pg_notify(${sql.raw(channel)}, '')`;

/**
 * Listens on a connection of its own. Each proof is a notification to itself: of a connection that
 * the server has forgotten, or behind a pooler that lends it to others, none comes back.
 */
export function listenWith(newClient: () => Promise<NotifiedClient>): OpenPushLine {
  return async ({ wake, lost }) => {
    const client = await newClient();
    const beats = `rpcsession_${randomId(12)}`;
    let heard = (): void => {};
    client.on("error", lost);
    client.on("end", lost);
    client.on("notification", (told) => (told.channel === beats ? heard() : wake()));
    const close = (): void => void client.end().catch(() => {});
    try {
      await client.connect();
      client.unref?.();
      const { rows } = await client.query(`select ${channel} as name`);
      const { name } = rows[0] as { readonly name: string };
      await client.query(`listen "${name}"; listen "${beats}"`);
    } catch (error) {
      close();
      throw error;
    }
    return {
      close,
      beat: () =>
        new Promise((resolve, reject) => {
          heard = resolve;
          client.query(`notify "${beats}"`).catch(reject);
        }),
    };
  };
}
