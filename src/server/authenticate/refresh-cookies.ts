import { SessionError } from "../../base/errors.ts";
import type { Engine } from "../../engine/engine.ts";
import { badRefreshToken, isLive } from "../../engine/liveness.ts";
import {
  ForeignRefreshTokenError,
  type ProvenRefreshToken,
  UnknownSecretError,
} from "../../engine/refresh/token.ts";
import type { PresentedTokens } from "../../request/tokens.ts";
import type { Core } from "../core.ts";
import { isTooMany } from "./candidates.ts";
import { isProven, proveRefresh, type RefreshProof, sessionNamedBy } from "./refresh.ts";

/** A copy of the refresh cookie, and what it proves. */
interface Copy {
  readonly token: string;
  readonly proof: RefreshProof;
}

/** A copy with a certain kind of proof. */
interface CopyWith<P extends RefreshProof> extends Copy {
  readonly proof: P;
}

/** The refresh cookie to use. */
interface SelectedCookie {
  readonly token: string;
  /** Whether there are copies of another service beside it. */
  readonly besideForeign: boolean;
}

/**
 * Selects the refresh cookie to use; a single one is taken without checking it. Copies of ended
 * sessions, and copies of another service, do not count.
 * @throws SessionError
 */
export async function selectRefreshCookie(
  core: Core,
  engine: Engine,
  { refreshCookies }: PresentedTokens,
): Promise<SelectedCookie> {
  const [first, ...more] = refreshCookies;
  if (first !== undefined && more.length === 0) {
    return { token: first, besideForeign: false };
  }

  // 1. Too many copies may hide the real one. Only those that may be ours are proven.
  const foreign = await Promise.all(
    refreshCookies.map((token) => engine.refreshTokens.isForeign(token)),
  );
  const own = refreshCookies.filter((_, i) => !foreign[i]);
  const besideForeign = own.length < refreshCookies.length;
  if (isTooMany(refreshCookies, own)) {
    throw contradiction("the request has too many copies of the refresh cookie");
  }
  const copies = await Promise.all(
    own.map(async (token): Promise<Copy> => {
      return { token, proof: await proveRefresh(engine, token, "cookie") };
    }),
  );

  // 2. Without the __Host- prefix, a sibling host may have planted one of two live sessions. One under
  // a secret that this server does not have yet may be live too.
  const proven = copies.filter((copy): copy is CopyWith<ProvenRefreshToken> =>
    isProven(copy.proof),
  );
  const live = proven.filter(({ proof }) => isLive(proof));
  const unknown = copies.filter(
    (copy): copy is CopyWith<UnknownSecretError> => copy.proof instanceof UnknownSecretError,
  );
  const rivals = new Set([...live, ...unknown].map(({ token }) => sessionNamedBy(token)));
  if (!core.cookies.hostOnly && live.length > 0 && rivals.size > 1) {
    throw contradiction("the request has refresh cookies of several sessions");
  }

  // 3. The best live one. Without any, the error says what is known about the others.
  const best = live.toSorted(byPreference)[0];
  if (best === undefined && unknown[0] !== undefined) {
    throw unknown[0].proof;
  }
  const selected = best ?? proven.toSorted(byPreference)[0];
  if (selected === undefined) {
    throw copies.length === 0 ? new ForeignRefreshTokenError() : badRefreshToken();
  }
  return { token: selected.token, besideForeign };
}

function contradiction(problem: string): SessionError {
  return new SessionError("unauthorized", "TOKEN_CONFLICT", {
    message: `${problem}; sign in again`,
    clearTokens: true,
  });
}

/** Sorts the newest session first, then the highest generation. */
function byPreference(a: CopyWith<ProvenRefreshToken>, b: CopyWith<ProvenRefreshToken>): number {
  return (
    b.proof.record.createdAt - a.proof.record.createdAt || b.proof.generation - a.proof.generation
  );
}
