import { constants } from "node:fs";
import { link, open, readFile, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { randomId } from "../../base/crypto.ts";

/**
 * The secret in a file, made when there is none.
 *
 * @param file where it is kept: base64 or base64url, in a file that only its owner reads
 * @param needed whether something in the database was made under it; then none is made
 * @throws Error when it is needed and gone, or when it is damaged
 */
export async function keepSecret(file: string, needed: boolean): Promise<Uint8Array> {
  const kept = await readSecret(file);
  if (kept !== undefined) {
    return kept;
  }
  if (needed) {
    throw new Error(
      `sqliteStore: ${file} is gone, and the sessions in the database were made under it; restore it from the same backup as the database, or delete the database to sign everybody out`,
    );
  }
  await createSecret(file);
  const made = await readSecret(file);
  if (made === undefined) {
    throw new Error(`sqliteStore: ${file} disappeared while it was made`);
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
      `sqliteStore: ${file} holds no secret of at least ${secretBytes} bytes in base64url; restore it from a backup`,
    );
  }
  return bytes;
}

/** Makes the file appear whole or not at all; of several processes the first one wins. */
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
  // Windows cannot open folders, and needs no such thing.
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
