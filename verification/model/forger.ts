import { openSecretRing, readSecretOption, type SecretKeys } from "../../src/base/crypto.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { mintRooted, parseRefreshToken } from "../../src/engine/refresh/format.ts";
import type { Action } from "./actions.ts";
import type { Jar } from "./jar.ts";
import type { World } from "./world.ts";

export const issuer = "https://model.example.com";
/** The secrets of all servers: the current one, and a former one that is still listed. */
export const secrets: readonly [string, string] = [
  "the secret of the model, at least 32 bytes long",
  "the former secret of the model, at least 32 bytes",
];

const rings = new Map<string, Promise<SecretKeys>>();

function keysOf(secret: string): Promise<SecretKeys> {
  const keys =
    rings.get(secret) ??
    openSecretRing(readSecretOption(secret), issuer).then(({ current }) => current);
  rings.set(secret, keys);
  return keys;
}

/**
 * Somebody who has leaked secrets, and perhaps a copy of the store, presents a token made with them. It
 * must change nothing. With an old token of the session besides, only the former secret must be useless:
 * the current one with a token is the same as a stolen token.
 */
export async function forge(
  world: World,
  { tokens }: Jar,
  engine: Engine,
  { knows, former, ahead }: Extract<Action, { readonly do: "forge" }>,
): Promise<void> {
  const { store } = world.options;
  const before = await store.load(tokens?.ledger.id ?? "");
  const { record } = before;
  if (tokens === undefined || record === undefined) {
    return;
  }
  const parsed = parseRefreshToken(tokens.refresh);
  const stolen = parsed?.format === 2 ? parsed.root : undefined;
  const root = { secret: "A".repeat(22), store: record.rootHash ?? "", token: stolen }[knows];
  if (root === undefined) {
    return;
  }
  const { id: session, transport } = record;
  // Who has an old token can present that one: anything older than the row's former generation.
  const generation = Math.max(
    0,
    record.generation + (knows === "token" ? Math.max(-1, ahead) : ahead),
  );
  const keys = await keysOf(secrets[former || knows === "token" ? 1 : 0]);
  const token = await mintRooted(keys, { session, transport, generation, root });
  world.tally.forged += 1;
  const accepted = await engine.refresher.refresh({ token, transport }).then(
    () => true,
    () => false,
  );
  const after = await store.load(session);
  if (accepted || JSON.stringify(after) !== JSON.stringify(before)) {
    world.violate(
      "forged",
      `a token made with ${knows} ${accepted ? "was accepted" : "changed its session"}`,
    );
  }
}
