// Sessions that are bound to a key: who proves which key, and what nobody without it may get.
import type { DescMethod } from "@bufbuild/protobuf";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../../src/base/errors.ts";
import { proofHeader } from "../../src/base/wire.ts";
import { memoryKeys, type Prover, StoredKey } from "../../src/client/dpop/key.ts";
import type { Engine } from "../../src/engine/engine.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import type { TokenClaims } from "../../src/jwt/claims.ts";
import { checkKey, concernsKey, Proofs } from "../../src/server/authenticate/proofs.ts";
import { issuer } from "./forger.ts";
import type { Jar, Tokens } from "./jar.ts";
import type { World } from "./world.ts";

/** For how long a nonce is accepted at least, in milliseconds, from the moment it was handed out. */
const nonceLife = 60_000;

/** A nonce, and when a server handed it out; milliseconds since 1970. */
interface Nonce {
  readonly value: string;
  readonly at: number;
}

/** The proof of a request, which all copies of the request carry. */
export interface SentProof {
  readonly text: string;
  readonly thumbprint: string;
  readonly nonce: Nonce | undefined;
  /** The servers that have seen it. */
  readonly seenBy: Set<Engine>;
}

/** What a server has found out about the key of a request. */
export type Proven =
  | { readonly provenKey: string | undefined; readonly nonce: Nonce | undefined }
  | { readonly error: SessionError };

/** The keys of the device and of the thief, the nonces that they know, and the servers' checks. */
export class Keys {
  readonly #world: World;
  readonly #proofs = new Map<Engine, Proofs>();
  readonly #nonces = new Map<Jar, Nonce>();
  #device: Prover | undefined;
  #thief: Prover | undefined;

  constructor(world: World) {
    this.#world = world;
  }

