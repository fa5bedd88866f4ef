import { createClient } from "@connectrpc/connect";
import { useEffect, useRef, useSyncExternalStore } from "react";
import {
  Actor,
  Mood,
  PlaygroundService,
  type WatchTimelineResponse,
} from "../../gen/playground/v1/playground_pb.ts";
import { network } from "./network.ts";

/** Everybody may read the timeline, so it needs no session. */
const server = createClient(PlaygroundService, network.connect({ interceptors: [] }));

/** Follows the timeline of the server, with one stream for the whole page. */
class TimelineStore {
  #entries: readonly WatchTimelineResponse[] = [];
  readonly #listeners = new Set<() => void>();

  readonly read = (): readonly WatchTimelineResponse[] => this.#entries;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  async follow(): Promise<void> {
    const after = this.#entries.at(-1)?.number ?? 0;
    for await (const entry of server.watchTimeline({ after })) {
      this.#entries = [...this.#entries, entry].slice(-200);
      for (const listener of this.#listeners) {
        listener();
      }
    }
  }
}

const timeline = new TimelineStore();

/** Follows the timeline, and begins again when the server was restarted. */
async function follow(): Promise<never> {
  for (;;) {
    await timeline.follow().catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
void follow();

/** Returns the number of the server's latest event. */
export function useServerNews(): number {
  const entries = useSyncExternalStore(timeline.subscribe, timeline.read);
  return entries.findLast(({ actor }) => actor === Actor.SERVER)?.number ?? 0;
}

const actors: Readonly<Record<Actor, string>> = {
  [Actor.UNSPECIFIED]: "",
  [Actor.SERVER]: "server",
  [Actor.BROWSER]: "browser",
  [Actor.THIEF]: "thief",
  [Actor.PHONE]: "phone",
};

const moods: Readonly<Record<Mood, string>> = {
  [Mood.UNSPECIFIED]: "",
  [Mood.GOOD]: "good",
  [Mood.REFUSED]: "refused",
  [Mood.ALARM]: "alarm",
};

/** The timeline beside the page, newest entry last. */
export function Timeline() {
  const entries = useSyncExternalStore(timeline.subscribe, timeline.read);
  const list = useRef<HTMLOListElement>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: a new entry scrolls to the end
  useEffect(() => {
    list.current?.scrollTo({ top: list.current.scrollHeight });
  }, [entries]);
  return (
    <aside className="timeline" aria-labelledby="timeline">
      <h2 id="timeline">What the server sees</h2>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: keyboards scroll it */}
      <ol ref={list} role="log" tabIndex={0} aria-labelledby="timeline">
        {entries.length === 0 && <li>Nothing yet. Sign in.</li>}
        {entries.map(({ number, time, actor, mood, text }) => (
          <li key={number} className={`${actors[actor]} ${moods[mood]}`}>
            <span className="actor">{actors[actor]}</span>
            <time>{new Date(Number(time)).toLocaleTimeString()}</time>
            <span>{text}</span>
          </li>
        ))}
      </ol>
    </aside>
  );
}
