/** What came back of a request. */
export type Answer =
  | {
      readonly kind: "ok";
      /** The refresh token in the answer, if there was one. */
      readonly refreshToken: string | undefined;
      /** The access token in the answer, if there was one. */
      readonly accessToken: string | undefined;
      /** Milliseconds that the access token is good. */
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
  /** `cut`: by the soak itself. `gaveUp`: after the client's timeout. `broken`: by the other side. */
  | {
      readonly kind: "unheard";
      readonly why: "cut" | "gaveUp" | "broken";
      readonly message: string;
    };

/** One request, as an observer saw it who knows more than the client. Times are milliseconds. */
export interface Exchange {
  readonly what: "signIn" | "refresh" | "use" | "revoke" | "signOut";
  readonly by: "owner" | "thief";
  readonly session: string;
  readonly server: number;
  /** The refresh token that was presented, or that was held beside the access token. */
  readonly token: string;
  readonly began: number;
  readonly ended: number;
  readonly answer: Answer;
  /** Whether the client got the answer. */
  readonly heard: boolean;
  /** Until when the presented access token was good; undefined where that is not known. */
  readonly goodUntil?: number | undefined;
}

/** Everything that happened. */
export interface History {
  /** Milliseconds since the run began. */
  now(): number;
  add(exchange: Exchange): void;
  readonly exchanges: readonly Exchange[];
  /** Notes that somebody took the tokens of a session. */
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

/** The generation of a refresh token (`v.sid.gen.tag.check`); -1 when it is none. */
export function generationOf(token: string): number {
  return Number(token.split(".")[2] ?? -1);
}

/** The id of the secret of a refresh token. */
export function secretOf(token: string): string {
  return token.split(".")[0] ?? "";
}

/** The session of a refresh token. */
export function sessionOf(token: string): string {
  return token.split(".")[1] ?? "";
}
