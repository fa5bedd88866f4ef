import { constants } from "node:fs";
import { link, open, readFile, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { randomId } from "../../base/crypto.ts";

/**
 * Reads the secret from its file, or creates the file.
 *
 * @param file holds the secret in base64 or base64url, readable for its owner alone
 * @param needed whether anything in the database depends on the secret; then none is created
 * @throws Error when the secret is needed and missing, or when the file is damaged
 */
export async function keepSecret(file: string, needed: boolean): Promise<Uint8Array> {
  const kept = await readSecret(file);
  if (kept !== undefined) {
    return kept;
  }
  if (needed) {
    throw new Error(
      `sqliteStore: ${file} is missing, and the sessions in the database depend on it; restore it from the same backup as the database, or delete the database to sign everybody out`,
    );
  }
  await createSecret(file);
  const made = await readSecret(file);
  if (made === undefined) {
    throw new Error(
      `sqliteStore: ${file} was deleted while it was being created; open the store again`,
    );
  }
  return made;
}

const secretBytes = 32;

async function readSecret(file: string): Promise<Uint8Array | undefined> {
  const text = await readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") {
      return undefined;
    }
    throw error;
  });
  if (text === undefined) {
    return undefined;
  }
  const encoded = text.trim();
  const bytes = Uint8Array.from(Buffer.from(encoded, "base64url"));
  if (!/^[\w+/-]*=*$/.test(encoded) || bytes.length < secretBytes) {
    throw new Error(
      `sqliteStore: ${file} does not hold a secret of at least ${secretBytes} bytes in base64url; restore it from a backup`,
    );
  }
  return bytes;
}

/** Creates the file atomically. If several processes try, the first one wins. */
async function createSecret(file: string): Promise<void> {
  const temporary = `${file}.${randomId(9)}.tmp`;
  try {
    const handle = await open(temporary, "wx", 0o600);
    try {
      await handle.writeFile(`${randomId(secretBytes)}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await link(temporary, file);
    await syncFolder(dirname(file));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") {
      throw error;
    }
  } finally {
    await rm(temporary, { force: true });
  }
}

async function syncFolder(folder: string): Promise<void> {
  // Windows cannot open folders, and does not need this.
  if (process.platform === "win32") {
    return;
  }
  const handle = await open(folder, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
