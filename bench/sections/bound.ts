import {
  createClient,
  createContextValues,
  createHandlerContext,
  createRouterTransport,
  type HandlerContext,
} from "@connectrpc/connect";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { memoryKeys, type Prover, StoredKey } from "../../src/client/dpop/key.ts";
import { dbscHandler } from "../../src/http/index.ts";
import { createSessions, type MethodPolicyOptions, type Sessions } from "../../src/index.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import type { BenchOptions } from "../lib/options.ts";
import type { Findings } from "../lib/report.ts";
import { type Contestant, cpuRounds } from "../lib/rounds.ts";
import { spreadOf } from "../lib/stats.ts";
import { issuer } from "../lib/tokens.ts";

const sessionCount = 200;
const calls = 2_000;
const proven = 300;
const names = {
  verify: "one signature check alone (ES256, Web Crypto)",
  plain: "ordinary call, not bound",
  bound: "ordinary call of a bound session",
  required: 'call with `proof: "required"`',
  refresh: "refresh, not bound",
  boundRefresh: "refresh of a bound session",
  browserProof: "proof of a browser (DBSC), once before a refresh in cookies",
} as const;

/** What a key costs: an ordinary call, a refresh, and a call that needs a proof. */
export async function boundSection({ rounds, quick }: BenchOptions): Promise<Findings> {
  const prover = await new StoredKey(memoryKeys()).prover();
  const found = await cpuRounds(
    [
      await verifyContestant(),
      await gateContestant(names.plain, undefined),
      await gateContestant(names.bound, prover),
      await gateContestant(names.required, prover, { proof: "required" }),
      await refreshContestant(names.refresh, undefined),
      await refreshContestant(names.boundRefresh, prover),
      await browserContestant(),
    ],
    quick ? 7 : rounds,
  );
  return {
    tables: [
      {
        title: "sessions that are bound to a key, µs CPU (quartiles)",
        columns: ["server"],
        rows: Object.values(names).map((name) => ({
          name,
          cells: [spreadOf((found.get(name) ?? []).map((ns) => ns / 1000))],
        })),
      },
    ],
    headline: {},
    notes: [
      "the refreshes run through a Connect router in memory, so they include the calling client. Proofs are made before each round, with the nonce of the service.",
    ],
  };
}

async function verifyContestant(): Promise<Contestant> {
  const curve = { name: "ECDSA", namedCurve: "P-256" };
  const how = { name: "ECDSA", hash: "SHA-256" };
  const pair = await crypto.subtle.generateKey(curve, false, ["sign", "verify"]);
  const data = new TextEncoder().encode("a proof ".repeat(50));
  const signature = await crypto.subtle.sign(how, pair.privateKey, data);
  return {
    name: names.verify,
    ops: proven,
    async batch() {
      for (let i = 0; i < proven; i++) {
        await crypto.subtle.verify(how, pair.publicKey, signature, data);
      }
    },
  };
}

/** The clock stands still unless a contestant advances it, so that one nonce serves many proofs. */
function newSessions(policy: MethodPolicyOptions = {}, clock = createFakeClock()): Sessions {
  return createSessions({
    ...{ issuer, store: memoryStore(), clock, onEvent: () => {} },
    public: [NotesService.method.signIn],
    methods: { "notes.v1.NotesService/ListNotes": policy },
  });
}

function issueAll(sessions: Sessions, count: number, prover: Prover | undefined) {
  const key = prover === undefined ? {} : { boundKey: prover.thumbprint };
  return Promise.all(
    Array.from({ length: count }, (_, i) =>
      sessions.issue({ userId: `user-${i}`, transport: "header", ...key }),
    ),
  );
}

/** The gate of a warm call. */
async function gateContestant(
  name: string,
  prover: Prover | undefined,
  policy: MethodPolicyOptions = {},
): Promise<Contestant> {
  const sessions = newSessions(policy);
  const issued = await issueAll(sessions, sessionCount, prover);
  const isProven = policy.proof === "required";
  const ops = isProven ? proven : calls;
  const htu = `${issuer}/notes.v1.NotesService/ListNotes`;
  const nonce = isProven ? await learnNonce(sessions, prover) : undefined;
  const scheme = isProven ? "DPoP" : prover === undefined ? "Bearer" : "Session";
  let contexts: HandlerContext[] = [];
  return {
    name,
    ops,
    async prepare() {
      const headers = Array.from({ length: ops }, async (_, i): Promise<Headers> => {
        const accessToken = issued[i % sessionCount]?.tokens.accessToken ?? "";
        const proof =
          isProven && prover !== undefined
            ? { dpop: await prover.prove({ htm: "POST", htu, nonce, accessToken, iat: 0 }) }
            : {};
        return new Headers({ authorization: `${scheme} ${accessToken}`, ...proof });
      });
      contexts = (await Promise.all(headers)).map(contextOf);
    },
    async batch() {
      for (const context of contexts) {
        await sessions.requestGate(context);
      }
    },
  };
}

