// What the SDKs for iOS, Android and Flutter send and keep, by their sources, without running them.
import { type IncomingMessage, request, type ServerResponse } from "node:http";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { SessionEvent } from "rpc-session";
import { type FormerSession, superTokens } from "rpc-session/compat/supertokens";
import { type JsonObject, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const issuer = "https://test.example";
const versions = "1.16,1.17,1.18,1.19,2.0,3.0,3.1";

/** What distinguishes an SDK from the others. All send `st-auth-mode: header`. */
interface Kind {
  /** What it adds to every request of the app. */
  readonly call: Readonly<Record<string, string>>;
  readonly refresh: Readonly<Record<string, string>>;
  /** It finds a header only under the name that its code has, in lower case. */
  readonly exactNames: boolean;
  /** A refresh that is refused with 401 ends the session if the response has no front-token, or if it has one. */
  readonly endsOn401: "without" | "with";
  /** It takes a refresh without a front-token for the end of the session when it reports events. */
  readonly reportsMissing: boolean;
}

const common = { "st-auth-mode": "header", "accept-encoding": "gzip" };
const session = { ...common, rid: "session", "fdi-version": versions };
const kinds: readonly (readonly [string, Kind])[] = [
  [
    "iOS",
    {
      call: { ...common, rid: "anti-csrf", accept: "*/*", "user-agent": "App/1 CFNetwork/1410" },
      refresh: { ...session, accept: "*/*", "content-length": "0" },
      ...{ exactNames: true, endsOn401: "without", reportsMissing: true },
    },
  ],
  [
    "Android",
    {
      call: { ...common, rid: "anti-csrf", "user-agent": "okhttp/4.9.0" },
      refresh: {
        ...{ ...session, "content-type": "application/x-www-form-urlencoded" },
        ...{ "content-length": "0" },
      },
      ...{ exactNames: false, endsOn401: "with", reportsMissing: true },
    },
  ],
  [
    "Flutter",
    {
      call: { ...common, cookie: "", "user-agent": "Dart/3.5 (dart:io)" },
      refresh: { ...session, cookie: "", "content-length": "0" },
      ...{ exactNames: false, endsOn401: "without", reportsMissing: false },
    },
  ],
];

interface Answer {
  readonly status: number;
  readonly body: string;
  /** Names as they are on the wire. */
  readonly headers: ReadonlyMap<string, string>;
}

/** One HTTP stack of an app. Its storage may be shared with another one, its lock is its own. */
class Phone {
  readonly events: string[] = [];
  readonly storage: Map<string, string>;
  readonly #url: string;
  readonly #kind: Kind;
  #lock: Promise<unknown> = Promise.resolve();

  constructor(url: string, kind: Kind, storage: Map<string, string> = new Map()) {
    this.#url = url;
    this.#kind = kind;
    this.storage = storage;
  }

  /** The payload of the front-token; undefined if there is no session. */
  get payload(): JsonObject | undefined {
    const token = this.storage.get("front-token");
    // As strict as the SDK for iOS, which ends the app if this is no base64 or no JSON.
    expect(token ?? "").toMatch(/^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/);
    return token && JSON.parse(Buffer.from(token, "base64").toString()).up;
  }

  /** Calls a method. After a 401 it refreshes, unless another call has just done so, and calls again. */
  async call(method: string, body: object = {}): Promise<Answer> {
    const path = `/notes.v1.NotesService/${method}`;
    return this.#send(path, { "content-type": "application/json" }, JSON.stringify(body));
  }

  async signOut(): Promise<Answer> {
    return this.#send("/auth/signout", { rid: "session", "content-length": "0" }, "");
  }

  async refresh(): Promise<"retry" | "ended" | number> {
    const before = this.storage.get("updated");
    const work = this.#lock.then(() => this.#refresh(before));
    this.#lock = work.catch(() => {});
    return work;
  }

  async #send(path: string, headers: Record<string, string>, body: string): Promise<Answer> {
    for (let left = 10; ; left--) {
      const before = this.storage.get("updated");
      const wasSignedIn = this.storage.has("front-token");
      const given = { ...this.#kind.call, ...headers, ...this.#authorization("access") };
      const answer = await this.#post(path, given, body);
      this.#save(answer);
      this.#report(wasSignedIn, answer.status, this.#header(answer, "front-token"));
      if (answer.status !== 401 || left === 0) {
        return answer;
      }
      const work = this.#lock.then(() => this.#refresh(before));
      this.#lock = work.catch(() => {});
      if ((await work) !== "retry") {
        return answer;
      }
    }
  }

  async #refresh(before: string | undefined): Promise<"retry" | "ended" | number> {
    if (!this.storage.has("front-token")) {
      this.events.push("UNAUTHORISED");
      return "ended";
    }
    if (this.storage.get("updated") !== before) {
      return "retry";
    }
    const { refresh, endsOn401, reportsMissing } = this.#kind;
    const headers = { ...refresh, ...this.#authorization("refresh") };
    const answer = await this.#post("/auth/session/refresh", headers, "");
    this.#save(answer);
    const front = this.#header(answer, "front-token");
    if (answer.status === 401 && (front === undefined) === (endsOn401 === "without")) {
      this.#clear();
    }
    this.#report(true, answer.status, front ?? (reportsMissing ? "remove" : undefined));
    if (answer.status >= 300) {
      return answer.status;
    }
    this.events.push("REFRESH_SESSION");
    return this.storage.has("front-token") ? "retry" : "ended";
  }

  #authorization(which: "access" | "refresh"): Record<string, string> {
    const has = this.storage.has("access") && this.storage.has("refresh");
    return has ? { authorization: `Bearer ${this.storage.get(which)}` } : {};
  }

  #save(answer: Answer): void {
    for (const name of ["refresh", "access"]) {
      const token = this.#header(answer, `st-${name}-token`);
      if (token === "") {
        this.storage.delete(name);
      } else if (token !== undefined) {
        this.storage.set(name, token);
      }
    }
    const front = this.#header(answer, "front-token");
    if (front === "remove") {
      this.#clear();
    } else if (front !== undefined) {
      const before = this.payload;
      this.storage.set("front-token", front);
      this.storage.set("updated", String(Number(this.storage.get("updated") ?? 0) + 1));
      if (before !== undefined && JSON.stringify(before) !== JSON.stringify(this.payload)) {
        this.events.push("ACCESS_TOKEN_PAYLOAD_UPDATED");
      }
    }
  }

  #clear(): void {
    for (const name of ["front-token", "access", "refresh"]) {
      this.storage.delete(name);
    }
  }

  #report(wasSignedIn: boolean, status: number, front: string | undefined): void {
    if (front === undefined || wasSignedIn === (front !== "remove")) {
      return;
    }
    const ending = status === 401 ? "UNAUTHORISED" : "SIGN_OUT";
    this.events.push(wasSignedIn ? ending : "SESSION_CREATED");
  }

  #header({ headers }: Answer, name: string): string | undefined {
    const { exactNames } = this.#kind;
    const found = [...headers].find(([each]) => (exactNames ? each : each.toLowerCase()) === name);
    return found?.[1];
  }

  #post(path: string, headers: Record<string, string>, body: string): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const sent = request(this.#url + path, { method: "POST", headers }, (answer) => {
        const { rawHeaders, statusCode: status = 0 } = answer;
        const named = new Map<string, string>();
        for (let i = 0; i < rawHeaders.length; i += 2) {
          named.set(rawHeaders[i] ?? "", rawHeaders[i + 1] ?? "");
        }
        let text = "";
        answer.setEncoding("utf8").on("data", (chunk: string) => {
          text += chunk;
        });
        answer.on("end", () => resolve({ status, body: text, headers: named }));
      });
      sent.on("error", reject).end(body);
    });
  }
}

