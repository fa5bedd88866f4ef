/**
 * A state of the search. Times are ages in steps, cut off where a higher age makes no difference.
 * Generations are relative to the row's: 0 is the current one, -1 the one before.
 */
export interface State {
  readonly row: Row;
  /** Oldest first. The tabs see the last one; a crash may lose it, as long as it is young. */
  readonly jar: readonly JarWrite[];
  /** What each server remembers. Which of them is which does not matter. */
  readonly servers: readonly Server[];
  /** A tab that waits for an answer is one with a message. */
  readonly messages: readonly Message[];
  /** Null until a thief has copied the cookies. */
  readonly thief: Thief | null;
}

export interface Row {
  /** Null if the generation is not confirmed. */
  readonly confirmed: number | null;
  readonly sent: number;
}

/** What the cookies of the browser held since one response, and how long ago that was. */
export interface JarWrite {
  readonly access: number;
  readonly refresh: number;
  readonly age: number;
}

/** What a server remembers of the confirmation of the current generation. */
export interface Server {
  /** How long ago it gathered a use that it has still to write. Not counted before there is a thief. */
  readonly gathered: number | null;
  /** Whether it takes the generation for confirmed, and gathers no further uses. */
  readonly knows: boolean;
}

export interface Thief {
  readonly access: number;
  readonly refresh: number;
  /**
   * How long ago somebody first used the current generation, settled, so that its confirmation must be
   * on its way. Kept apart from the row and the servers, which may be wrong.
   */
  readonly proven: number | null;
}

/** Something under way between the browser, the servers and the store. */
export type Message =
  /** A refresh on its way to a server. Nobody waits for its answer if `tab` is null. */
  | {
      readonly kind: "request";
      readonly tab: number | null;
      readonly presents: number;
      readonly age: number;
    }
  /** A refresh at a server that waits for the store, for any time. */
  | Held
  /** The response. Without `refresh` it carries an access token only. */
  | {
      readonly kind: "answer";
      readonly tab: number;
      readonly access: number;
      readonly refresh: number | null;
      readonly age: number;
    }
  /**
   * A page that a server renders with the cookies of a request. It has an access token, and presents a
   * refresh token. With `sets`, it also hands the refresh token of that generation to the browser.
   */
  | {
      readonly kind: "page";
      readonly access: number;
      readonly presents: number;
      readonly sets: number | null;
      readonly age: number;
    }
  /** A call on its way to a server, with both cookies of a generation. */
  | { readonly kind: "call"; readonly generation: number; readonly age: number };

export interface Held {
  readonly kind: "held";
  readonly tab: number | null;
  readonly presents: number;
  /** Since the client sent it, as long as a tab waits. */
  readonly age: number;
  /** Since it arrived. */
  readonly waited: number;
  /** Whether its generation was settled when it arrived, and has not been sent again since then. */
  readonly settled: boolean;
  /** What the server has decided by a row that it has read; null before that. */
  readonly decided: "advance" | "keep" | "resend" | null;
}

/** A state as text: equal for states between which no step can tell a difference. */
export function keyOf({ row, jar, servers, messages, thief }: State): string {
  const writes = jar.map(({ access, refresh, age }) => `${access},${refresh},${age}`);
  const [one, two] = [0, 1].map((tab) => messages.filter((m) => "tab" in m && m.tab === tab));
  const orphans = messages.filter((m) => !("tab" in m) || m.tab === null);
  // Which of the two tabs is which does not matter.
  const tabs = [textsOf(one ?? []), textsOf(two ?? [])].sort();
  const known = servers.map(({ gathered, knows }) => `${gathered ?? ""}${knows ? "k" : ""}`).sort();
  const stolen = thief === null ? "" : `${thief.access},${thief.refresh},${thief.proven}`;
  return [
    row.confirmed,
    row.sent,
    writes.join(" "),
    ...tabs,
    textsOf(orphans),
    ...known,
    stolen,
  ].join("|");
}

function textsOf(messages: readonly Message[]): string {
  return messages.map(textOf).sort().join(" ");
}

function textOf(message: Message): string {
  switch (message.kind) {
    case "request":
      return `r${message.presents},${message.age}`;
    case "held": {
      const { presents, age, waited, settled, decided } = message;
      return `h${presents},${age},${waited}${settled ? "s" : ""}${decided?.[0] ?? ""}`;
    }
    case "answer":
      return `a${message.access},${message.refresh},${message.age}`;
    case "page":
      return `p${message.access},${message.presents},${message.sets},${message.age}`;
    case "call":
      return `c${message.generation},${message.age}`;
  }
}
