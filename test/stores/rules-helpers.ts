import type { SessionError } from "../../src/base/errors.ts";
import { parseRefreshToken } from "../../src/engine/refresh/format.ts";
import type { Refreshed } from "../../src/engine/refresh/refresh.ts";
import type { SessionRecord } from "../../src/engine/store.ts";
import type { Method, Server, Servers, SharedStore } from "./servers.ts";

export type NewSharedStore = () => Promise<SharedStore>;

export const second = 1_000;
export const minute = 60 * second;
export const hour = 60 * minute;
export const day = 24 * hour;
/** After this time every server has read the change log. */
export const pollBound = 2.5 * second;

/** The error with which the work was refused; undefined if it succeeded. */
export async function failure(work: Promise<unknown>): Promise<Partial<SessionError>> {
  return work.then(
    () => ({}),
    (error: SessionError) => error,
  );
}

/** A session whose next refresh advances: generation 0 was confirmed longer ago than the overlap. */
export async function ripe(servers: Servers) {
  const { id, token } = await servers.at(0).signIn();
  await servers.pass(minute);
  const { access } = await servers.at(1).exchange(token);
  await servers.pass(31 * second);
  return { id, token, access };
}

/** A session one generation later, whose next refresh advances too. */
export async function ripeTwice(servers: Servers) {
  const first = await ripe(servers);
  const answer = await servers.at(2).exchange(first.token);
  await servers.pass(minute);
  const successor = answer.refreshToken ?? "";
  await servers.at(3).exchange(successor);
  await servers.pass(31 * second);
  return { ...first, successor, newAccess: answer.access };
}

/** Whether a server accepts this access token: valid, not expired, not known to be revoked. */
export async function accepts(server: Server, { token }: Refreshed["access"]): Promise<boolean> {
  const verified = await server.verify(token, server.revocations.storeNow());
  if (verified.status !== "valid") {
    return false;
  }
  return server.revocations.get(verified.claims.sid) === undefined;
}

/** The servers that accept this access token. */
export async function acceptedBy(
  servers: Servers,
  access: Refreshed["access"],
): Promise<readonly number[]> {
  const accepted = await Promise.all(servers.all.map((server) => accepts(server, access)));
  return accepted.flatMap((is, index) => (is ? [index] : []));
}

/** A call with this access token. */
export async function use(server: Server, access: Refreshed["access"]): Promise<void> {
  server.used(access.claims);
  await server.settled();
}

export async function recordOf(servers: Servers, id: string): Promise<SessionRecord> {
  const { record } = await servers.at(0).load(id);
  if (record === undefined) {
    throw new Error(`there is no session ${id}`);
  }
  return record;
}

/** Holds the first call of a method on each server until all servers have reached it. */
export function meetAt(servers: Servers, method: Method): void {
  let go = (): void => {};
  const all = new Promise<void>((resolve) => {
    go = resolve;
  });
  let missing = servers.all.length;
  for (const server of servers.all) {
    let first = true;
    server.hook = async (called, run) => {
      if (called === method && first) {
        first = false;
        missing -= 1;
        if (missing === 0) {
          go();
        }
        await all;
      }
      return run();
    };
  }
}

export function times<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index));
}

/** The refresh token of the current generation of a session, made from an older token of it. */
export async function tokenOf(
  server: Server,
  record: SessionRecord,
  older: string,
): Promise<string> {
  const parsed = parseRefreshToken(older);
  return server.refreshTokens.mint(record, parsed?.format === 2 ? parsed.root : undefined);
}
