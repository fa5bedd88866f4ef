import type { Engine } from "../../src/engine/engine.ts";
import type { VerifiedToken } from "../../src/jwt/verifier.ts";
import { type Fault, Task } from "./gates.ts";
import type { Tokens } from "./jar.ts";
import type { World } from "./world.ts";

/**
 * What becomes of the confirmation of a call: it is written at once, perhaps with a fault; it stays under
 * way until a later step; or the server gathers it with others until the time passes.
 */
export type ConfirmStep = Fault | "late" | "gathered";

/** The server of a call, and what becomes of its confirmation. */
export interface Use {
  readonly engine: Engine;
  readonly confirm: ConfirmStep;
}

/** Makes a call with an access token and checks the server's decision. */
export async function use(
  world: World,
  { ledger, access, refresh }: Tokens,
  { engine, confirm }: Use,
): Promise<void> {
  const verified = await verify(engine, access.token);
  const refused = engine.revocations.get(ledger.id) !== undefined;
  if (verified.status !== "valid") {
    if (await isKeyGone(world, access.token)) {
      world.tally.orphans += 1;
    } else {
      world.violate("unexplained", `an unexpired access token is ${verified.status}`);
    }
    return;
  }
  if (refused && ledger.endedBy === undefined) {
    world.violate("false_logouts", "an access token was refused");
  }
  if (!refused && ledger.acknowledged) {
    world.violate("resurrected", `an access token was accepted after ${ledger.endedBy}`);
  }
  if (refused) {
    const holder = world.jars.find((jar) => jar.tokens?.access === access);
    holder?.clear();
    return;
  }
  const task = new Task();
  // The call has its response; the confirmation is written in the background.
  world.gates.background(task, () => {
    engine.used(verified.claims, beside(world, access, refresh));
    if (confirm !== "gathered") {
      void engine.settled();
    }
  });
  world.keep(task);
  if (confirm !== "late" && confirm !== "gathered" && task.atGate) {
    await world.gates.release(task, confirm);
  }
}

/** The refresh cookies beside an access cookie; without the rule that looks at them, the right one. */
function beside({ options, ledgers }: World, { claims }: Tokens["access"], held: string): string[] {
  const matching = ledgers.get(claims.sid)?.tokens.get(claims.gen);
  return [options.removal?.anyReceipt && matching !== undefined ? matching : held];
}

async function verify(
  engine: Engine,
  token: string,
): Promise<VerifiedToken | { readonly status: "unavailable" }> {
  try {
    return await engine.verify(token, engine.revocations.storeNow());
  } catch {
    return { status: "unavailable" };
  }
}

/**
 * Whether the token was signed with a key that is no longer in the store, for example by a server
 * that was suspended through two rotations. The client refreshes and continues. That is counted
 * but is not a violation.
 */
async function isKeyGone({ options }: World, token: string): Promise<boolean> {
  const header = Buffer.from(token.split(".", 1)[0] ?? "", "base64url").toString();
  const { keys } = await options.store.signingKeys();
  return !keys.some(({ kid }) => header.includes(kid));
}
