import fc from "fast-check";
import type { Fault } from "./gates.ts";
import type { ConfirmStep } from "./use.ts";

/** One step of a schedule. Indexes beyond the end of a list wrap around. */
export type Action =
  /**
   * A tab signs in, sends a refresh or uses its access token. Jar 2 belongs to the thief. Tab 2 also calls
   * a method that needs a proof, if its session is bound to a key.
   */
  | {
      readonly do: "call";
      readonly jar: number;
      readonly tab: number;
      readonly engine: number;
      /** Whether the tab refreshes even if its access token is new. */
      readonly eager: boolean;
      /** Whether the refresh completes within this step. */
      readonly through: boolean;
      readonly confirm: ConfirmStep;
    }
  /** A request reaches a server. */
  | { readonly do: "deliver"; readonly which: number; readonly engine: number }
  /** A server continues for one call to the store. */
  | { readonly do: "goOn"; readonly which: number; readonly fault: Fault }
  /** A response reaches its tab. */
  | { readonly do: "arrive"; readonly which: number }
  /** The request, the server's work and the response, all in one step. */
  | { readonly do: "rush"; readonly which: number; readonly engine: number }
  /** A request or its response is lost. */
  | { readonly do: "lose"; readonly which: number }
  /** The network delivers a request twice. */
  | { readonly do: "double"; readonly which: number }
  /** A proxy begins, or ceases, to pass on only the first `Set-Cookie` of a response. */
  | { readonly do: "cut"; readonly cookies: boolean }
  | { readonly do: "pause"; readonly ms: number }
  /** A browser crashes and loses its writes of the last `lag` milliseconds. */
  | { readonly do: "crash"; readonly jar: number; readonly lag: number }
  | {
      readonly do: "end";
      readonly jar: number;
      readonly engine: number;
      readonly by: "revoked" | "signOut";
      readonly fault: Fault;
    }
  /** The wall clock of a server jumps. */
  | { readonly do: "skew"; readonly engine: number; readonly ms: number }
  /** The thief copies the tokens in a jar. */
  | { readonly do: "steal"; readonly jar: number }
  /**
   * Somebody with leaked secrets makes a token for the session in a jar, `ahead` generations from its
   * row; see `forge`.
   */
  | {
      readonly do: "forge";
      readonly jar: number;
      readonly engine: number;
      readonly knows: "secret" | "store" | "token";
      /** Whether the secret is the former one. */
      readonly former: boolean;
      readonly ahead: number;
    }
  /** The store is restored from a backup that lacks the last generation of a session. */
  | { readonly do: "rollBack"; readonly jar: number };

/** The steps, in order. */
export interface Schedule {
  readonly thief: boolean;
  /** How far ahead the wall clocks of the two servers start, in milliseconds. */
  readonly ahead: readonly [number, number];
  readonly actions: readonly Action[];
  /** Whether the sessions of the device are bound to its key. */
  readonly bound: boolean;
  /** Whether the store was restored to a state from before they were bound. */
  readonly restored: boolean;
  /** How far ahead the clock of the device is, in milliseconds. */
  readonly deviceAhead: number;
}

const s = 1_000;
const min = 60 * s;
const hour = 60 * min;

const engine = fc.nat({ max: 1 });
const which = fc.nat({ max: 11 });
const jar = fc.nat({ max: 1 });
const fault = fc.oneof(
  { weight: 12, arbitrary: fc.constant<Fault>("none") },
  { weight: 1, arbitrary: fc.constant<Fault>("before") },
  { weight: 1, arbitrary: fc.constant<Fault>("after") },
);
const confirm = fc.oneof(
  { weight: 12, arbitrary: fc.constant<ConfirmStep>("none") },
  { weight: 2, arbitrary: fc.constant<ConfirmStep>("gathered") },
  { weight: 1, arbitrary: fc.constantFrom<ConfirmStep>("before", "after", "late") },
);
const pause = fc.oneof(
  { weight: 30, arbitrary: fc.integer({ min: 0, max: s }) },
  { weight: 25, arbitrary: fc.integer({ min: s, max: 10 * s }) },
  { weight: 30, arbitrary: fc.integer({ min: 10 * s, max: 2 * min }) },
  { weight: 30, arbitrary: fc.integer({ min: 2 * min, max: 16 * min }) },
  { weight: 2, arbitrary: fc.integer({ min: hour, max: 30 * hour }) },
  { weight: 1, arbitrary: fc.integer({ min: 24 * hour, max: 20 * 24 * hour }) },
);
const caller = fc.oneof(
  { weight: 3, arbitrary: fc.constant(0) },
  { weight: 2, arbitrary: fc.constant(1) },
  { weight: 2, arbitrary: fc.constant(2) },
);
const eager = fc.nat({ max: 3 }).map((n) => n === 3);
const through = fc.boolean();
const cookies = fc.nat({ max: 3 }).map((n) => n === 3);
const tab = fc.nat({ max: 2 });
const by = fc.constantFrom("revoked" as const, "signOut" as const);
const lag = fc.nat({ max: min - 1 });
const ahead = fc.integer({ min: -5 * min, max: 5 * min });
const forgery = fc.record({
  ...{ jar, engine, former: fc.boolean(), ahead: fc.integer({ min: -2, max: 3 }) },
  knows: fc.constantFrom("secret" as const, "store" as const, "token" as const),
});

function of<T extends Action["do"], U>(kind: T, rest: fc.Arbitrary<U>) {
  return rest.map((values) => ({ do: kind, ...values }));
}

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 300,
    arbitrary: of("call", fc.record({ jar: caller, tab, engine, eager, through, confirm })),
  },
  { weight: 150, arbitrary: of("rush", fc.record({ which, engine })) },
  { weight: 180, arbitrary: of("pause", fc.record({ ms: pause })) },
  { weight: 140, arbitrary: of("goOn", fc.record({ which, fault })) },
  { weight: 100, arbitrary: of("deliver", fc.record({ which, engine })) },
  { weight: 50, arbitrary: of("arrive", fc.record({ which })) },
  { weight: 40, arbitrary: of("lose", fc.record({ which })) },
  { weight: 15, arbitrary: of("double", fc.record({ which })) },
  { weight: 15, arbitrary: of("crash", fc.record({ jar, lag })) },
  { weight: 10, arbitrary: of("steal", fc.record({ jar })) },
  { weight: 8, arbitrary: of("skew", fc.record({ engine, ms: ahead })) },
  { weight: 5, arbitrary: of("end", fc.record({ jar, engine, by, fault })) },
  { weight: 4, arbitrary: of("cut", fc.record({ cookies })) },
  { weight: 6, arbitrary: of("forge", forgery) },
  { weight: 4, arbitrary: of("rollBack", fc.record({ jar })) },
);

/** Schedules of up to `steps` steps. The length varies, so that a failing schedule can shrink. */
export function schedules(steps: number): fc.Arbitrary<Schedule> {
  return fc.noBias(
    fc.record({
      thief: fc.boolean(),
      ahead: fc.tuple(ahead, ahead),
      actions: fc.array(action, { maxLength: steps, size: "max" }),
      // Last, so that the schedules of a seed stay the same.
      bound: fc.boolean(),
      restored: fc.boolean(),
      deviceAhead: fc.integer({ min: -24 * hour, max: 24 * hour }),
    }),
  );
}
