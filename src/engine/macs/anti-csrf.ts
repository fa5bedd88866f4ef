import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import type { SecretRing } from "../../base/crypto.ts";

/** `secretId.mac`, both base64url. */
const shape = /^([\w-]{8})\.([\w-]{42}[AEIMQUYcgkosw048])$/;

/** Anti-CSRF tokens: an HMAC of the session id, so that nothing has to be stored. */
export class AntiCsrf {
  readonly #secrets: SecretRing;

  constructor(secrets: SecretRing) {
    this.#secrets = secrets;
  }

  /** Creates the token of a session under the current secret. */
  async mint(session: string): Promise<string> {
    const { id, antiCsrf } = this.#secrets.current;
    return `${id}.${base64Encode(await antiCsrf.sign(bytesOf(session)), "url")}`;
  }

  /** Whether the token belongs to this session, under any secret. Compares in constant time. */
  async verify(session: string, token: string): Promise<boolean> {
    const [, secretId = "", mac = ""] = shape.exec(token) ?? [];
    const keys = this.#secrets.byId.get(secretId);
    return keys !== undefined && (await keys.antiCsrf.verify(bytesOf(session), base64Decode(mac)));
  }
}

function bytesOf(session: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(session);
}
