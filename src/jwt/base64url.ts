/**
 * Decodes canonical base64url without padding (RFC 4648 §5, RFC 7515 §2): the one spelling that an
 * encoder makes. Refused are padding, white space, `+` and `/`, an impossible length, and bits after
 * the last byte that are not zero.
 *
 * @returns undefined when a rule is broken
 */
export function decodeBase64url(text: string): Uint8Array<ArrayBuffer> | undefined {
  const rest = text.length % 4;
  if (rest === 1) {
    return undefined;
  }
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  let at = 0;
  let bits = 0;
  let held = 0;
  for (let i = 0; i < text.length; i++) {
    const value = values[text.charCodeAt(i)] ?? invalid;
    if (value === invalid) {
      return undefined;
    }
    bits = (bits << 6) | value;
    held += 6;
    if (held >= 8) {
      held -= 8;
      bytes[at++] = bits >> held;
      bits &= (1 << held) - 1;
    }
  }
  return bits === 0 ? bytes : undefined;
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const invalid = 0xff;
const values = new Uint8Array(128).fill(invalid);
for (let i = 0; i < alphabet.length; i++) {
  values[alphabet.charCodeAt(i)] = i;
}
