import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import { equalBytes, type SecretRing } from "../base/crypto.ts";

/** The anti-CSRF token of a session: an HMAC of its id, so that nothing needs to be stored. */
export interface AntiCsrf {
  mint(session: string): Promise<string>;
  /** Whether the token is the one of this session, under any of our secrets. Constant time. */
  verify(session: string, token: string): Promise<boolean>;
}

const shape = /^([\w-]{8})\.([\w-]{42}[AEIMQUYcgkosw048])$/;

export function createAntiCsrf(secrets: SecretRing): AntiCsrf {
  return {
    async mint(session) {
      const { id, antiCsrf } = secrets.current;
      return `${id}.${base64Encode(await antiCsrf.sign(input(session)), "url")}`;
    },
    async verify(session, token) {
      const [, secretId = "", mac = ""] = shape.exec(token) ?? [];
      const keys = secrets.get(secretId);
      return (
        keys !== undefined &&
        equalBytes(await keys.antiCsrf.sign(input(session)), base64Decode(mac))
      );
    },
  };
}

function input(session: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(session);
}
