import { createHash, createHmac, hkdfSync } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { openSecretRing, randomId, readSecretOption } from "../../src/base/crypto.ts";
import {
  hashOfRoot,
  maxRefreshTokenLength,
  mintRooted,
  mintSalted,
  parseRefreshToken,
  type RootedBinding,
  type SaltedBinding,
  verifyCheck,
  verifyRooted,
  verifyTag,
} from "../../src/engine/refresh/format.ts";

const issuer = "https://api.example.com";
const ring = await openSecretRing(readSecretOption("a".repeat(32)), issuer);
const keys = ring.current;
const binding: SaltedBinding = {
  transport: "cookie",
  tenantId: "acme",
  session: randomId(16),
  generation: 7,
  salt: randomId(32),
};
const token = await mintSalted(keys, binding);

async function proves(candidate: string, against: SaltedBinding): Promise<boolean> {
  const parsed = parseRefreshToken(candidate);
  return (
    parsed?.format === 1 &&
    (await verifyCheck(keys, parsed)) &&
    (await verifyTag(keys, parsed, against))
  );
}

describe("mintSalted: tokens of format 1", () => {
  it("gives the same token on every server that has the secret", async () => {
    const elsewhere = await openSecretRing(
      readSecretOption(["b".repeat(40), "a".repeat(32)]),
      issuer,
    );
    const same = elsewhere.byId.get(keys.id);
    expect(same && (await mintSalted(same, binding))).toBe(token);
  });

  it("has a fixed format, so that tokens stay valid after an upgrade", async () => {
    const derive = (purpose: string): Buffer => {
      const info = `rpc-session/v1/${purpose}\0${issuer}`;
      return Buffer.from(hkdfSync("sha256", "a".repeat(32), "", info, 32));
    };
    const hmac = (purpose: string, data: Uint8Array | string): Buffer =>
      createHmac("sha256", derive(purpose)).update(data).digest();
    const secretId = derive("secret-id").subarray(0, 6).toString("base64url");
    // Each field follows its length in bytes: 32 bits, the most significant byte first.
    const tenantId = "größe";
    const { session, salt } = binding;
    const fields = [secretId, "cookie", tenantId, session, "7", salt].flatMap((field) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(Buffer.byteLength(field));
      return [length, Buffer.from(field)];
    });
    const tag = hmac("refresh-tag", Buffer.concat(fields)).toString("base64url");
    const body = `${secretId}.${session}.7.${tag}`;
    const check = hmac("refresh-check", body).subarray(0, 8).toString("base64url");
    expect(await mintSalted(keys, { ...binding, tenantId })).toBe(`${body}.${check}`);
  });

  it.each([
    ["transport", { transport: "header" }],
    ["tenant", { tenantId: null }],
    ["tenant, moved into the next field", { tenantId: `acme${binding.session.slice(0, 2)}` }],
    ["session", { session: randomId(16) }],
    ["generation", { generation: 8 }],
    ["salt", { salt: randomId(32) }],
  ] as [string, Partial<SaltedBinding>][])("is bound to the %s", async (_name, change) => {
    expect(await proves(token, binding)).toBe(true);
    expect(await proves(token, { ...binding, ...change })).toBe(false);
  });

  it("is bound to the issuer and the secret", async () => {
    const otherIssuer = await openSecretRing(readSecretOption("a".repeat(32)), "https://b.example");
    expect(await mintSalted(otherIssuer.current, binding)).not.toBe(token);
    expect(otherIssuer.current.id).not.toBe(keys.id);
  });

  it("is much shorter than a cookie may be", async () => {
    const longest = await mintSalted(keys, { ...binding, generation: 9_999_999_999 });
    expect(longest.length).toBeLessThan(maxRefreshTokenLength);
    expect(parseRefreshToken(longest)?.generation).toBe(9_999_999_999);
  });
});

const ofRoot: RootedBinding = {
  transport: "cookie",
  session: binding.session,
  generation: 7,
  root: randomId(16),
};
const rooted = await mintRooted(keys, ofRoot);

async function admits(candidate: string, transport: "cookie" | "header" = "cookie") {
  const parsed = parseRefreshToken(candidate);
  return parsed?.format === 2 && (await verifyRooted(keys, parsed, transport));
}

