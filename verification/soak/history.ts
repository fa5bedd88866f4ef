/** The outcome of a request. */
export type Answer =
  | {
      readonly kind: "ok";
      /** The refresh token in the response, if any. */
      readonly refreshToken: string | undefined;
      /** The access token in the response, if any. */
      readonly accessToken: string | undefined;
      /** Milliseconds until the access token expires. */
      readonly expiresIn: number;
      readonly session: string | undefined;
    }
  | {
      readonly kind: "refused";
      readonly code: string;
      readonly action: string;
      readonly reason: string;
      readonly message: string;
    }
  /** `cut`: by fault injection. `gaveUp`: after the client's timeout. `broken`: by the other side. */
  | {
      readonly kind: "unheard";
      readonly why: "cut" | "gaveUp" | "broken";
      readonly message: string;
    };

/** One request as seen by an observer who knows more than the client. Times are in milliseconds. */
export interface Exchange {
  readonly what: "signIn" | "refresh" | "use" | "revoke" | "signOut";
  readonly by: "owner" | "thief";
  readonly session: string;
  readonly server: number;
  /** The refresh token that was presented or that the client held. */
  readonly token: string;
  readonly began: number;
  readonly ended: number;
  readonly answer: Answer;
  /** Whether the client received the response. */
  readonly heard: boolean;
  /** When the presented access token expires; undefined if unknown. */
  readonly goodUntil?: number | undefined;
}

/** The record of a run. */
export interface History {
  /** Returns the milliseconds since the run began. */
  now(): number;
  add(exchange: Exchange): void;
  readonly exchanges: readonly Exchange[];
  /** Records that the tokens of a session were stolen. */
  stolen(session: string): void;
  readonly thefts: ReadonlySet<string>;
}

export function createHistory(): History {
  const exchanges: Exchange[] = [];
  const thefts = new Set<string>();
  return {
    now: () => performance.now(),
    add: (exchange) => void exchanges.push(exchange),
    exchanges,
    stolen: (session) => void thefts.add(session),
    thefts,
  };
}

/** Returns the generation of a refresh token (`v.sid.gen.tag.check`), or -1 for anything else. */
export function generationOf(token: string): number {
  return Number(token.split(".")[2] ?? -1);
}

/** Whether a refresh token carries the key of its session (`v.sid.gen.2.root.key.mac`). */
export function isBound(token: string): boolean {
  return token.split(".").length === 7;
}

/** Returns the id of the secret of a refresh token. */
export function secretOf(token: string): string {
  return token.split(".")[0] ?? "";
}

/** Returns the session id of a refresh token. */
export function sessionOf(token: string): string {
  return token.split(".")[1] ?? "";
}
