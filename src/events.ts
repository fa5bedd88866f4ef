/** Something that happened to a session. Holds no token and no other secret. */
export type SessionEvent =
  | { readonly type: "created"; readonly session: string; readonly userId: string }
  | { readonly type: "refreshed"; readonly session: string; readonly generation: number }
  /** A refresh token came again because its answer was lost; the same successor was sent. */
  | { readonly type: "recovered"; readonly session: string; readonly generation: number }
  | { readonly type: "revoked"; readonly session: string; readonly endedBy: string }
  /** A refresh token was used after its successor was confirmed; sent once per session. */
  | {
      readonly type: "theft";
      readonly session: string;
      readonly userId: string;
      readonly presented: number;
      readonly generation: number;
      readonly at: number;
    }
  /** The store came back older than the tokens it minted, and was moved forward. */
  | {
      readonly type: "storeWentBack";
      readonly session: string;
      readonly presented: number;
      readonly generation: number;
    }
  /** A token or session was made under a secret that this server was not given. */
  | { readonly type: "unknownSecret"; readonly secretId: string };

/** Receives every {@link SessionEvent}. What it throws is ignored. */
export type SessionEventListener = (event: SessionEvent) => void;

/** Makes a listener safe to call from the middle of a decision. */
export function safeListener(listener: SessionEventListener | undefined): SessionEventListener {
  if (listener === undefined) {
    return () => {};
  }
  return (event) => {
    try {
      listener(event);
    } catch {
      // A broken listener must not break a login.
    }
  };
}
