import { sql } from "kysely";
import type { SqlDatabase } from "./sql-schema.ts";

/** Takes or renews a lease; see `SessionStore.lease`. One statement, so that one of many gets it. */
export async function takeLease(
  { db, now }: SqlDatabase,
  { name, holder, ttl }: { readonly name: string; readonly holder: string; readonly ttl: number },
): Promise<boolean> {
  const time = now();
  const expires = sql<number>`${time} + ${ttl}`;
  const taken = await db
    .insertInto("rpcsession_leases")
    .values({ name, holder, expires_at: expires })
    .onConflict((conflict) =>
      conflict
        .column("name")
        .doUpdateSet({ holder, expires_at: expires })
        .where((is) =>
          is.or([
            is("rpcsession_leases.holder", "=", holder),
            is("rpcsession_leases.expires_at", "<=", time),
          ]),
        ),
    )
    .returning("name")
    .executeTakeFirst();
  return taken !== undefined;
}