async function refreshContestant(name: string, prover: Prover | undefined): Promise<Contestant> {
  const clock = createFakeClock();
  const sessions = newSessions({}, clock);
  const issued = await issueAll(sessions, proven, prover);
  const tokens = issued.map(({ tokens: { refreshToken } }) => refreshToken ?? "");
  let nonce: string | undefined;
  const client = clientOf(sessions);
  const htu = `${issuer}/rpcsession.v1.SessionService/Refresh`;
  let headers: Record<string, string>[] = [];
  const prove = async (): Promise<Record<string, string>> => {
    const target = { htm: "POST", htu, nonce, accessToken: undefined, iat: 0 };
    return prover === undefined ? {} : { dpop: await prover.prove(target) };
  };
  const refreshAll = async (): Promise<number> => {
    let renewed = 0;
    for (const [i, refreshToken] of tokens.entries()) {
      await client.refresh(
        { refreshToken },
        {
          headers: headers[i] ?? {},
          onHeader(received) {
            const next = received.get("rpcsession-refresh-token");
            renewed += next === null ? 0 : 1;
            tokens[i] = next ?? refreshToken;
          },
        },
      );
    }
    return renewed;
  };
  const later = async (): Promise<void> => {
    clock.advance("10m");
    nonce = prover && (await learnNonce(sessions, prover));
    headers = await Promise.all(tokens.map(prove));
  };
  return {
    name,
    ops: proven,
    async prepare() {
      // The first use of a token confirms that it has arrived, and changes nothing else.
      await later();
      await refreshAll();
      await later();
    },
    async batch() {
      const renewed = await refreshAll();
      if (renewed !== proven) {
        throw new Error(`${renewed} of ${proven} refreshes brought a new token`);
      }
    },
  };
}

/** The request with which a browser proves its key: the server checks a signature, and answers with a cookie. */
async function browserContestant(): Promise<Contestant> {
  const sessions = newSessions();
  const handler = dbscHandler(sessions);
  const ask = async (path: string, headers: Record<string, string>): Promise<Response> => {
    const answer = await handler(
      new Request(`${issuer}/dbsc/${path}`, { method: "POST", headers }),
    );
    if (answer === undefined) {
      throw new Error(`/dbsc/${path} is not served`);
    }
    return answer;
  };
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const jwk = await exportJWK(publicKey);
  const sign = (jti: string | undefined, header: object = {}): Promise<string> =>
    new SignJWT({ jti: jti ?? "" })
      .setProtectedHeader({ alg: "ES256", typ: "dbsc+jwt", ...header })
      .sign(privateKey);

  const { cookie, offer } = await signInAsBrowser(sessions);
  const proof = await sign(/challenge="([^"]+)"/.exec(offer)?.[1], { jwk });
  const registered = await ask("register", { cookie, "secure-session-response": proof });
  const { session_identifier: id } = (await registered.json()) as { session_identifier: string };
  const asked = { cookie, "sec-secure-session-id": id };
  const challenge = async (): Promise<string> => {
    const text = (await ask("refresh", asked)).headers.get("secure-session-challenge") ?? "";
    return sign(/^"([^"]+)"/.exec(text)?.[1]);
  };
  let proofs: string[] = [];
  return {
    name: names.browserProof,
    ops: proven,
    async prepare() {
      proofs = await Promise.all(Array.from({ length: proven }, challenge));
    },
    async batch() {
      for (const proof of proofs) {
        const { status } = await ask("refresh", { ...asked, "secure-session-response": proof });
        if (status !== 200) {
          throw new Error(`a proof was answered with ${status}`);
        }
      }
    },
  };
}

/** Signs in as a page does, and returns its cookies and the offer to bind the session. */
async function signInAsBrowser(sessions: Sessions) {
  const received = new Headers();
  const { routes, ...router } = sessions.protect({
    routes: (router) =>
      router.service(NotesService, {
        async signIn(_request, context) {
          await sessions.create(context, { userId: "alice" });
          return {};
        },
      }),
  });
  const headers = { origin: issuer, "sec-fetch-site": "same-origin" };
  await createClient(NotesService, createRouterTransport(routes, { router })).signIn(
    { user: "alice" },
    {
      headers,
      onHeader(all) {
        for (const [name, value] of all) {
          received.append(name, value);
        }
      },
    },
  );
  const cookie = received
    .getSetCookie()
    .map((line) => line.split(";")[0])
    .join("; ");
  return { cookie, offer: received.get("secure-session-registration") ?? "" };
}

/** Learns a nonce as clients do: by a refused call. */
async function learnNonce(sessions: Sessions, prover: Prover | undefined): Promise<string> {
  const [issued] = await issueAll(sessions, 1, prover);
  const htu = `${issuer}/rpcsession.v1.SessionService/Refresh`;
  const target = { htm: "POST", htu, nonce: undefined, accessToken: undefined, iat: 0 };
  let nonce = "";
  await clientOf(sessions)
    .refresh(
      { refreshToken: issued?.tokens.refreshToken ?? "" },
      { headers: { dpop: (await prover?.prove(target)) ?? "" } },
    )
    .catch((error: { readonly metadata: Headers }) => {
      nonce = error.metadata.get("dpop-nonce") ?? "";
    });
  if (nonce === "") {
    throw new Error("the service has sent no nonce");
  }
  return nonce;
}

function clientOf(sessions: Sessions) {
  const { routes, ...router } = sessions.protect({
    routes: (router) => router.service(NotesService, {}),
  });
  return createClient(SessionService, createRouterTransport(routes, { router }));
}

function contextOf(requestHeader: Headers): HandlerContext {
  return createHandlerContext({
    ...{ service: NotesService, method: NotesService.method.listNotes },
    ...{ protocolName: "connect", requestMethod: "POST", requestHeader },
    url: `${issuer}/notes.v1.NotesService/ListNotes`,
    contextValues: createContextValues(),
  });
}
