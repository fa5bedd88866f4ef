import { readFile } from "node:fs/promises";
import { readIssuer } from "../base/checks.ts";
import type { RecordedSecret, SecretName } from "../engine/store.ts";
import {
  asUsage,
  type Command,
  type Given,
  table,
  textOf,
  textsOf,
  timeText,
  UsageError,
} from "./command.ts";
import { onStore, type StoreGiven } from "./database.ts";

/** `rpc-session secrets list` */
export const secretsList: Command = onStore({
  name: "secrets list",
  forms: ["[--json] <database>"],
  summary: "show the secrets of your servers by their ids",
  about:
    "Shows the secrets of your servers by their ids, which reveal nothing about them: when a server that has the secret started last, and since when it is dead. A secret has an id for each issuer.",
  examples: [["Find the id of a secret", "rpc-session secrets list sessions.db"]],
  async run({ store }) {
    const { secrets } = await store.recordSecrets([]);
    const shown = secrets.map(({ id, issuer, seenAt, deadAt }) => ({
      ...{ id, issuer, seenAt: timeText(seenAt) },
      ...(deadAt === null ? {} : { deadAt: timeText(deadAt) }),
    }));
    const rows = shown.map((one) => [one.id, one.issuer, one.seenAt, one.deadAt ?? ""]);
    return { text: table([["SECRET", "ISSUER", "SEEN", "DEAD SINCE"], ...rows]), json: shown };
  },
});

/** `rpc-session secrets retire` */
export const secretsRetire: Command = onStore({
  name: "secrets retire",
  forms: [
    "[--json] <database> <secret id>",
    "[--json] --secret-env <name> --issuer <url> <database>",
    "[--json] --secret-file <path> --issuer <url> <database>",
  ],
  summary: "declare a leaked secret dead, for ever",
  about:
    "Declares a secret dead, for ever: all servers refuse what was made under it, within their maxStaleness. Its users must sign in again, and the signing keys that it encrypts are retired. Give every server a new secret first: a server without another one creates and refreshes no sessions.",
  names: [
    {
      name: "secret id",
      meaning: 'an id that "rpc-session secrets list" shows',
      count: "optional",
    },
  ],
  takesIds: true,
  options: [
    {
      flags: "--secret-env <name>",
      meaning:
        "the name of an environment variable that holds the secret, if its id is not recorded",
    },
    {
      flags: "--secret-file <path>",
      meaning: "a file that holds the secret, without the line break at its end",
    },
    {
      flags: "--issuer <url>",
      meaning: "the issuer of the servers that have the secret; repeat it for older issuers",
      repeats: true,
    },
  ],
  examples: [
    ["Declare a recorded secret dead", "rpc-session secrets retire sessions.db K7wQ2m_x"],
    [
      "Declare a secret dead whose id is not recorded",
      "rpc-session secrets retire --secret-env LEAKED --issuer https://api.example.com sessions.db",
    ],
  ],
  async run(given) {
    const names = await namesOf(given);
    const { secrets } = await given.store.retireSecrets(names);
    const dead = secrets.filter((one) => names.some(({ id }) => id === one.id));
    const ids = dead.map(({ id }) => id).join(", ");
    return { text: `Dead now: ${ids}.\n`, json: dead.map(toShown) };
  },
});

function toShown({ id, issuer, deadAt }: RecordedSecret) {
  return { id, issuer, deadAt: timeText(deadAt ?? 0) };
}

async function namesOf(given: StoreGiven): Promise<readonly SecretName[]> {
  const id = given.rest[0];
  const secret = await readSecret(given);
  if ((id === undefined) === (secret === undefined)) {
    throw new UsageError("give either the id of a secret, or --secret-env or --secret-file");
  }
  if (secret !== undefined) {
    const issuers = textsOf(given, "issuer").map(checkedIssuer);
    if (issuers.length === 0) {
      throw new UsageError("--issuer is missing; the id of a secret depends on the issuer");
    }
    const { openSecretRing, readSecretOption } = await import("../base/crypto.ts");
    const rings = issuers.map((issuer) =>
      openSecretRing(
        asUsage(() => readSecretOption(secret)),
        issuer,
      ),
    );
    return (await Promise.all(rings)).map(({ current }) => ({
      id: current.id,
      issuer: current.issuer,
    }));
  }
  const { secrets } = await given.store.recordSecrets([]);
  const recorded = secrets.filter((one) => one.id === id);
  if (recorded.length === 0) {
    // Never repeats the argument: it may be a secret.
    throw new UsageError(
      'no server has recorded a secret with this id; see "rpc-session secrets list". Never pass a secret as an argument',
    );
  }
  return recorded;
}

async function readSecret(given: Given): Promise<string | undefined> {
  const [variable, file] = [textOf(given, "secretEnv"), textOf(given, "secretFile")];
  if (variable !== undefined && file !== undefined) {
    throw new UsageError("give either --secret-env or --secret-file, not both");
  }
  if (file !== undefined) {
    return (await readFile(file, "utf8")).replace(/\r?\n$/, "");
  }
  if (variable === undefined) {
    return undefined;
  }
  const value = given.env[variable];
  if (value === undefined || value === "") {
    throw new UsageError("the environment variable that --secret-env names is not set");
  }
  return value;
}

function checkedIssuer(issuer: string): string {
  asUsage(() => readIssuer(issuer, "--issuer"));
  return issuer;
}
