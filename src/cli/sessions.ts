import { systemClock } from "../base/clock.ts";
import type { RevokeCause } from "../engine/audit/log.ts";
import { livePages } from "../engine/liveness.ts";
import type { SessionOwner, SessionRecord, SessionStore } from "../engine/store.ts";
import { type Command, type Given, table, textOf, timeText, UsageError } from "./command.ts";
import { hasSessionIdForm, onStore } from "./database.ts";

/** Sessions on one page of a list. */
const pageSizes = { default: 50, max: 1000 } as const;
/** Ids in one call of `revokeAll`; the limit of its contract. */
const maxIds = 1000;

const ownerOptions = [
  { flags: "--user <id>", meaning: "the sessions of this user" },
  {
    flags: "--tenant <id>",
    meaning: "the sessions in this tenant; with --user, those of the user in it",
  },
] as const;

/** `rpc-session sessions list` */
export const sessionsList: Command = onStore({
  name: "sessions list",
  summary: "show the live sessions of a user or of a tenant",
  forms: ["--user <id> [--tenant <id>] [--json] <database>", "--tenant <id> [--json] <database>"],
  about:
    "Shows live sessions, newest first: when each began and was last refreshed, when it ends, and on which device it runs. Shows the names of claims, not their values, and neither tokens nor private data.",
  options: [
    ...ownerOptions,
    {
      flags: "--limit <number>",
      meaning: `sessions on one page, at most ${pageSizes.max}; default ${pageSizes.default}`,
    },
    { flags: "--page <cursor>", meaning: "the next page, as the former one names it" },
  ],
  examples: [
    ["See where a user is signed in", "rpc-session sessions list --user alice sessions.db"],
    [
      "Print the ids of a user's sessions",
      "rpc-session sessions list --user alice --json | jq -r '.sessions[].id'",
    ],
  ],
  async run(given) {
    const owner = readOwner(given);
    if (owner === undefined) {
      throw new UsageError("--user or --tenant is missing; it names whose sessions to show");
    }
    const page = { cursor: textOf(given, "page"), limit: readLimit(given) };
    const { records, cursor } = await given.store.list(owner, page);
    const sessions = records.map(shownOf);
    const rows = sessions.map((one) => [
      ...[one.id, one.userId, one.tenantId ?? "", one.transport, one.createdAt, one.lastSeenAt],
      ...[one.endsAt, one.device.label ?? one.device.userAgent ?? ""],
    ]);
    const head = ["SESSION", "USER", "TENANT", "TOKENS", "CREATED", "LAST SEEN", "ENDS", "DEVICE"];
    const more = cursor === undefined ? "" : `More: add --page ${cursor}\n`;
    return {
      text: rows.length === 0 ? "No live sessions.\n" : `${table([head, ...rows])}${more}`,
      json: { sessions, ...(cursor === undefined ? {} : { nextPage: cursor }) },
    };
  },
});

/** `rpc-session sessions revoke` */
export const sessionsRevoke: Command = onStore({
  name: "sessions revoke",
  summary: "end sessions on all servers",
  forms: [
    "[--json] <database> <session id>...",
    "--user <id> [--tenant <id>] [--json] <database>",
    "--tenant <id> [--json] <database>",
    "--all [--json] <database>",
  ],
  about:
    "Ends sessions on all servers, within their maxStaleness. Open streams end as well. A session that has already ended is not an error. With --by or --reason, the audit log of the store keeps for 90 days that they were ended, by whom and why.",
  names: [
    {
      name: "session id",
      meaning: 'the sessions to end, see "rpc-session sessions list"',
      count: "any",
    },
  ],
  takesIds: true,
  options: [
    ...ownerOptions,
    { flags: "--all", meaning: "every session of every user and tenant that is live now" },
    { flags: "--by <who>", meaning: "who ends them, for the audit log" },
    { flags: "--reason <text>", meaning: "why, for the audit log; must not contain secrets" },
  ],
  examples: [
    ["End one session", 'rpc-session sessions revoke sessions.db "$SESSION_ID"'],
    ["Sign a user out everywhere", "rpc-session sessions revoke --user alice sessions.db"],
    [
      "The same, for the audit log",
      'rpc-session sessions revoke --user alice --by admin:7 --reason "laptop stolen" sessions.db',
    ],
    ["Sign everybody out", "rpc-session sessions revoke --all sessions.db"],
  ],
  async run(given) {
    const { store, rest: ids, options } = given;
    const owner = readOwner(given);
    const scopes = [ids.length > 0, owner !== undefined, options.all === true].filter(Boolean);
    if (scopes.length !== 1) {
      throw new UsageError(
        scopes.length === 0
          ? "name the sessions to end: by their ids, by --user or --tenant, or --all for everybody"
          : "name the sessions to end in one way: by their ids, by --user or --tenant, or by --all",
      );
    }
    const cause = await causeOf(given);
    const revoked = await revoke(store, { ids, owner });
    await record(store, revoked, cause);
    const text = `Sessions ended: ${revoked.length}.\n`;
    if (ids.length === 0) {
      return { text, json: { revoked: revoked.length } };
    }
    const ended = new Set(revoked);
    const others = [...new Set(ids)].filter((id) => !ended.has(id));
    const rest = others.length === 0 ? "" : `Not live: ${others.join(", ")}.\n`;
    return { text: `${text}${rest}`, json: { revoked: revoked.length, notLive: others } };
  },
});

