import { assertMembers } from "../../base/checks.ts";
import type { ClientTokens, TokenStore } from "../state/tokens.ts";

/** The part of `expo-secure-store` that is used: `import * as SecureStore from "expo-secure-store"`. */
export interface SecureStoreLike {
  /** Exists on iOS only. */
  readonly AFTER_FIRST_UNLOCK_THIS_DEVICE_ONLY?: number;
  getItemAsync(key: string): Promise<string | null>;
  setItemAsync(
    key: string,
    value: string,
    options?: { readonly keychainAccessible?: number },
  ): Promise<void>;
  deleteItemAsync(key: string): Promise<void>;
}

/** A storage that the system deletes with the app, such as AsyncStorage or `expo-sqlite/kv-store`. */
export interface AppStorage {
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): unknown;
}

/** Options of {@link secureStoreTokens}. */
export interface SecureStoreOptions {
  /**
   * Tells a new installation from an older one: the keychain of iOS keeps its items when an app is
   * removed. Tokens that an earlier installation has left are deleted, so that whoever installs the
   * app on this phone next is not signed in as somebody else.
   */
  readonly appStorage?: AppStorage;
  /** Keeps a session on iOS after the app was removed, instead of `appStorage`. Default false. */
  readonly keepAfterUninstall?: boolean;
  /**
   * The name of the item, and the first part of the names of others. Letters, digits, `.`, `-` and
   * `_`. Default `"rpc-session"`.
   */
  readonly key?: string;
  /**
   * When iOS hands out the items. Default: `AFTER_FIRST_UNLOCK_THIS_DEVICE_ONLY`, that is, also while
   * the phone is locked, and never on another phone. A phone restored from the backup of another would
   * use the same refresh token, which looks like theft. iOS keeps the first setting of an item; to
   * change it later, change `key` too.
   */
  readonly keychainAccessible?: number;
}

/** Bytes of one item. Some versions of iOS refuse more. */
const itemBytes = 2048;
/** Items of one value, in each of two slots: 16 kB, twice the longest access token. */
const maxParts = 8;
const slots = ["a", "b"] as const;

/**
 * Keeps the tokens of a React Native app in `expo-secure-store`: in the keychain of iOS, or encrypted
 * by the keystore of Android.
 *
 * ```ts
 * import AsyncStorage from "@react-native-async-storage/async-storage";
 * import * as SecureStore from "expo-secure-store";
 *
 * const session = createSessionClient({
 *   transport: (parts) => createConnectTransport({ baseUrl, ...parts }),
 *   tokens: secureStoreTokens(SecureStore, { appStorage: AsyncStorage }),
 * });
 * ```
 *
 * A value over 2048 bytes is kept in several items. The app may be killed at any moment: the store
 * then holds either the former tokens or the new ones, never a mixture. If a save fails, the value is
 * saved before the next load.
 *
 * Use one store for one app process and one service. A second service needs a `key` of its own.
 *
 * @throws TypeError for invalid options, and in a page, where browsers keep cookies
 */
export function secureStoreTokens(
  secureStore: SecureStoreLike,
  options: SecureStoreOptions,
): TokenStore {
  return new SecureStoreTokens(secureStore, checked(secureStore, options));
}