describe("mintRooted: tokens of format 2", () => {
  it("has a fixed format, so that tokens stay valid after an upgrade", async () => {
    const info = `rpc-session/v1/refresh-token-2\0${issuer}`;
    const key = Buffer.from(hkdfSync("sha256", "a".repeat(32), "", info, 32));
    const { session, root } = ofRoot;
    // The place of the thumbprint is empty.
    const fields = [keys.id, "cookie", session, "7", root, ""];
    const input = `refresh:${fields.map((field) => `${field.length}:${field},`).join("")}`;
    const mac = createHmac("sha256", key).update(input).digest("base64url");
    expect(rooted).toBe(`${keys.id}.${session}.7.2.${root}.${mac}`);
  });

  it("is bound to transport, session, generation, root, secret and issuer", async () => {
    expect(await admits(rooted)).toBe(true);
    expect(await admits(rooted, "header")).toBe(false);
    const other = await mintRooted(keys, { ...ofRoot, generation: 8, root: randomId(16) });
    const [a, b] = [rooted.split("."), other.split(".")];
    for (const field of [1, 2, 4, 5]) {
      const mixed = a.map((part, i) => (i === field ? (field === 1 ? randomId(16) : b[i]) : part));
      expect(await admits(mixed.join(".")), String(field)).toBe(false);
    }
    const otherIssuer = await openSecretRing(readSecretOption("a".repeat(32)), "https://b.example");
    const [, ...rest] = (await mintRooted(otherIssuer.current, ofRoot)).split(".");
    expect(await admits([keys.id, ...rest].join("."))).toBe(false);
  });

  it("any change of a token makes it invalid", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat({ max: rooted.length - 1 }),
        fc.constantFrom(...Array.from("ABCabc019-_. =+/")),
        async (position, character) => {
          const changed = rooted.slice(0, position) + character + rooted.slice(position + 1);
          expect(await admits(changed)).toBe(changed === rooted);
        },
      ),
      { numRuns: 500 },
    );
  });

  it("says that a session has to be bound to a key, and then to which one", async () => {
    const marked = await mintRooted(keys, { ...ofRoot, mustBind: true });
    const boundKey = randomId(32);
    const bound = await mintRooted(keys, { ...ofRoot, boundKey });
    expect(parseRefreshToken(rooted)).toMatchObject({ boundKey: null, mustBind: false });
    expect(parseRefreshToken(marked)).toMatchObject({ boundKey: null, mustBind: true });
    expect(parseRefreshToken(bound)).toMatchObject({ boundKey, mustBind: false });
    const all = [rooted, marked, bound];
    for (const token of all) {
      expect(await admits(token)).toBe(true);
      for (const field of ["", ".b", `.${boundKey}`]) {
        const changed = token.replace(/(\.2\.[\w-]{22}).*(\.[\w-]{43})$/, `$1${field}$2`);
        expect(await admits(changed), changed).toBe(all.indexOf(changed) >= 0);
      }
    }
  });

  it("takes the salt of an older session as its root, and stays within the limit", async () => {
    const longest = { ...ofRoot, generation: 9_999_999_999, root: randomId(32) };
    const token = await mintRooted(keys, longest);
    expect(token.length).toBeLessThan(maxRefreshTokenLength);
    expect(parseRefreshToken(token)).toMatchObject({
      format: 2,
      generation: longest.generation,
      root: longest.root,
    });
  });

  it("no token is of both formats", async () => {
    expect(parseRefreshToken(token)).toMatchObject({ format: 1 });
    expect(parseRefreshToken(rooted)).toMatchObject({ format: 2 });
    expect(parseRefreshToken(rooted.replace(".2.", "."))).toBeUndefined();
    expect(parseRefreshToken(token.replace(".7.", ".7.2."))).toBeUndefined();
  });

  it("the hash of a root is not the hash of the text alone", async () => {
    const plain = createHash("sha256").update(ofRoot.root).digest("base64url");
    expect(await hashOfRoot(ofRoot.root)).toMatch(/^[\w-]{43}$/);
    expect(await hashOfRoot(ofRoot.root)).not.toBe(plain);
  });
});

describe("parseRefreshToken", () => {
  const [secretId, session, generation, tag, check] = token.split(".") as [
    string,
    string,
    string,
    string,
    string,
  ];
  it.each([
    ["empty", ""],
    ["a JWT", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"],
    ["four parts", `${secretId}.${session}.${generation}.${tag}`],
    ["six parts", `${token}.${check}`],
    ["leading zero", `${secretId}.${session}.07.${tag}.${check}`],
    ["negative", `${secretId}.${session}.-7.${tag}.${check}`],
    ["exponent", `${secretId}.${session}.1e3.${tag}.${check}`],
    ["too many digits", `${secretId}.${session}.12345678901.${tag}.${check}`],
    ["white space", `${token} `],
    ["line feed", `${token}\n`],
    ["padding", `${token}=`],
    ["standard alphabet", token.replace(tag, `${tag.slice(0, -2)}+A`)],
    ["trailing bits in the tag", token.replace(tag, `${tag.slice(0, -1)}B`)],
    ["trailing bits in the check", `${token.slice(0, -1)}B`],
    ["long", `${token}${"A".repeat(maxRefreshTokenLength)}`],
  ])("refuses: %s", (_name, candidate) => {
    expect(parseRefreshToken(candidate)).toBeUndefined();
  });

  it("any change of a token makes it invalid", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat({ max: token.length - 1 }),
        fc.constantFrom(...Array.from("ABCabc019-_. =+/")),
        async (position, character) => {
          const changed = token.slice(0, position) + character + token.slice(position + 1);
          expect(await proves(changed, binding)).toBe(changed === token);
        },
      ),
      { numRuns: 500 },
    );
  });
});
