import type { Engine } from "../../src/engine/engine.ts";
import type { VerifiedToken } from "../../src/jwt/verifier.ts";
import { type Fault, Task } from "./gates.ts";
import type { Tokens } from "./jar.ts";
import type { World } from "./world.ts";

/** Where a call goes, and what becomes of its telling the store that the generation is in use. */
export interface Use {
  readonly engine: Engine;
  readonly confirm: Fault | "late";
}

/** A call with an access token, as a server checks it. */
export async function use(
  world: World,
  { ledger, access }: Tokens,
  { engine, confirm }: Use,
): Promise<void> {
  const verified = await verify(engine, access.token);
  const refused = engine.revocations.get(ledger.id) !== undefined;
  if (verified.status !== "valid") {
    if (await isKeyGone(world, access.token)) {
      world.tally.orphans += 1;
    } else {
      world.violate("unexplained", `an access token in its life is ${verified.status}`);
    }
    return;
  }
  if (refused && ledger.endedBy === undefined) {
    world.violate("false_logouts", "an access token was refused");
  }
  if (!refused && ledger.acknowledged) {
    world.violate("resurrected", `an access token was taken after ${ledger.endedBy}`);
  }
  if (refused) {
    const holder = world.jars.find((jar) => jar.tokens?.access === access);
    holder?.clear();
    return;
  }
  const task = new Task();
  // The call is answered; telling the store may take its time.
  world.gates.background(task, () => engine.used(verified.claims));
  world.keep(task);
  if (confirm !== "late" && task.atGate) {
    await world.gates.release(task, confirm);
  }
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
 * Whether the token was signed with a key that is not in the store any more, as by a server that
 * stood still through two rotations. The client refreshes and goes on: it is counted, and is no
 * violation of the rules of refresh.
 */
async function isKeyGone({ options }: World, token: string): Promise<boolean> {
  const header = Buffer.from(token.split(".", 1)[0] ?? "", "base64url").toString();
  const { keys } = await options.store.signingKeys();
  return !keys.some(({ kid }) => header.includes(kid));
}