class SecureStoreTokens implements TokenStore {
  readonly transport = "header";
  readonly #store: SecureStoreLike;
  readonly #key: string;
  readonly #appStorage: AppStorage | undefined;
  readonly #accessible: { readonly keychainAccessible?: number };
  #isInstalled = false;
  /** What the last save could not save. */
  #unsaved: { readonly tokens: ClientTokens | undefined } | undefined;
  /** One operation at a time, because each takes several steps. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(store: SecureStoreLike, { appStorage, key, keychainAccessible }: Checked) {
    this.#store = store;
    this.#key = key;
    this.#appStorage = appStorage;
    this.#accessible = keychainAccessible === undefined ? {} : { keychainAccessible };
  }

  load(): Promise<ClientTokens | undefined> {
    return this.#afterOthers(async () => {
      // 1. Delete what an earlier installation has left, and save what could not be saved.
      await this.#install();
      if (this.#unsaved !== undefined) {
        await this.#write(this.#unsaved.tokens);
      }

      // 2. Read the first item, and the others that it names.
      const first = await this.#store.getItemAsync(this.#key);
      const named = this.#partsNamedBy(first);
      const parts = await Promise.all(named.map((name) => this.#store.getItemAsync(name)));
      const text = named.length === 0 ? first : parts.join("");

      // 3. Something else is no session. It must not look like an outage, which would never end.
      try {
        return JSON.parse(text ?? "") as ClientTokens;
      } catch {
        return undefined;
      }
    });
  }

  save(tokens: ClientTokens | undefined): Promise<void> {
    return this.#afterOthers(async () => {
      await this.#install();
      await this.#write(tokens);
    });
  }

  async #afterOthers<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(work);
    this.#last = mine.catch(() => {});
    return await mine;
  }

  async #install(): Promise<void> {
    if (this.#isInstalled || this.#appStorage === undefined) {
      return;
    }
    const marker = `${this.#key}.installed`;
    if ((await this.#appStorage.getItem(marker)) === null) {
      await this.#write(undefined);
      await this.#appStorage.setItem(marker, "1");
    }
    this.#isInstalled = true;
  }

  async #write(tokens: ClientTokens | undefined): Promise<void> {
    this.#unsaved = { tokens };
    const text = toAscii(tokens);
    if (text.length > itemBytes * maxParts) {
      throw new RangeError(
        `the tokens take ${text.length} bytes, and ${itemBytes * maxParts} are the most; put fewer claims into the session`,
      );
    }

    // 1. Write a long value to the slot that is not in use.
    const before = this.#partsNamedBy(await this.#store.getItemAsync(this.#key));
    const slot = slots.find((each) => !before[0]?.startsWith(`${this.#key}.${each}.`)) ?? slots[0];
    const parts = text.length > itemBytes ? (text.match(/.{1,2048}/g) ?? []) : [];
    const names = parts.map((_, index) => `${this.#key}.${slot}.${index}`);
    for (const [index, name] of names.entries()) {
      await this.#store.setItemAsync(name, parts[index] ?? "", this.#accessible);
    }

    // 2. One write of the first item changes from the former value to the new one. For no value it
    //    comes before the deletion, because iOS does not report a deletion that failed.
    const first = names.length === 0 ? text : `${slot}${names.length}`;
    await this.#store.setItemAsync(this.#key, first, this.#accessible);
    this.#unsaved = undefined;

    // 3. Delete what is no longer used, also what a killed app has left.
    const all = slots.flatMap((each) => range(maxParts).map((n) => `${this.#key}.${each}.${n}`));
    const unused = all.filter((name) => !names.includes(name));
    if (tokens === undefined) {
      unused.push(this.#key);
    }
    // The new value counts already, so a failure changes nothing. The next save tries again.
    await Promise.allSettled(unused.map((name) => this.#store.deleteItemAsync(name)));
  }

  /** The items of a long value: the first one is then the name of a slot and a number. */
  #partsNamedBy(first: string | null): readonly string[] {
    const [, slot, count] = /^([ab])([1-8])$/.exec(first ?? "") ?? [];
    return range(Number(count ?? 0)).map((index) => `${this.#key}.${slot}.${index}`);
  }
}

/** One character is one byte then, and no part ends within a character. */
function toAscii(tokens: ClientTokens | undefined): string {
  return (JSON.stringify(tokens) ?? "").replace(
    /[^\x20-\x7e]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function range(length: number): readonly number[] {
  return Array.from({ length }, (_, index) => index);
}

type Checked = Pick<SecureStoreOptions, "appStorage" | "keychainAccessible"> & {
  readonly key: string;
};

const members: Readonly<Record<keyof SecureStoreOptions, 0>> = {
  ...{ appStorage: 0, keepAfterUninstall: 0, key: 0, keychainAccessible: 0 },
};

function checked(store: SecureStoreLike, options: SecureStoreOptions): Checked {
  if (typeof document !== "undefined") {
    throw new TypeError(
      "secureStoreTokens: expo-secure-store does not work in browsers; for the web build of the app pass tokens: cookieTokens()",
    );
  }
  if (typeof store?.getItemAsync !== "function") {
    throw new TypeError(
      'secureStoreTokens: the first argument must be the module; write import * as SecureStore from "expo-secure-store"',
    );
  }
  assertMembers("secureStoreTokens", options, members);
  const { appStorage, keepAfterUninstall = false, key = "rpc-session" } = options;
  if (typeof appStorage?.getItem !== "function" && !keepAfterUninstall) {
    throw new TypeError(
      "secureStoreTokens: pass appStorage, such as AsyncStorage, so that iOS does not keep a session after the app was removed; or keepAfterUninstall: true",
    );
  }
  if (appStorage !== undefined && keepAfterUninstall) {
    throw new TypeError("secureStoreTokens: pass appStorage or keepAfterUninstall, not both");
  }
  if (!/^[\w.-]+$/.test(key)) {
    throw new TypeError(
      `secureStoreTokens: key must consist of letters, digits, ".", "-" and "_", got ${JSON.stringify(key)}`,
    );
  }
  const keychainAccessible =
    options.keychainAccessible ?? store.AFTER_FIRST_UNLOCK_THIS_DEVICE_ONLY;
  return {
    key,
    ...(appStorage !== undefined && { appStorage }),
    ...(keychainAccessible !== undefined && { keychainAccessible }),
  };
}