  async open(engines: readonly Engine[]): Promise<void> {
    [this.#device, this.#thief] = await Promise.all([
      new StoredKey(memoryKeys()).prover(),
      new StoredKey(memoryKeys()).prover(),
    ]);
    for (const engine of engines) {
      this.#proofs.set(engine, new Proofs({ mode: "preferred", url: issuer }));
    }
  }

  /** The thumbprint that new sessions of a jar are bound to; null for none. */
  keyOf(jar: Jar): string | null {
    const { schedule } = this.#world.options;
    const isBound = schedule.bound && jar === this.#world.jars[1];
    return (isBound && this.#device?.thumbprint) || null;
  }

  /** Makes the proof of a refresh. A thief has none, or one by a key of its own. */
  async proveRefresh(jar: Jar, tab: number, { ledger }: Tokens): Promise<SentProof | undefined> {
    const prover = this.#proverOf(jar);
    if (ledger.boundKey === null || prover === undefined || (this.#isThief(jar) && tab === 0)) {
      return undefined;
    }
    return this.#prove(prover, jar, { method: SessionService.method.refresh });
  }

  /** The check of a proof when its refresh reaches a server. */
  async check(engine: Engine, jar: Jar, proof: SentProof | undefined): Promise<Proven> {
    const call = callOf(SessionService.method.refresh, proof?.text);
    const hasSeen = proof?.seenBy.has(engine);
    proof?.seenBy.add(engine);
    try {
      const provenKey = await this.#proofsOf(engine).prove(
        this.#freshnessOf(engine),
        call,
        undefined,
      );
      return { provenKey, nonce: this.#nonceOf(call.responseHeader.get(proofHeader.nonce)) };
    } catch (error) {
      if (!(error instanceof SessionError) || proof === undefined) {
        throw error;
      }
      if (!this.#isThief(jar) && !hasSeen && !this.#isStale(error, proof)) {
        this.#world.violate("false_logouts", `a proof by the right key: ${error.message}`);
      }
      return { error };
    }
  }

  learn(jar: Jar, nonce: Nonce | undefined): void {
    if (nonce !== undefined) {
      this.#nonces.set(jar, nonce);
    }
  }

  /** Keeps the nonce of a refusal. */
  learnFrom(jar: Jar, { proofNonce }: SessionError): void {
    this.learn(jar, this.#nonceOf(proofNonce));
  }

  /** Calls a method that needs a proof, with the access token of a jar. */
  async callProven(engine: Engine, jar: Jar, tokens: Tokens): Promise<void> {
    const { token, claims } = tokens.access;
    const prover = this.#proverOf(jar);
    if (prover === undefined) {
      return;
    }
    const method = SessionService.method.getSession;
    const attempt = (proof: SentProof | undefined): Promise<SessionError | undefined> =>
      this.#call(engine, claims, { token, method, proof });
    // 1. Without a proof, as an ordinary call.
    const bare = await attempt(undefined);
    // 2. With a proof by the key of this client, and once more with the nonce of the answer.
    const first = await this.#prove(prover, jar, { method, accessToken: token });
    let proven = await attempt(first);
    const stale = proven !== undefined && this.#isStale(proven, first);
    if (proven !== undefined) {
      this.learnFrom(jar, proven);
    }
    if (stale) {
      proven = await attempt(await this.#prove(prover, jar, { method, accessToken: token }));
    }
    if (this.#isThief(jar)) {
      this.#world.tally.boundTries += 1;
    }
    if (bare === undefined || (this.#isThief(jar) && proven === undefined)) {
      this.#world.violate("bound_thief_proof_calls", "a call without the key was accepted");
    }
    if (!this.#isThief(jar) && proven !== undefined) {
      this.#world.violate("false_logouts", `a call with a proof: ${proven.message}`);
    }
  }

  /** A call of a thief, whose access token may have expired long ago. */
  async callLate(engine: Engine, { access }: Tokens): Promise<void> {
    const world = this.#world;
    if (world.time.now < access.claims.exp * 1000) {
      return;
    }
    world.tally.boundTries += 1;
    const at = world.options.removal?.noEnd ? access.claims.iat * 1000 : undefined;
    const verified = await engine.verify(access.token, at ?? engine.revocations.storeNow());
    if (verified.status === "valid") {
      const late = Math.round(world.time.now / 1000 - access.claims.exp);
      world.violate("bound_thief_calls_after_expiry", `${late} s after the end of its token`);
    }
  }

  async #call(
    engine: Engine,
    claims: TokenClaims,
    given: {
      readonly token: string;
      readonly method: DescMethod;
      readonly proof: SentProof | undefined;
    },
  ): Promise<SessionError | undefined> {
    const { token, method, proof } = given;
    const scheme = proof === undefined ? "session" : "dpop";
    const call = {
      ...callOf(method, proof?.text),
      presented: { ...none, scheme, bearer: token },
    } as const;
    const isDemanded = this.#world.options.removal?.noDemand !== true;
    const demand = {
      proofs: this.#proofsOf(engine),
      engine: this.#freshnessOf(engine),
      isDemanded,
    };
    try {
      if (concernsKey(call.presented, claims, isDemanded)) {
        await checkKey(demand, call, claims);
      }
      return undefined;
    } catch (error) {
      if (error instanceof SessionError) {
        return error;
      }
      throw error;
    }
  }

  async #prove(
    prover: Prover,
    jar: Jar,
    { method, accessToken }: { readonly method: DescMethod; readonly accessToken?: string },
  ): Promise<SentProof> {
    const nonce = this.#nonces.get(jar);
    const { now } = this.#world.time;
    const text = await prover.prove({
      htm: "POST",
      htu: urlOf(method),
      nonce: nonce?.value,
      accessToken,
      // The clock of the device is wrong, and nobody looks at it.
      iat: Math.max(0, Math.floor((now + this.#world.options.schedule.deviceAhead) / 1000)),
    });
    return { text, thumbprint: prover.thumbprint, nonce, seenBy: new Set() };
  }

  /** Whether a refusal only asks for a nonce, and may: there was none, or it was old. */
  #isStale({ reason }: SessionError, { nonce }: SentProof): boolean {
    const age = this.#world.time.now - (nonce?.at ?? Number.NEGATIVE_INFINITY);
    return reason === "PROOF_NONCE" && age > nonceLife;
  }

  #isThief(jar: Jar): boolean {
    return jar === this.#world.jars[2];
  }

  #proverOf(jar: Jar): Prover | undefined {
    return this.#isThief(jar) ? this.#thief : this.#device;
  }

  #proofsOf(engine: Engine): Proofs {
    const proofs = this.#proofs.get(engine);
    if (proofs === undefined) {
      throw new Error("the server has no check of proofs");
    }
    return proofs;
  }

  #freshnessOf({ nonces, revocations }: Engine) {
    return { revocations, nonces: this.#world.options.removal?.noNonces ? undefined : nonces };
  }

  #nonceOf(value: string | null | undefined): Nonce | undefined {
    return value ? { value, at: this.#world.time.now } : undefined;
  }
}

const none = {
  ...{
    accessCookies: [],
    refreshCookies: [],
    otherCookies: [],
    hasCookies: false,
    byCookie: false,
  },
  otherCookies: { access: [], refresh: [] },
  isEmpty: false,
} as const;

function callOf(method: DescMethod, proof: string | undefined) {
  return {
    requestHeader: new Headers(proof === undefined ? {} : { [proofHeader.proof]: proof }),
    requestMethod: "POST",
    url: urlOf(method),
    method,
    presented: { ...none, scheme: undefined, bearer: undefined },
    responseHeader: new Headers(),
    provenKey: undefined as string | undefined,
  };
}

function urlOf({ name, parent }: DescMethod): string {
  return `${issuer}/${parent.typeName}/${name}`;
}

/** A store whose rows are those of a backup from before their sessions were bound. */
export function restoredBeforeBinding(store: SessionStore): SessionStore {
  return {
    ...store,
    async insert(session) {
      const inserted = await store.insert({ ...session, boundKey: null });
      return inserted.record === undefined
        ? inserted
        : { ...inserted, record: { ...inserted.record, boundKey: session.boundKey } };
    },
  };
}
