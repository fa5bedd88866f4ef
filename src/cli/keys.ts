import { type Duration, durationMs } from "../base/checks.ts";
import { systemClock } from "../base/clock.ts";
import { type KeyFacts, keyStates } from "../engine/keys/rotation.ts";
import { maxAccessLife } from "../engine/lifetimes.ts";
import type { SessionStore } from "../engine/store.ts";
import {
  asUsage,
  type Command,
  type Given,
  table,
  textOf,
  timeText,
  UsageError,
} from "./command.ts";
import { onStore } from "./database.ts";

/** The largest clock skew that verifiers may allow. */
const maxClockSkew = 60_000;
/** A key that is this old is known to every server: it has read the change log, or refuses calls. */
const knownAfter = 60_000;

/** A key as it is printed. Times are ISO 8601. */
interface ShownKey {
  readonly kid: string;
  readonly algorithm: string;
  readonly state: "next" | "signing" | "former" | "dead";
  readonly secretId: string;
  readonly createdAt: string;
  readonly signsFrom?: string;
  readonly trustedUntil?: string;
}

/** `rpc-session keys list` */
export const keysList: Command = onStore({
  name: "keys list",
  summary: "show the signing keys, and until when each is trusted",
  forms: ["[--rotation <duration>] [--json] <database>"],
  about:
    "Shows the generated signing keys: which one signs, which one signs next, and until when the tokens of each are accepted. The tokens of a dead key are refused, because its secret was declared dead.",
  options: [
    {
      flags: "--rotation <duration>",
      meaning: "the value of keys.rotation of your servers, for the times; default 30d",
    },
  ],
  examples: [
    ["See which key signs", "rpc-session keys list sessions.db"],
    [
      "Print the id of the key that signs",
      `rpc-session keys list --json | jq -r '.[] | select(.state == "signing").kid'`,
    ],
  ],
  async run(given) {
    const keys = await readKeys(given.store, given);
    const columns = keys.map((key) => [
      ...[key.kid, key.algorithm, key.state, key.secretId, key.createdAt],
      ...[key.signsFrom ?? "", key.trustedUntil ?? ""],
    ]);
    const head = ["KEY", "ALGORITHM", "STATE", "SECRET", "CREATED", "SIGNS FROM", "TRUSTED UNTIL"];
    return { text: table([head, ...columns]), json: keys };
  },
});

/** `rpc-session keys rotate` */
export const keysRotate: Command = onStore({
  name: "keys rotate",
  summary: "have the servers create the next signing key now",
  forms: ["[--wait <duration>] [--json] <database>"],
  about:
    "Asks the servers for the next signing key now. They publish it at once and sign with it 10 minutes later, when every verifier has it. If a key is on its way already, it is the next one. Needs a running server, which has the secret that encrypts the key.",
  options: [{ flags: "--wait <duration>", meaning: "how long to wait for a server; default 30s" }],
  examples: [["Create the next key", "rpc-session keys rotate sessions.db"]],
  async run(given) {
    const { store } = given;
    const ms = readDuration("--wait", textOf(given, "wait") ?? "30s");
    const end = systemClock.monotonic() + ms;
    const next = async () =>
      (await readKeys(store, given)).findLast(({ state }) => state === "next");
    let key = await next();
    if (key === undefined) {
      await store.announceKeys("rotate");
    }
    while (key === undefined && systemClock.monotonic() < end) {
      await new Promise<void>((resolve) => {
        systemClock.after(100, resolve, true);
      });
      key = await next();
    }
    if (key === undefined) {
      throw new Error(
        "no server has created the next key in time; check that a server on this store is running. If one starts within an hour, it creates the key",
      );
    }
    return { text: `The next key is ${key.kid}. It signs from ${key.signsFrom}.\n`, json: key };
  },
});

/** `rpc-session keys retire` */
export const keysRetire: Command = onStore({
  name: "keys retire",
  summary: "make every server refuse what a key has signed",
  forms: ["[--now] [--json] <database> <key>"],
  about:
    "Removes a signing key: all servers refuse what it has signed, within their maxStaleness. Clients refresh; nobody is signed out. Rotate the keys first and wait a minute, so that every server knows another key.",
  names: [{ name: "key", meaning: 'its id, see "rpc-session keys list"' }],
  takesIds: true,
  options: [
    {
      flags: "--now",
      meaning:
        "retire it even if no other key is known to every server: sign-ins and refreshes then wait some seconds",
    },
  ],
  examples: [
    ["Retire a key that has leaked", 'rpc-session keys retire sessions.db "$KEY"'],
    ["Do not wait for the next key", 'rpc-session keys retire --now sessions.db "$KEY"'],
  ],
  async run(given) {
    const { store, rest, options } = given;
    const [kid = ""] = rest;
    const keys = await readKeys(store, given);
    const { now } = await store.signingKeys();
    const others = keys.filter((one) => one.kid !== kid && one.state !== "dead");
    const isKnown = others.some(({ createdAt }) => Date.parse(createdAt) <= now - knownAfter);
    if (!keys.some((one) => one.kid === kid)) {
      throw new UsageError('there is no key with this id; see "rpc-session keys list"');
    }
    if (!options.now && !isKnown) {
      throw new Error(
        'no other signing key is known to every server; run "rpc-session keys rotate", wait a minute and try again, or add --now',
      );
    }
    const retired = await store.retireSigningKeys([kid]);
    return { text: "The key is retired.\n", json: { retired } };
  },
});

async function readKeys(store: SessionStore, given: Given): Promise<readonly ShownKey[]> {
  // Loaded only here, with all of jose, so that the other commands start faster.
  const { secretIdOf } = await import("../engine/keys/sealed.ts");
  const rotation = readDuration("--rotation", textOf(given, "rotation") ?? "30d");
  const { keys, now } = await store.signingKeys();
  const { secrets } = await store.recordSecrets([]);
  const dead = new Set(secrets.flatMap(({ id, deadAt }) => (deadAt === null ? [] : [id])));
  const facts = keys.map((key): KeyFacts => ({ ...key, secretId: secretIdOf(key), canSign: true }));
  const rules = { rotation, retention: maxAccessLife + maxClockSkew };
  const living = facts.filter(({ secretId }) => !dead.has(secretId));
  const states = new Map(keyStates(living, now, rules).map((one) => [one.key, one]));
  return facts.map((key): ShownKey => {
    const { kid, alg: algorithm, secretId } = key;
    const { state = "dead", signsFrom, trustedUntil } = states.get(key) ?? {};
    return {
      ...{ kid, algorithm, state, secretId, createdAt: timeText(key.createdAt) },
      ...(signsFrom === undefined ? {} : { signsFrom: timeText(signsFrom) }),
      ...(trustedUntil === undefined ? {} : { trustedUntil: timeText(trustedUntil) }),
    };
  });
}

function readDuration(option: string, value: string): number {
  return asUsage(() => durationMs(option, value as Duration));
}
