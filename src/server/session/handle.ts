import type { JsonObject } from "../../base/json.ts";
import { type RevokeCause, readCause } from "../../engine/audit/log.ts";
import { liveOf } from "../../engine/liveness.ts";
import {
  type ClaimsChange,
  type DataChange,
  type Session,
  type SessionInfo,
  type VerifiedSession,
  verifiedSessionOf,
} from "../../engine/session.ts";
import type { SessionRecord } from "../../engine/store.ts";
import { type Call, endOwn, type VerifiedClaims } from "../call/call.ts";
import type { Core } from "../core.ts";
import { misuse, sessionMissing } from "../response/errors.ts";
import { endTokens, expireCookies, writeReissued } from "../response/tokens.ts";
import { infoOf, updateClaims, updateData } from "./edits.ts";

/** Creates the session of a call. */
export function sessionOn(core: Core, verified: VerifiedClaims, call: Call): Session {
  return new SessionHandle(core, verified, call);
}

/** The session of a verified access token, with the operations on it. */
export class SessionHandle implements Session {
  readonly #core: Core;
  readonly #call: Call | undefined;
  #verified: VerifiedClaims;
  readonly id: Session["id"];
  readonly userId: Session["userId"];
  readonly tenantId: Session["tenantId"];
  readonly createdAt: Session["createdAt"];
  readonly authTime: Session["authTime"];
  readonly acr: Session["acr"];
  readonly amr: Session["amr"];
  readonly expiresAt: Session["expiresAt"];
  readonly accessExpiresAt: Session["accessExpiresAt"];
  readonly tokenTransport: Session["tokenTransport"];
  readonly boundKey: Session["boundKey"];

  /** @param call the call whose response informs the client; undefined if there is none */
  constructor(core: Core, verified: VerifiedClaims, call?: Call) {
    this.#core = core;
    this.#call = call;
    this.#verified = verified;
    const facts = verifiedSessionOf(verified.claims, verified.read);
    this.id = facts.id;
    this.userId = facts.userId;
    this.tenantId = facts.tenantId;
    this.createdAt = facts.createdAt;
    this.authTime = facts.authTime;
    this.acr = facts.acr;
    this.amr = facts.amr;
    this.expiresAt = facts.expiresAt;
    this.accessExpiresAt = facts.accessExpiresAt;
    this.tokenTransport = facts.tokenTransport;
    this.boundKey = facts.boundKey;
  }

  get claims(): JsonObject {
    return this.#verified.read;
  }

  updateClaims(change: ClaimsChange<JsonObject>): Promise<void> {
    return this.#core.operations.run(() => this.#updateClaims(change));
  }

  async #updateClaims(change: ClaimsChange<JsonObject>): Promise<void> {
    // 1. The response of this call must still be able to carry the new access token.
    if (this.#call?.committed) {
      throw misuse(
        "session.updateClaims: the response headers have already been sent (a stream sends them with its first message); update the claims earlier, or use sessions.updateClaims(session.id, …), which the client sees on its next call",
      );
    }

    // 2. Change the claims in the store, and sign an access token that carries them.
    const engine = await this.#core.engine();
    const stored = await updateClaims(this.#core, this.id, change);
    const { claims } = this.#verified;
    const reissued = await engine.reissueFrom(claims, stored);

    // 3. From now on this handle returns the new claims.
    const read = await this.#core.claims.read(stored.record.claims);
    this.#verified = { claims: reissued?.access.claims ?? claims, read };
    this.#call?.changed(this.#verified);

    // 4. Write the access token to the response.
    const call = this.#informableCall();
    if (reissued !== undefined && call !== undefined) {
      // The notice keeps its event: a client accepts tokens of a session that it does not know only
      // from a sign-in.
      const event = call.written?.event ?? "reissued";
      await writeReissued(this.#core, call, { ...reissued, event });
    }
  }

  data(): Promise<JsonObject> {
    return this.#core.operations.run(() => this.#data());
  }

  async #data(): Promise<JsonObject> {
    const { data } = await this.#load();
    return data;
  }

  updateData(change: DataChange): Promise<JsonObject> {
    return this.#core.operations.run(() => updateData(this.#core, this.id, change));
  }

  info(): Promise<SessionInfo> {
    return this.#core.operations.run(() => this.#info());
  }

  async #info(): Promise<SessionInfo> {
    return infoOf(this.#core, await this.#load());
  }

  revoke(given?: RevokeCause): Promise<void> {
    return this.#core.operations.run(() => this.#revoke(given));
  }

  async #revoke(given: RevokeCause | undefined): Promise<void> {
    const cause = readCause("session.revoke", given);
    const engine = await this.#core.engine();

    // 1. End the session. If this response clears the tokens, late calls must leave cookies alone
    // ("signOut"). Otherwise the client's next call clears them ("revoked").
    const isCleared = this.#informableCall() !== undefined || this.#isReplaced();
    const end = () => engine.revoke(this.id, isCleared ? "signOut" : "revoked", cause);
    await (this.#call === undefined ? end() : endOwn(this.#call, end));

    // 2. Clear the tokens. Ask again: a stream may have sent its headers in the meantime.
    const call = this.#informableCall();
    if (call === undefined) {
      return;
    }
    call.written = undefined;
    if (this.tokenTransport === "cookie") {
      expireCookies(this.#core, call);
    }
    endTokens(this.#core, call.responseHeader, this.id);
  }

  revokeOthers(given?: RevokeCause): Promise<readonly string[]> {
    return this.#core.operations.run(() => this.#revokeOthers(given));
  }

  async #revokeOthers(given: RevokeCause | undefined): Promise<readonly string[]> {
    const cause = { ...readCause("session.revokeOthers", given), from: this.id };
    const engine = await this.#core.engine();
    // A session that was signed out must not sign out the sessions that did it.
    await this.#load();
    const scope = { userId: this.userId, tenantId: this.tenantId ?? null, except: this.id };
    return engine.revokeAll(scope, "revoked", cause);
  }

  /** @throws SessionError `unauthorized` if the session has ended */
  async #load(): Promise<SessionRecord> {
    const engine = await this.#core.engine();
    return liveOf(this.id, await engine.load(this.id));
  }

  /** Whether the response of the call now carries the tokens of another session. */
  #isReplaced(): boolean {
    const { written } = this.#call ?? {};
    return written !== undefined && written.session !== this.id;
  }

  /** The call, as long as its response can still inform the client about this session. */
  #informableCall(): Call | undefined {
    return this.#call?.committed || this.#isReplaced() ? undefined : this.#call;
  }
}

/**
 * Returns the session of a call.
 * @throws SessionError `unauthorized` if it has none; `forbidden` if its claims do not fit the schema
 */
export function presentSession({ session, unreadable }: Call): VerifiedSession {
  if (unreadable !== undefined) {
    throw unreadable;
  }
  if (session === undefined) {
    throw sessionMissing();
  }
  return session;
}
