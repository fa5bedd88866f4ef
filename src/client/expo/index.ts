import { coreOf, type SessionClient } from "../session-client.ts";

export {
  type AppStorage,
  type SecureStoreLike,
  type SecureStoreOptions,
  secureStoreTokens,
} from "./secure-store.ts";

/** The part of React Native's `AppState` that is used. */
export interface AppStateLike {
  addEventListener(
    type: "change",
    listener: (state: string) => void,
  ): { readonly remove: () => void };
}

/**
 * Prepares the session each time the app comes to the foreground. It saves tokens that could not be
 * saved in the background, takes newer ones that another part of the app has saved, and refreshes if
 * a refresh is due. The first call then finds a valid token.
 *
 * In the background nothing is refreshed ahead of time. A call that the app makes there still
 * refreshes if its token has expired.
 *
 * ```ts
 * import { AppState } from "react-native";
 *
 * followAppState(session, AppState);
 * ```
 *
 * @returns a function that stops it
 * @throws TypeError if `session` was not returned by `createSessionClient`
 */
export function followAppState(session: SessionClient, appState: AppStateLike): () => void {
  const core = coreOf(session);
  if (core === undefined) {
    throw new TypeError(
      "followAppState: `session` must be the object returned by createSessionClient",
    );
  }
  const { local, refresher } = core;
  const prepare = async (): Promise<void> => {
    await local.ready();
    await local.reload();
    // The pause after failures was meant for the background, where nobody waits.
    refresher.early.reset();
    if (local.lifetime.phase !== "fresh" && refresher.canRefresh()) {
      void refresher.refreshEarly();
    }
  };
  const subscription = appState.addEventListener("change", (state) => {
    if (state === "active") {
      void prepare();
    }
  });
  return () => subscription.remove();
}
