import { Check } from "../../../gen/rpcsession/v1/options_pb.ts";
import { type RevocationCheck, revocationChecks } from "../../engine/revocation/revocation-check.ts";

/** How sessions are checked where a method does not say. */
export interface CheckOptions {
  /** The check of methods that ask for none. Default "feed". */
  readonly check?: RevocationCheck;
  /** Whether there is a store to check in; without one, only "none" may be asked for. Default true. */
  readonly hasStore?: boolean;
}

/** @throws TypeError when it needs a store, and there is none */
export function checkOf(
  procedure: string,
  [code, ofMethod, ofService]: readonly [RevocationCheck | undefined, ...(Check | undefined)[]],
  { check: byDefault = revocationChecks[0], hasStore = true }: CheckOptions,
): RevocationCheck {
  const asked = code ?? checkNames[ofMethod || ofService || Check.UNSPECIFIED];
  if (!hasStore && asked !== undefined && asked !== "none") {
    throw new TypeError(
      `the policy of ${procedure} sets check: "${asked}", and a service that only verifies has no store to check in; serve the method where the sessions are made, or set { check: "none" } for it in "methods"`,
    );
  }
  return asked ?? byDefault;
}

/** @throws TypeError when it is no check, or needs a store and there is none */
export function readCheck(
  asked: RevocationCheck | undefined,
  { check: byDefault = revocationChecks[0], hasStore = true }: CheckOptions,
): RevocationCheck {
  const check = asked ?? byDefault;
  if (!revocationChecks.includes(check)) {
    throw new TypeError(`check: "${check}" is none of ${revocationChecks.join(", ")}`);
  }
  if (!hasStore && check !== "none") {
    throw new TypeError(
      `check: "${check}" needs a store, and a service that only verifies has none; leave it out`,
    );
  }
  return check;
}

/** @throws TypeError when it is of a newer schema */
export function assertKnownCheck(name: string, check: Check): void {
  if (check !== Check.UNSPECIFIED && checkNames[check] === undefined) {
    throw new TypeError(`the policy of ${name} sets a check that is not known: ${check}`);
  }
}

const checkNames: Readonly<Record<number, RevocationCheck>> = {
  [Check.FEED]: "feed",
  [Check.STRICT]: "strict",
  [Check.NONE]: "none",
};
