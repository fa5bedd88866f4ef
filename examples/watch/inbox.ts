import { EventEmitter, once } from "node:events";

/** A list of messages, numbered from 1. */
export class Inbox {
  readonly #texts: string[] = [];
  readonly #news = new EventEmitter().setMaxListeners(0);

  add(text: string): void {
    this.#texts.push(text);
    this.#news.emit("added");
  }

  /** Yields every message after a number, then each new one, until the signal aborts. */
  async *after(number: number, signal: AbortSignal) {
    for (let next = number; ; next += 1) {
      while (next >= this.#texts.length) {
        await once(this.#news, "added", { signal });
      }
      yield { number: next + 1, text: this.#texts[next] ?? "" };
    }
  }
}