async function world() {
  const { store, failing } = watchedStore();
  const events: SessionEvent["type"][] = [];
  const sessions = testSessions({
    ...{ store, public: [NotesService.method.signIn] },
    clientClaims: ({ role }: JsonObject) => ({ role }),
    onEvent: ({ type }) => events.push(type),
  });
  const rpcs = connectNodeAdapter(
    sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async signIn({ user }, ctx) {
            await sessions.create(ctx, { userId: user, claims: { role: "reader" } });
            return {};
          },
          listNotes: (_, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
          async addNote(_, ctx) {
            await sessions.require(ctx).updateClaims({ role: "éditeur" });
            return {};
          },
        }),
    }),
  );
  const former = async (token: string): Promise<FormerSession | undefined> => {
    const createdAt = new Date(sessions.clock.now() - 60_000);
    const externalId = { issuer: "supertokens", sid: "1" };
    return token === "former-refresh" ? { userId: "grace", externalId, createdAt } : undefined;
  };
  const seen = { refreshes: 0, cookies: 0 };
  const handle = superTokens(sessions, { issuer, former }).node(rpcs);
  const url = await listenForTest((req: IncomingMessage, res: ServerResponse) => {
    seen.refreshes += req.url === "/auth/session/refresh" ? 1 : 0;
    res.on("finish", () => {
      seen.cookies += res.hasHeader("set-cookie") ? 1 : 0;
    });
    handle(req, res);
  });
  return { sessions, failing, events, seen, url };
}

const nameOf = (answer: Answer) => JSON.parse(answer.body).notes?.[0].text;

