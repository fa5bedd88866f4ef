import { describe, expect, it } from "vitest";
import { Announcer, listenWith, type NotifiedClient } from "../../src/stores/postgres/push.ts";
import { PushImpossible } from "../../src/stores/push.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { settled } from "../helpers/pass.ts";

/** How a pooler chooses the process of the server for a statement of a client. */
type Choose = (client: number) => number;

interface Setup {
  /** The process that a client is told when it connects. */
  readonly announced?: (client: number) => number;
  readonly choose?: Choose;
  /** Whether a notification reaches an idle client. Default true. */
  readonly delivers?: boolean;
}

/** A database, clients that reach it, and what they did. */
function setup({ announced = (n) => n, choose = (n) => n, delivers = true }: Setup = {}) {
  const clock = createFakeClock();
  const texts: string[] = [];
  const state = { woken: 0, lost: 0, opened: 0, closed: 0, listening: "" };
  let notified = (_message: { channel: string; payload?: string }): void => {};
  const newClient = async (): Promise<NotifiedClient> => {
    state.opened += 1;
    const number = state.opened;
    return {
      processID: announced(number),
      connect: async () => {},
      async query(text) {
        texts.push(text);
        const pid = choose(number);
        state.listening = /^(?:unlisten .*; )?listen "(\w+)"$/.exec(text)?.[1] ?? state.listening;
        const listens =
          text.includes(`name = '${state.listening}'`) &&
          text.endsWith(`pg_backend_pid() = ${pid}`);
        return { rows: text.includes("as pid") ? [{ pid }] : listens ? [{}] : [] };
      },
      on(event: string, listener: (...values: never[]) => void) {
        if (event === "notification") {
          notified = listener as typeof notified;
        }
      },
      async end() {
        state.closed += 1;
      },
    };
  };
  const ask = async (text: string, values: string[]): Promise<readonly unknown[]> => {
    if (values[0] !== undefined && delivers) {
      notified({ channel: values[0], payload: "" });
    }
    return text.endsWith("as name") ? [{ name: "rpcsession_log" }] : [];
  };
  const events = { wake: () => void state.woken++, lost: () => void state.lost++ };
  const opening = listenWith(newClient, { clock, ask, self: "me" })(events);
  return {
    clock,
    texts,
    state,
    opening,
    notify: (payload: string) => notified({ channel: "rpcsession_log", payload }),
  };
}

describe("sec:V01 a line on PostgreSQL", () => {
  it("is proven once by a notification, and then without any", async () => {
    const { opening, texts } = setup();
    const line = await opening;
    expect(texts.at(-1)).toMatch(/^unlisten "rpcsession_[\w-]+"; listen "rpcsession_log"$/);
    texts.length = 0;
    await line.ping();
    await line.ping();
    expect(texts).toHaveLength(2);
    expect(texts.join().toLowerCase()).not.toContain("notify");
  });

  it("wakes for notifications of others, not for those of its own store", async () => {
    const { opening, notify, state } = setup();
    await opening;
    notify("me");
    expect(state.woken).toBe(0);
    notify("another");
    // Version 1.5 and older notify without a payload.
    notify("");
    expect(state.woken).toBe(2);
  });

  it("is dead when another process answers, or one that does not listen", async () => {
    let pid = 1;
    const { opening, state } = setup({ choose: () => pid });
    const line = await opening;
    pid = 2;
    await expect(line.ping()).rejects.toThrow("does not listen any more");
    pid = 1;
    await line.ping();
    state.listening = "";
    await expect(line.ping()).rejects.toThrow("does not listen any more");
  });

  let turn = 0;
  const poolers: [string, Choose][] = [
    ["the process that was used last", () => 7],
    ["one of two processes in turn", () => turn++ % 2],
    ["one of three processes in turn", () => turn++ % 3],
    [
      "one of two in turn, after another client's statement",
      () => (turn++ === 0 ? 1 : 1 - (turn % 2)),
    ],
    ["the same ones to other clients, but not at first", (n) => (turn++ < 15 ? n : 3 - n)],
  ];
  it.each(poolers)(
    "is impossible through a pooler that lends %s; nothing listens",
    async (_, choose) => {
      turn = 0;
      const { opening, texts, state } = setup({ announced: (n) => 1000 + n, choose });
      await expect(opening).rejects.toBeInstanceOf(PushImpossible);
      expect(texts.join().toLowerCase()).not.toContain("listen");
      await settled();
      expect(state.closed).toBeGreaterThanOrEqual(state.opened);
    },
  );

  it("works through a pooler that gives each client a process of its own", async () => {
    const { opening, state } = setup({ announced: (n) => 1000 + n });
    await (await opening).ping();
    // The client that was compared with is closed again.
    expect(state).toMatchObject({ opened: 2, closed: 1 });
  });

  it("is not open before a notification has arrived on it, and closes if none does in time", async () => {
    const { opening, clock, texts, state } = setup({ delivers: false });
    const outcome = opening.catch(String);
    await settled();
    expect(texts.join()).not.toContain("rpcsession_log");
    clock.advance("4s");
    expect(await outcome).toContain("did not answer in time");
    expect(state.closed).toBe(1);
  });
});

describe("Announcer", () => {
  function announcer() {
    const clock = createFakeClock();
    const sent: string[] = [];
    let fails = false;
    const ask = async (text: string): Promise<readonly unknown[]> => {
      sent.push(text);
      if (fails) {
        throw new Error("no connection");
      }
      return [];
    };
    const fail = (): void => {
      fails = true;
    };
    return { clock, sent, fail, announcer: new Announcer({ clock, ask, self: "me" }) };
  }

  it("notifies at once, and then at most once every 20 ms", async () => {
    const { announcer: it, clock, sent } = announcer();
    for (let ms = 0; ms < 100; ms++) {
      it.announce();
      it.announce();
      clock.advance("1ms");
    }
    clock.advance("20ms");
    expect(sent).toHaveLength(6);
    expect(sent[0]).toContain("pg_notify");
    clock.advance("1h");
    expect(sent).toHaveLength(6);
    it.announce();
    expect(sent).toHaveLength(7);
  });

  it("sends what is pending when it is closed, and nothing twice", async () => {
    const { announcer: it, clock, sent } = announcer();
    it.announce();
    it.announce();
    expect(sent).toHaveLength(1);
    await it.close();
    expect(sent).toHaveLength(2);
    await it.close();
    clock.advance("1s");
    expect(sent).toHaveLength(2);
  });

  it("rejects nothing when the database is gone", async () => {
    const { announcer: it, sent, fail } = announcer();
    fail();
    it.announce();
    await it.close();
    expect(sent).toHaveLength(1);
  });
});