/** What to end: ids, the sessions of an owner, or without either all sessions. */
interface Scope {
  readonly ids: readonly string[];
  readonly owner: SessionOwner | undefined;
}

async function revoke(store: SessionStore, { ids, owner }: Scope): Promise<readonly string[]> {
  if (owner !== undefined) {
    return (await store.revokeAll({ ...owner, except: null }, "revoked")).revoked;
  }
  if (!ids.every(hasSessionIdForm)) {
    // Never repeats the argument: it may be a token.
    throw new UsageError(
      'an argument does not have the form of a session id, 22 characters; see "rpc-session sessions list"',
    );
  }
  const revoked: string[] = [];
  for await (const page of ids.length > 0 ? pagesOf(ids) : livePages(store)) {
    revoked.push(...(await store.revokeAll({ ids: page }, "revoked")).revoked);
  }
  return revoked;
}

/** @returns undefined if neither is given */
async function causeOf(given: Given): Promise<RevokeCause | undefined> {
  const [by, reason] = [textOf(given, "by"), textOf(given, "reason")];
  if (by === undefined && reason === undefined) {
    return undefined;
  }
  const cause = {
    ...(by === undefined ? {} : { by }),
    ...(reason === undefined ? {} : { reason }),
  };
  const { readCause } = await import("../engine/audit/log.ts");
  try {
    return readCause("sessions revoke", cause);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Records the ends in the audit log. */
async function record(
  store: SessionStore,
  revoked: readonly string[],
  cause: RevokeCause | undefined,
): Promise<void> {
  if (cause === undefined) {
    return;
  }
  const { createAuditLog } = await import("../engine/audit/log.ts");
  let failed: Error | undefined;
  const audit = createAuditLog(
    {},
    {
      ...{ store, clock: systemClock },
      emit: (event) => {
        failed = event.type === "failed" ? (failed ?? event.error) : failed;
      },
    },
  );
  await audit?.ended(revoked, { endedBy: "revoked", cause });
  await audit?.close();
  if (failed !== undefined) {
    throw new Error(
      `${revoked.length} sessions were ended, but the audit log could not be written`,
      { cause: failed },
    );
  }
}

function pagesOf(ids: readonly string[]): readonly (readonly string[])[] {
  const count = Math.ceil(ids.length / maxIds);
  return Array.from({ length: count }, (_, i) => ids.slice(i * maxIds, (i + 1) * maxIds));
}

/** @returns undefined if no owner is given */
function readOwner(given: Given): SessionOwner | undefined {
  const [userId, tenantId] = [textOf(given, "user"), textOf(given, "tenant")];
  if (userId === "" || tenantId === "") {
    // An empty variable of a script must not select other sessions than it names.
    throw new UsageError("--user and --tenant must not be empty");
  }
  return userId === undefined && tenantId === undefined
    ? undefined
    : { userId: userId ?? null, tenantId: tenantId ?? null };
}

function readLimit(given: Given): number {
  const text = textOf(given, "limit");
  const limit = text === undefined ? pageSizes.default : Number(text);
  if (!Number.isSafeInteger(limit) || limit < 1 || limit > pageSizes.max) {
    throw new UsageError(`--limit must be a whole number from 1 to ${pageSizes.max}`);
  }
  return limit;
}

/** A session as it is printed: nothing that proves it, and no values of claims. Times are ISO 8601. */
function shownOf(record: SessionRecord) {
  const { id, userId, tenantId, transport, generation, device, claims } = record;
  return {
    ...{ id, userId, tenantId, transport, generation },
    createdAt: timeText(record.createdAt),
    authTime: timeText(record.authTime),
    lastSeenAt: timeText(record.lastSeenAt),
    endsAt: timeText(Math.min(record.idleExpiresAt, record.expiresAt)),
    expiresAt: timeText(record.expiresAt),
    device,
    claims: Object.keys(claims),
  };
}