describe.each(kinds)("feat:P20 the SDK of SuperTokens for %s, by its source", (_, kind) => {
  it("signs in, refreshes once for calls at the same time, and signs out", async () => {
    const { sessions, seen, url, events } = await world();
    const phone = new Phone(url, kind);
    expect((await phone.call("SignIn", { user: "ada" })).status).toBe(200);
    expect(phone.payload).toMatchObject({ sub: "ada", role: "reader" });
    expect([...phone.storage.keys()].sort()).toEqual([
      ...["access", "front-token", "refresh", "updated"],
    ]);
    expect(nameOf(await phone.call("ListNotes"))).toBe("ada");

    sessions.clock.advance("20m");
    const answers = await Promise.all([1, 2, 3].map(() => phone.call("ListNotes")));
    expect(answers.map(nameOf)).toEqual(["ada", "ada", "ada"]);
    expect(seen.refreshes).toBe(1);

    const out = await phone.signOut();
    expect([out.status, JSON.parse(out.body)]).toEqual([200, { status: "OK" }]);
    expect([...phone.storage.keys()]).toEqual(["updated"]);
    expect((await phone.call("ListNotes")).status).toBe(401);
    expect(phone.events.filter((each) => each !== "ACCESS_TOKEN_PAYLOAD_UPDATED")).toEqual([
      ...["SESSION_CREATED", "REFRESH_SESSION", "SIGN_OUT", "UNAUTHORISED"],
    ]);
    expect(events).not.toContain("theft");
    expect(seen).toEqual({ refreshes: 1, cookies: 0 });
  });

  it("keeps its refresh token if an early refresh sends none", async () => {
    const { sessions, url } = await world();
    const phone = new Phone(url, kind);
    await phone.call("SignIn", { user: "ada" });
    const first = phone.storage.get("refresh");
    expect(await phone.refresh()).toBe("retry");
    expect(phone.storage.get("refresh")).toBe(first);
    sessions.clock.advance("20m");
    expect(nameOf(await phone.call("ListNotes"))).toBe("ada");
    expect(phone.events).not.toContain("UNAUTHORISED");
  });

  it("may refresh in two HTTP stacks at the same time", async () => {
    const { sessions, url, seen, events } = await world();
    const one = new Phone(url, kind);
    const two = new Phone(url, kind, one.storage);
    await one.call("SignIn", { user: "ada" });
    for (let i = 0; i < 3; i++) {
      sessions.clock.advance("20m");
      const answers = await Promise.all([one.call("ListNotes"), two.call("ListNotes")]);
      expect(answers.map(nameOf)).toEqual(["ada", "ada"]);
    }
    expect(seen.refreshes).toBeGreaterThan(3);
    expect(events).not.toContain("theft");
  });

  it("keeps its session when a refresh meets an outage", async () => {
    const { sessions, failing, url } = await world();
    const phone = new Phone(url, kind);
    await phone.call("SignIn", { user: "ada" });
    sessions.clock.advance("20m");
    for (const method of ["refresh", "load", "advance"] as const) {
      failing.add(method);
    }
    expect(await phone.refresh()).toBe(503);
    // These SDKs report a sign-out that did not happen; docs/supertokens.md names them.
    expect(phone.events.includes("SIGN_OUT")).toBe(kind.reportsMissing);
    failing.clear();
    sessions.clock.advance("10s");
    expect(nameOf(await phone.call("ListNotes"))).toBe("ada");
  });

  it("sees changed claims at once", async () => {
    const { url } = await world();
    const phone = new Phone(url, kind);
    await phone.call("SignIn", { user: "ada" });
    await phone.call("AddNote", { note: { text: "x" } });
    expect(phone.payload).toMatchObject({ sub: "ada", role: "éditeur" });
    expect(phone.events).toContain("ACCESS_TOKEN_PAYLOAD_UPDATED");
  });

  it("forgets a session that was revoked, and does not ask again", async () => {
    const { sessions, seen, url } = await world();
    const phone = new Phone(url, kind);
    await phone.call("SignIn", { user: "ada" });
    await sessions.revokeAll({ userId: "ada" });
    expect((await phone.call("ListNotes")).status).toBe(401);
    expect(phone.payload).toBeUndefined();
    expect(phone.events.at(-1)).toBe("UNAUTHORISED");
    const { refreshes } = seen;
    expect((await phone.call("ListNotes")).status).toBe(401);
    expect(seen.refreshes).toBe(refreshes);
  });

  it("trades a session of SuperTokens, and never receives a cookie", async () => {
    const { seen, url } = await world();
    const front = Buffer.from('{"uid":"grace","ate":1,"up":{}}').toString("base64");
    const stored = { access: "former-access", refresh: "former-refresh", "front-token": front };
    const phone = new Phone(url, kind, new Map(Object.entries(stored)));
    expect(nameOf(await phone.call("ListNotes"))).toBe("grace");
    expect(phone.payload).toMatchObject({ sub: "grace" });
    expect((await phone.signOut()).status).toBe(200);
    expect(phone.payload).toBeUndefined();
    // Without a CookieManager, the SDK for Android fails if there is one.
    expect(seen.cookies).toBe(0);
  });
});
