import type { RefreshHint } from "../../gen/rpcsession/v1/hint_pb.ts";
import { Action, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";

/** Returns the names of a hint's action and reason; empty without a hint. */
export function namesOf(hint: RefreshHint | undefined): { action: string; reason: string } {
  return { action: nameIn(Action, hint?.action), reason: nameIn(Reason, hint?.reason) };
}

function nameIn(values: Readonly<Record<string, number>>, wanted: number | undefined): string {
  return Object.entries(values).find(([, value]) => value === wanted)?.[0] ?? "";
}
