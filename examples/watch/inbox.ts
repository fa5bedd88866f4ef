import { EventEmitter, once } from "node:events";

/** Messages by number, from 1 on. */
export class Inbox {
  readonly #texts: string[] = [];
  readonly #news = new EventEmitter().setMaxListeners(0);

  add(text: string): void {
    this.#texts.push(text);
    this.#news.emit("added");
  }

  /** Every message after a number, and then each that arrives, until the signal aborts. */
  async *after(number: number, signal: AbortSignal) {
    for (let next = number; ; next += 1) {
      while (next >= this.#texts.length) {
        await once(this.#news, "added", { signal });
      }
      yield { number: next + 1, text: this.#texts[next] ?? "" };
    }
  }
}
