import type { JsonObject } from "../../base/json.ts";
import type { Engine } from "../../engine/engine.ts";
import { liveOf } from "../../engine/liveness.ts";
import { type ClaimsChange, type Session, verifiedSessionOf } from "../../engine/session.ts";
import { type Call, endOwn } from "../call/call.ts";
import type { Core, VerifiedClaims } from "../core.ts";
import { misuse } from "../response/errors.ts";
import { endTokens, expireCookies, writeReissued } from "../response/tokens.ts";
import { applyClaims, applyData, infoOf } from "./edits.ts";

/**
 * The session of a verified token, with what can be done to it.
 * @param call the call whose response tells the client; undefined where there is none
 */
export function sessionHandle(core: Core, verified: VerifiedClaims, call?: Call): Session {
  return new SessionHandle(core, verified, call);
}

class SessionHandle implements Session {
  readonly #core: Core;
  readonly #call: Call | undefined;
  #verified: VerifiedClaims;
  readonly id: Session["id"];
  readonly userId: Session["userId"];
  readonly tenantId: Session["tenantId"];
  readonly createdAt: Session["createdAt"];
  readonly authTime: Session["authTime"];
  readonly expiresAt: Session["expiresAt"];
  readonly accessExpiresAt: Session["accessExpiresAt"];
  readonly tokenTransport: Session["tokenTransport"];

  constructor(core: Core, verified: VerifiedClaims, call: Call | undefined) {
    this.#core = core;
    this.#call = call;
    this.#verified = verified;
    const told = verifiedSessionOf(verified.claims, verified.read);
    this.id = told.id;
    this.userId = told.userId;
    this.tenantId = told.tenantId;
    this.createdAt = told.createdAt;
    this.authTime = told.authTime;
    this.expiresAt = told.expiresAt;
    this.accessExpiresAt = told.accessExpiresAt;
    this.tokenTransport = told.tokenTransport;
  }

  get claims(): JsonObject {
    return this.#verified.read;
  }

  async updateClaims(change: ClaimsChange<JsonObject>): Promise<void> {
    if (this.#call?.committed) {
      throw misuse(
        "session.updateClaims: the response headers were sent already, or with the first message of the stream; update the claims before that, or by sessions.updateClaims(session.id, …), which the client learns with its next call",
      );
    }
    const engine = await this.#core.engine();
    const stored = await applyClaims(this.#core, { id: this.id, change });
    const { claims } = this.#verified;
    const reissued = await engine.reissueFrom(claims, stored);
    const read = await this.#core.claims.read(stored.record.claims);
    this.#verified = { claims: reissued?.access.claims ?? claims, read };
    const call = this.#telling();
    if (reissued !== undefined && call !== undefined) {
      // A client takes the tokens of a session that it does not know from a sign-in alone.
      const event = call.written === this.id ? "created" : "reissued";
      await writeReissued(this.#core, call.responseHeader, { ...reissued, event });
    }
  }

  async data(): Promise<JsonObject> {
    return (await this.#load(await this.#core.engine())).data;
  }

  updateData(change: Parameters<Session["updateData"]>[0]): Promise<JsonObject> {
    return applyData(this.#core, { id: this.id, change });
  }

  async info() {
    return infoOf(this.#core, await this.#load(await this.#core.engine()));
  }

  async revoke(): Promise<void> {
    const engine = await this.#core.engine();
    // Where this response can clear the tokens, late calls need not; else the next call does.
    const cleared = this.#telling() !== undefined || this.#isReplaced();
    const end = () => engine.revoke(this.id, cleared ? "signOut" : "revoked");
    await (this.#call === undefined ? end() : endOwn(this.#call, end));
    const call = this.#telling();
    if (call === undefined) {
      return;
    }
    call.written = undefined;
    if (this.tokenTransport === "cookie") {
      expireCookies(this.#core, call.responseHeader);
    }
    endTokens(this.#core, call.responseHeader, this.id);
  }

  async revokeOthers(): Promise<readonly string[]> {
    const engine = await this.#core.engine();
    // Whoever was signed out must not sign out those who did it.
    await this.#load(engine);
    const scope = { userId: this.userId, tenantId: this.tenantId ?? null, except: this.id };
    return engine.revokeAll(scope, "revoked");
  }

  async #load(engine: Engine) {
    return liveOf(this.id, await engine.load(this.id));
  }

  /** Whether the response of the call carries the tokens of another session by now. */
  #isReplaced(): boolean {
    const { written } = this.#call ?? {};
    return written !== undefined && written !== this.id;
  }

  /** The call, as long as its response can say something of this session. */
  #telling(): Call | undefined {
    return this.#call?.committed || this.#isReplaced() ? undefined : this.#call;
  }
}
