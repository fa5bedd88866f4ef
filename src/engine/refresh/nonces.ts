import { base64Decode } from "@bufbuild/protobuf/wire";
import { encodeBase64url, type SecretRing } from "../../base/crypto.ts";

/** Milliseconds for which the same nonce is handed out. It is accepted for as long again. */
const slotLength = 60_000;

/** `secretId.slot.mac` */
const shape = /^([\w-]{8})\.(\d{1,12})\.([\w-]{42}[AEIMQUYcgkosw048])$/;

/**
 * The nonces of proofs of possession (RFC 9449 section 8): a MAC of the time, so that nothing is stored
 * and every server accepts those of the others. A nonce is accepted for one to two minutes.
 */
export class Nonces {
  readonly #secrets: SecretRing;

  constructor(secrets: SecretRing) {
    this.#secrets = secrets;
  }

  /** @param now milliseconds since 1970, by the store's clock */
  async mint(now: number): Promise<string> {
    const { id, nonce } = this.#secrets.current;
    const slot = String(Math.floor(now / slotLength));
    return `${id}.${slot}.${encodeBase64url(await nonce.sign(slot))}`;
  }

  /**
   * Whether a nonce is one of these, and recent. One of the next minute counts too: the clocks of servers
   * differ a little.
   */
  async isFresh(given: string | undefined, now: number): Promise<boolean> {
    const [, secretId = "", slot = "", mac = ""] = shape.exec(given ?? "") ?? [];
    const keys = this.#secrets.byId.get(secretId);
    const age = Math.floor(now / slotLength) - Number(slot);
    return (
      keys !== undefined &&
      age >= -1 &&
      age <= 1 &&
      (await keys.nonce.verify(slot, base64Decode(mac)))
    );
  }
}

/** Milliseconds for which a nonce, and with it a proof, may be accepted at most. */
export const nonceLife: number = 3 * slotLength;
