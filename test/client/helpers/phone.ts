// A phone: what expo-secure-store, AsyncStorage and AppState do there.
import type { AppStorage, SecureStoreLike } from "../../../src/client/expo/index.ts";

const whenUnlocked = 5;
const afterFirstUnlockThisDeviceOnly = 1;

interface Item {
  value: string;
  readonly accessible: number;
}

/** The keychain of iOS, as expo-secure-store 57 uses it. It outlives the app. */
export class Keychain {
  readonly items = new Map<string, Item>();
  isLocked = false;
  /** The number of writes and deletions after which the app is killed. */
  killAfter = Number.POSITIVE_INFINITY;
  changes = 0;

  get values(): readonly string[] {
    return [...this.items.values()].map(({ value }) => value);
  }

  /** The module as one start of the app sees it. */
  module(): Required<SecureStoreLike> {
    return {
      AFTER_FIRST_UNLOCK_THIS_DEVICE_ONLY: afterFirstUnlockThisDeviceOnly,
      getItemAsync: async (key) => {
        const item = this.items.get(valid(key));
        this.#assertReadable(item?.accessible);
        return item?.value ?? null;
      },
      setItemAsync: async (key, value, { keychainAccessible = whenUnlocked } = {}) => {
        // SecItemUpdate keeps the accessibility of the item.
        const accessible = this.items.get(valid(key))?.accessible ?? keychainAccessible;
        this.#assertReadable(accessible);
        if (new TextEncoder().encode(value).length > 2048) {
          throw new Error("the value is too large for the keychain of this version");
        }
        await this.#change();
        this.items.set(key, { value, accessible });
      },
      deleteItemAsync: async (key) => {
        await this.#change();
        this.items.delete(valid(key)); // iOS reports no failure here
      },
    };
  }

  async #change(): Promise<void> {
    this.changes += 1;
    if (this.changes > this.killAfter) {
      await new Promise(() => {}); // the app is gone
    }
  }

  #assertReadable(accessible: number | undefined): void {
    if (this.isLocked && accessible === whenUnlocked) {
      throw new Error("User interaction is not allowed.");
    }
  }
}

function valid(key: string): string {
  if (!/^[\w.-]+$/.test(key)) {
    throw new Error("Invalid key provided to SecureStore.");
  }
  return key;
}

/** AsyncStorage: it ends with the installation. */
export class Installation implements AppStorage {
  readonly #items = new Map<string, string>();
  getItem(key: string): Promise<string | null> {
    return Promise.resolve(this.#items.get(key) ?? null);
  }
  setItem(key: string, value: string): Promise<void> {
    this.#items.set(key, value);
    return Promise.resolve();
  }
}

type Listener = (state: string) => void;

/** React Native's AppState. */
export class FakeAppState {
  readonly listeners = new Set<Listener>();
  addEventListener(_type: "change", listener: Listener): { remove: () => void } {
    this.listeners.add(listener);
    return { remove: () => this.listeners.delete(listener) };
  }
  change(...states: readonly ("active" | "inactive" | "background")[]): void {
    for (const state of states) {
      for (const listener of this.listeners) {
        listener(state);
      }
    }
  }
}
