import { base64Decode } from "@bufbuild/protobuf/wire";
import { encodeBase64url, randomId, type SecretRing } from "../../base/crypto.ts";
import { SessionError } from "../../base/errors.ts";
import { isLive } from "../liveness.ts";
import { storeFailed } from "../reach.ts";
import { rootHashOf } from "../refresh/token.ts";
import type { SessionRecord, SessionStore, Stored } from "../store.ts";

interface TicketParts {
  readonly secrets: SecretRing;
  readonly store: Pick<SessionStore, "lease">;
  /** Reads a session, whether it is live or not. */
  load(id: string): Promise<Stored<SessionRecord | undefined>>;
}

/** `secretId.expires.nonce.session.check.proof`; 193 characters at most, all of them tokens of RFC 9110. */
const shape =
  /^(?<secretId>[\w-]{8})\.(?<body>(?<expires>\d{1,14})\.(?<nonce>[\w-]{16})\.(?<session>[\w-]{1,64}))\.(?<check>[\w-]{42}[AEIMQUYcgkosw048])\.(?<proof>[\w-]{42}[AEIMQUYcgkosw048])$/;

/** Milliseconds for which a use is remembered after the end of its ticket: clocks may step back. */
const usedFor = 60_000;

/**
 * Tickets: each gives its session once, for one purpose. Nothing is stored until one is redeemed. Its use
 * is a lease in the store, which only one server gets.
 *
 * A ticket has two MACs. The check admits it to the store, so that junk costs no read. The proof depends
 * on the hash of the session's root, too, which is in the row alone: ids of sessions are public, and a
 * leaked secret must not be enough to make a ticket.
 */
export class Tickets {
  readonly #parts: TicketParts;

  constructor(parts: TicketParts) {
    this.#parts = parts;
  }

  /** @param expires milliseconds since 1970, by the store's clock */
  async mint(
    record: SessionRecord,
    { purpose, expires }: { readonly purpose: string; readonly expires: number },
  ): Promise<string> {
    const { id, ticket } = this.#parts.secrets.current;
    const body = `${Math.round(expires)}.${randomId(12)}.${record.id}`;
    const check = encodeBase64url(await ticket.sign(checked(body, purpose)));
    const proof = encodeBase64url(await ticket.sign(await proven(body, purpose, record)));
    return `${id}.${body}.${check}.${proof}`;
  }

  /**
   * Returns the session of a ticket, and marks the ticket as used.
   * @throws SessionError `unauthorized` if the ticket is not valid for the purpose, has expired or was
   * used, or its session is over; `unavailable`
   */
  async redeem(given: unknown, purpose: string): Promise<SessionRecord> {
    // 1. It must look like one of ours, for this purpose. Junk costs no I/O.
    const found = typeof given === "string" ? shape.exec(given)?.groups : undefined;
    const { secretId = "", body = "", nonce = "", session = "", check = "" } = found ?? {};
    const keys = this.#parts.secrets.byId.get(secretId);
    if (!(await keys?.ticket.verify(checked(body, purpose), base64Decode(check)))) {
      throw invalid();
    }

    // 2. It must be of this session, and the session must be there to tell.
    const stored = await this.#parts.load(session);
    const { record } = stored;
    const proof = base64Decode(found?.proof ?? "");
    if (record === undefined) {
      throw over(session);
    }
    if (!(await keys?.ticket.verify(await proven(body, purpose, record), proof))) {
      throw invalid();
    }

    // 3. It must not have expired, by the store's clock, and its session must be live.
    const remaining = Number(found?.expires) - stored.now;
    if (remaining <= 0) {
      throw refused("TOKEN_EXPIRED", "the ticket has expired; ask for a new one", session);
    }
    if (!isLive(stored)) {
      throw over(session);
    }

    // 4. Only one caller takes it. Every attempt is a holder of its own, so none renews the lease.
    const taken = await this.#parts.store
      .lease(`ticket:${nonce}`, randomId(12), Math.ceil(remaining) + usedFor)
      .catch(storeFailed);
    if (!taken) {
      throw refused("TOKEN_INVALID", "the ticket has been used; ask for a new one", session);
    }
    return stored.record;
  }
}

/** What the check is a MAC of. No purpose has a NUL, so it cannot be mistaken for that of a proof. */
function checked(body: string, purpose: string): string {
  return `${body}\u0000${purpose}`;
}

/** What the proof is a MAC of. */
async function proven(body: string, purpose: string, record: SessionRecord): Promise<string> {
  return `${checked(body, purpose)}\u0000${await rootHashOf(record)}`;
}

function invalid(): SessionError {
  return refused("TOKEN_INVALID", "the ticket is not valid here; ask for a new one");
}

function over(session: string): SessionError {
  return refused("SESSION_REVOKED", "the session of the ticket is over; sign in again", session);
}

/** Never clears tokens: whoever redeems a ticket may have a session of their own. */
function refused(
  reason: "TOKEN_INVALID" | "TOKEN_EXPIRED" | "SESSION_REVOKED",
  message: string,
  sessionId?: string,
): SessionError {
  return new SessionError("unauthorized", reason, {
    message,
    ...(sessionId === undefined ? {} : { sessionId }),
  });
}
