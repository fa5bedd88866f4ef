import type { Answer, Exchange } from "./history.ts";
import { sessionOf } from "./history.ts";
import { times } from "./options.ts";
import type { Random } from "./random.ts";
import { cookiesOf, post } from "./raw.ts";
import { sleep } from "./windows.ts";
import { someServer, type World } from "./world.ts";

/** The cookies of a browser. */
export interface Cookies {
  readonly refresh: string;
  readonly access: string;
  readonly goodUntil: number;
}

/** The faults of a call. Times are in milliseconds. */
interface Trouble {
  /** Between reading the cookies and sending them: a slow tab. */
  readonly sendAfter: number;
  /** Between the response and the writing of its cookies. */
  readonly takeAfter: number;
  /** The connection is cut at this time, whether or not a response is under way. */
  readonly cutAfter: number | undefined;
  /** The server has responded, but the client does not receive it. */
  readonly unheard: boolean;
}

const paths = {
  refresh: "rpcsession.v1.SessionService/Refresh",
  signOut: "rpcsession.v1.SessionService/SignOut",
  revoke: "notes.v1.NotesService/SignOut",
  use: "notes.v1.NotesService/ListNotes",
} as const;

type What = keyof typeof paths;

/** A cookie jar with one session, shared by tabs that do not coordinate. */
export class Jar {
  cookies: Cookies;
  /** Whether this client knows that the session is over. */
  ended = false;
  readonly by: Exchange["by"];
  readonly #world: World;
  readonly #random: Random;

  constructor(
    world: World,
    { cookies, by, random }: { cookies: Cookies; by: Exchange["by"]; random: Random },
  ) {
    this.#world = world;
    this.cookies = cookies;
    this.by = by;
    this.#random = random;
  }

  get session(): string {
    return sessionOf(this.cookies.refresh);
  }

  async refresh(): Promise<void> {
    const calls = [this.#call("refresh", this.#trouble())];
    if (this.#random.chance(0.2)) {
      // The same cookies once more. Because of the delays, either request may arrive first.
      calls.push(this.#call("refresh", this.#trouble()));
    }
    await Promise.all(calls);
  }

  async use(): Promise<void> {
    await this.#call("use", { ...smooth, sendAfter: this.#random.between(0, 100) });
  }

  /** Ends the session and returns whether the server acknowledged it. */
  async end(how: "revoke" | "signOut"): Promise<boolean> {
    const answer = await this.#call(how, smooth);
    return answer?.kind === "ok";
  }

  #trouble(): Trouble {
    const random = this.#random;
    const slow = random.chance(0.25);
    return {
      sendAfter: slow ? random.between(0, 250) : 0,
      takeAfter: slow ? random.between(0, 150) : 0,
      cutAfter: random.chance(0.08) ? random.between(0, 60) : undefined,
      unheard: random.chance(0.1),
    };
  }

  async #call(what: What, trouble: Trouble): Promise<Answer | undefined> {
    const { history } = this.#world;
    const { cookies } = this;
    const read = history.now();
    await sleep(trouble.sendAfter);
    if (history.now() - read > 0.8 * times.clientTimeout) {
      // This process was slow. No client sends cookies so long after it has read them.
      return undefined;
    }
    const sent = this.#send(what, cookies, trouble);
    const takeBy = read + times.clientTimeout;
    const tooLate = sleep(takeBy - history.now()).then(() => undefined);
    const answer = await Promise.race([sent.answering, tooLate]);
    if (answer === undefined) {
      this.#giveUp(sent);
      return undefined;
    }
    await sleep(trouble.takeAfter);
    const heard = !trouble.unheard && answer.kind !== "unheard" && history.now() <= takeBy;
    sent.record(answer, heard);
    if (heard) {
      this.#take(answer);
    }
    return heard ? answer : undefined;
  }

  #send(what: What, { refresh, access, goodUntil }: Cookies, { cutAfter }: Trouble): Sent {
    const { history, servers } = this.#world;
    const server = someServer(this.#world, this.#random);
    const began = history.now();
    const stop = new AbortController();
    const answering = post({
      url: `${servers.url(server)}/${paths[what]}`,
      body: {},
      cookies: cookiesOf({ access, refresh }),
      cutAfter,
      signal: stop.signal,
    });
    const { by, session } = this;
    const known = { what, by, session, server, token: refresh, began, goodUntil };
    return {
      answering,
      stop,
      record: (answer, heard) => history.add({ ...known, ended: history.now(), answer, heard }),
    };
  }

  /** The client stops waiting. The server may continue, with or without a connection. */
  #giveUp({ answering, stop, record }: Sent): void {
    if (this.#random.chance(0.5)) {
      stop.abort();
    }
    void answering.then((answer) => {
      const gone = answer.kind === "unheard";
      record(gone ? { ...answer, why: "gaveUp" } : answer, false);
    });
  }

  /** Stores cookies as a browser does: the last write wins, whichever tab it comes from. */
  #take(answer: Answer): void {
    if (answer.kind === "ok") {
      const { refresh, access, goodUntil } = this.cookies;
      this.cookies = {
        refresh: answer.refreshToken ?? refresh,
        access: answer.accessToken ?? access,
        goodUntil: answer.accessToken ? this.#world.history.now() + answer.expiresIn : goodUntil,
      };
    } else if (answer.kind === "refused" && answer.action === "SIGN_IN") {
      this.ended = true;
    }
  }
}

/** A call under way. */
interface Sent {
  readonly answering: Promise<Answer>;
  readonly stop: AbortController;
  readonly record: (answer: Answer, heard: boolean) => void;
}

const smooth: Trouble = { sendAfter: 0, takeAfter: 0, cutAfter: undefined, unheard: false };
