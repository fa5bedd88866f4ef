import { randomId } from "../../src/base/crypto.ts";
import type { Engine } from "../../src/engine/engine.ts";
import type { Lifetimes } from "../../src/engine/lifetimes.ts";
import { parseRefreshToken } from "../../src/engine/refresh/format.ts";
import type { Refreshed } from "../../src/engine/refresh/refresh.ts";
import { decideRefresh, type RefreshRule } from "../../src/engine/refresh/rule.ts";
import type { EndedEntry, SessionStore } from "../../src/engine/store.ts";
import type { Skew } from "./clock.ts";
import { advanceOf } from "./watched-store.ts";

/** A change that removes one rule of refreshing. */
export interface Removal {
  /** The rule, in words. */
  readonly rule: string;
  readonly decide?: RefreshRule;
  readonly lifetimes?: Partial<Lifetimes>;
  /** Whether every statement uses the clock of the server that sent it. */
  readonly nodeClock?: true;
  /** Whether a use confirms its generation whatever refresh cookie is beside it. */
  readonly anyReceipt?: true;
  /** Whether no method asks for a proof. */
  readonly noDemand?: true;
  /** Whether proofs have no nonces, so that the time of the client counts. */
  readonly noNonces?: true;
  /** Whether access tokens are verified at the time of their issue. */
  readonly noEnd?: true;
  /** Changes every engine. */
  readonly engine?: (engine: Engine) => void;
  /** Replaces the store of all servers. */
  readonly store?: (store: SessionStore) => SessionStore;
}

/** Every rule that can be removed. Without it, the model must find a violation. */
export const removals: Readonly<Record<string, Removal>> = {
  overlap: {
    rule: "the previous token stays valid for `overlap` after its successor was confirmed",
    decide: (record, presented, times) =>
      decideRefresh(record, presented, { ...times, overlap: -1 }),
  },
  settle: {
    rule: "a use confirms a generation only after it has settled",
    lifetimes: { settle: 0 },
  },
  receipt: {
    rule: "a use confirms a generation only beside the refresh cookie of that generation",
    anyReceipt: true,
  },
  sent: {
    rule: "a generation settles anew when its refresh token is sent again",
    decide(record, presented, times) {
      const decision = decideRefresh(record, presented, times);
      return decision.kind === "resend" ? { ...decision, prolonged: null } : decision;
    },
  },
  keep: {
    rule: "an unconfirmed generation is kept, not advanced",
    decide(record, presented, times) {
      const decision = decideRefresh(record, presented, times);
      return decision.kind === "keep" ? { kind: "advance" } : decision;
    },
  },
  resend: {
    rule: "a lost response is repeated as long as its generation is unconfirmed",
    decide(record, presented, times) {
      const decision = decideRefresh(record, presented, times);
      const late = times.now - record.rotatedAt > times.overlap;
      return decision.kind === "resend" && late ? { kind: "theft" } : decision;
    },
  },
  theft: {
    rule: "a token that is presented after its successor was confirmed is theft",
    decide(record, presented, times) {
      const decision = decideRefresh(record, presented, times);
      return decision.kind === "theft" ? { kind: "resend", prolonged: null } : decision;
    },
  },
  forward: {
    rule: "a generation ahead of the store moves the store forward",
    decide(record, presented, times) {
      const decision = decideRefresh(record, presented, times);
      return decision.kind === "forward" ? { kind: "theft" } : decision;
    },
  },
  revoked: {
    rule: "a revoked session is refused",
    decide: (record, presented, times) =>
      decideRefresh({ ...record, revokedAt: null }, presented, times),
  },
  expired: {
    rule: "a session past its end is refused",
    decide: (record, presented, times) =>
      decideRefresh(
        { ...record, idleExpiresAt: Number.POSITIVE_INFINITY, expiresAt: Number.POSITIVE_INFINITY },
        presented,
        times,
      ),
  },
  "conditional-write": { rule: "a write is conditional on the generation", store: blindWrite },
  "revoked-write": { rule: "a write is conditional on the session being live", store: deafWrite },
  "confirm-write": { rule: "only the current generation is confirmed", store: looseConfirm },
  "same-successor": { rule: "every attempt creates the same successor", engine: randomSuccessor },
  "advance-confirmed": {
    rule: "the write of the common refresh is conditional on a confirmation",
    store: hastyAdvance,
  },
  root: {
    rule: "nothing is done before the root of a token was compared with its row",
    engine: trustMac,
  },
  "former-secret": {
    rule: "only the secrets that the row names have signed its last two generations",
    engine: trustAnySecret,
  },
  proof: { rule: "a bound session refreshes only with a proof by its key", engine: believeKey },
  "proof-first": {
    rule: "equal refreshes share an answer only if they have proven the same key",
    engine: shareByToken,
  },
  "token-key": {
    rule: "a refresh token carries the key under its MAC, for a row from before the binding",
    engine: forgetKey,
  },
  "proof-demand": { rule: "a method that needs a proof refuses calls without one", noDemand: true },
  nonces: { rule: "a proof is fresh by its nonce, not by the clock of the client", noNonces: true },
  "token-end": { rule: "an access token is refused after its end", noEnd: true },
  "store-clock": { rule: "the store's clock decides, not the server's", nodeClock: true },
};

