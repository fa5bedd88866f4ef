/**
 * A state of the search. Times are ages in steps, cut off where a higher age makes no difference.
 * Generations are relative to the row's: 0 is the current one, -1 the one before.
 */
export interface State {
  readonly row: Row;
  /** Oldest first. The tabs see the last one; a crash may lose it, as long as it is young. */
  readonly jar: readonly JarWrite[];
  /** A tab that waits for an answer is one with a message. */
  readonly messages: readonly Message[];
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

/** Something under way between the browser, the server and the store. */
export type Message =
  /** A refresh on its way to the server. Nobody waits for its answer if `tab` is null. */
  | {
      readonly kind: "request";
      readonly tab: number | null;
      readonly presents: number;
      readonly age: number;
    }
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
  /** A confirmation that a server writes in the background. */
  | { readonly kind: "confirm"; readonly generation: number; readonly age: number };

/** A state as text: equal for states between which no step can tell a difference. */
export function keyOf({ row, jar, messages }: State): string {
  const writes = jar.map(({ access, refresh, age }) => `${access},${refresh},${age}`);
  const [one, two] = [0, 1].map((tab) => messages.filter((m) => "tab" in m && m.tab === tab));
  const orphans = messages.filter((m) => !("tab" in m) || m.tab === null);
  // Which of the two tabs is which does not matter.
  const tabs = [textsOf(one ?? []), textsOf(two ?? [])].sort();
  return [row.confirmed, row.sent, writes.join(" "), ...tabs, textsOf(orphans)].join("|");
}

function textsOf(messages: readonly Message[]): string {
  return messages.map(textOf).sort().join(" ");
}

function textOf(message: Message): string {
  switch (message.kind) {
    case "request":
      return `r${message.presents},${message.age}`;
    case "answer":
      return `a${message.access},${message.refresh},${message.age}`;
    case "page":
      return `p${message.access},${message.presents},${message.sets},${message.age}`;
    case "confirm":
      return `c${message.generation},${message.age}`;
  }
}
