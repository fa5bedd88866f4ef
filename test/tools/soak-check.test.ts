import { expect, it } from "vitest";
import { checkSession } from "../../verification/soak/check.ts";
import type { Answer, Exchange } from "../../verification/soak/history.ts";

// A soak test without findings proves something only if its checks can find violations.
it("finds nothing in a correct history", () => {
  expect(
    found([refresh(0, 0, 1), refresh(100, 0, 1), refresh(1_000, 1), refresh(5_000, 1, 2)]),
  ).toEqual([]);
});

it("finds two different refresh tokens of one generation", () => {
  expect(found([refresh(0, 0, 1), refresh(100, 0, 1, "other")])).toEqual(["forks"]);
});

it("finds a success after the acknowledged end, but not a request that was under way", () => {
  const end = exchange({ what: "revoke", began: 1_000, ended: 1_100, answer: ok() });
  expect(found([end, refresh(1_050, 0)])).toEqual([]);
  expect(found([end, refresh(1_101, 0)])).toEqual(["resurrected"]);
});

it("finds a token that was accepted after its successor was confirmed and the overlap had passed", () => {
  const until = [refresh(0, 0, 1), refresh(1_000, 1)];
  expect(found([...until, refresh(2_000, 0, 1)])).toEqual([]);
  expect(found([...until, refresh(3_000, 0, 1)])).toEqual(["missed_thefts"]);
});

it("allows for a successor that was sent again, and so may settle anew", () => {
  const again = [refresh(0, 0, 1), refresh(2_900, 0, 1), refresh(3_000, 1)];
  expect(found([...again, refresh(6_000, 0, 1)])).toEqual([]);
  const unheard = exchange({
    token: "v.s.0.tag.c",
    began: 10,
    ended: 500,
    answer: { kind: "unheard", why: "cut", message: "" },
  });
  const until = [refresh(0, 0, 1), unheard, refresh(3_000, 1)];
  expect(found([...until, refresh(6_000, 0, 1)])).toEqual([]);
});

it("finds a token that was accepted two generations later", () => {
  expect(found([refresh(0, 1, 2), refresh(100, 0, 1)])).toEqual(["missed_thefts"]);
});

it("finds the logout of a user whose tokens were not stolen and who was not leaving", () => {
  const refused = exchange({ began: 1_000, ended: 1_010, answer: theft });
  const leaving = exchange({ what: "signOut", began: 500, ended: 2_000, answer: ok() });
  expect(found([refused])).toEqual(["false_logouts"]);
  expect(found([leaving, refused])).toEqual([]);
  expect(found([refused], true)).toEqual([]);
});

it("finds the logout of a bound session, but not the request for another proof", () => {
  const refused = (action: string) =>
    exchange({ began: 1_000, ended: 1_010, answer: { ...theft, action, reason: "PROOF_INVALID" } });
  expect(found([refused("SIGN_IN")])).toEqual(["false_logouts"]);
  expect(found([refused("PROVE")])).toEqual([]);
});

const theft: Extract<Answer, { kind: "refused" }> = {
  kind: "refused",
  code: "unauthenticated",
  action: "SIGN_IN",
  reason: "TOKEN_THEFT",
  message: "",
};

function found(exchanges: Exchange[], robbed = false): string[] {
  return checkSession(exchanges, { robbed, late: false }).map(({ kind }) => kind);
}

function refresh(began: number, presented: number, given?: number, tag = "tag"): Exchange {
  const answer = ok(given === undefined ? undefined : `v.s.${given}.${tag}.c`);
  return exchange({ token: `v.s.${presented}.tag.c`, began, ended: began + 10, answer });
}

function ok(refreshToken?: string): Answer {
  return { kind: "ok", refreshToken, accessToken: undefined, expiresIn: 0, session: "s" };
}

function exchange(
  given: Partial<Exchange> & Pick<Exchange, "began" | "ended" | "answer">,
): Exchange {
  const usual = { what: "refresh", by: "owner", session: "s", server: 0, heard: true } as const;
  return { ...usual, token: "v.s.0.tag.c", ...given };
}