function blindWrite(store: SessionStore): SessionStore {
  return {
    ...store,
    advance: undefined,
    async refresh(write) {
      const { record } = await store.load(write.id);
      return store.refresh({ ...write, generation: record?.generation ?? write.generation });
    },
  };
}

/** Keeps revocations outside of the store: reads and the log show them, writes ignore them. */
function deafWrite(store: SessionStore): SessionStore {
  const ended = new Map<string, EndedEntry>();
  const wakes = new Set<() => void>();
  const load: SessionStore["load"] = async (id) => {
    const { record, now } = await store.load(id);
    const { at: revokedAt, endedBy } = ended.get(id) ?? { at: null, endedBy: null };
    return { now, record: record && { ...record, revokedAt, endedBy } };
  };
  return {
    ...store,
    load,
    advance: undefined,
    async revoke(id, endedBy) {
      const { now, record } = await load(id);
      const revoked = record !== undefined && record.revokedAt === null;
      if (revoked) {
        ended.set(id, { kind: "revoked", session: id, endedBy, at: now });
        wakes.forEach((wake) => {
          wake();
        });
      }
      return { ...(await load(id)), revoked };
    },
    async changes(cursor, window) {
      const changes = await store.changes(cursor, window);
      return { ...changes, entries: [...ended.values()] };
    },
    onChange(wake) {
      wakes.add(wake);
      return () => wakes.delete(wake);
    },
  };
}

function looseConfirm(store: SessionStore): SessionStore {
  return {
    ...store,
    async confirm(uses) {
      const loose = uses.map(async ({ session, generation, settle }) => {
        const { record } = await store.load(session);
        return { session, generation: record?.generation ?? generation, settle };
      });
      return store.confirm(await Promise.all(loose));
    },
  };
}

function randomSuccessor({ refreshTokens }: Engine): void {
  const mint = refreshTokens.mint.bind(refreshTokens);
  refreshTokens.mint = (record) => mint(record, randomId(16));
}

/** Advances a live session whether it is confirmed or not. */
function hastyAdvance(store: SessionStore): SessionStore {
  return {
    ...store,
    async advance(write) {
      const { record } = await store.load(write.id);
      if (record?.rootHash === write.rootHash && record.secretId === write.secretId) {
        const { id: session, generation } = write;
        await store.confirm([{ session, generation, settle: 0 }]);
      }
      return advanceOf(store, { ...write, overlap: -1 });
    },
  };
}

/** Proves tokens by their MAC alone. */
function trustMac({ refreshTokens }: Engine): void {
  const prove = refreshTokens.prove.bind(refreshTokens);
  refreshTokens.prove = async (checked, found) => {
    const rootHash = checked.format === 2 ? checked.rootHash : null;
    const stored = found ?? (await refreshTokens.load(checked.session));
    const record = stored.record && { ...stored.record, rootHash };
    return prove(checked, { ...stored, record });
  };
}

/** Accepts tokens of every listed secret. */
function trustAnySecret({ refreshTokens }: Engine): void {
  const prove = refreshTokens.prove.bind(refreshTokens);
  refreshTokens.prove = async (checked, found) => {
    const stored = found ?? (await refreshTokens.load(checked.session));
    const { secretId } = checked;
    const record = stored.record && { ...stored.record, secretId, formerSecretId: null };
    const proven = await prove(checked, { ...stored, record });
    return stored.record === undefined ? proven : { ...proven, record: stored.record };
  };
}

/** Takes the key that a token names for the one that its request has proven. */
function believeKey({ refresher }: Engine): void {
  const refresh = refresher.refresh.bind(refresher);
  refresher.refresh = (presented) => {
    const parsed = parseRefreshToken(presented.token);
    const named = parsed?.format === 2 ? (parsed.boundKey ?? undefined) : undefined;
    return refresh({ ...presented, provenKey: named });
  };
}

/** Shares the answer of a running refresh with every request that presents the same token. */
function shareByToken({ refresher }: Engine): void {
  const refresh = refresher.refresh.bind(refresher);
  const running = new Map<string, Promise<Refreshed>>();
  refresher.refresh = (presented) => {
    const { token } = presented;
    const answer = running.get(token) ?? refresh(presented);
    running.set(token, answer);
    const forget = () => running.delete(token);
    answer.then(forget, forget);
    return answer;
  };
}

/** Knows only the key of the row. */
function forgetKey({ refreshTokens }: Engine): void {
  const prove = refreshTokens.prove.bind(refreshTokens);
  refreshTokens.prove = async (checked, found) => {
    const proven = await prove(checked, found);
    return { ...proven, boundKey: proven.record.boundKey };
  };
}

/**
 * Makes the store use the clock of the server that calls it. Access tokens keep the correct time,
 * so that only refreshing is affected.
 */
export function byNodeClock(store: SessionStore, storeClock: Skew, node: Skew): SessionStore {
  const by = async <T>(work: () => Promise<T>): Promise<T> => {
    storeClock.ahead = node.ahead;
    try {
      return await work();
    } finally {
      storeClock.ahead = 0;
    }
  };
  return {
    ...store,
    load: (id) => by(() => store.load(id)),
    async refresh(write) {
      const { record } = await by(() => store.refresh(write));
      return { record, now: (await store.load(write.id)).now };
    },
    async advance(write) {
      const advanced = await by(() => advanceOf(store, write));
      return { ...advanced, now: (await store.load(write.id)).now };
    },
    confirm: (uses) => by(() => store.confirm(uses)),
  };
}
