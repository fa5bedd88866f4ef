import { Injectable } from "@nestjs/common";

/** What the application had before: a provider that knows nothing of sessions. */
@Injectable()
export class Notes {
  readonly #notes = new Map<string, string[]>();

  add(user: string, text: string): void {
    this.#notes.set(user, [...this.of(user), text]);
  }

  of(user: string): string[] {
    return this.#notes.get(user) ?? [];
  }
}
