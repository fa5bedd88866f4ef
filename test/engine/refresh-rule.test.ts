import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decideRefresh, type RefreshState, showsReceipt } from "../../src/engine/refresh/rule.ts";

const overlap = 30_000;
const settle = 60_000;
const now = 1_000_000_000;

function state(changes: Partial<RefreshState>): RefreshState {
  return {
    generation: 5,
    createdAt: now - 100 * (settle + overlap),
    confirmedAt: null,
    sentAt: now,
    prolonged: 0,
    idleExpiresAt: now + 1,
    expiresAt: now + 1,
    revokedAt: null,
    endedBy: null,
    ...changes,
  };
}

describe("decideRefresh", () => {
  const confirmedLongAgo = now - overlap - 1;
  const rows: [string, Partial<RefreshState>, number, string][] = [
    ["p = g, g confirmed more than overlap ago", { confirmedAt: confirmedLongAgo }, 5, "advance"],
    ["p = g, g confirmed exactly overlap ago", { confirmedAt: now - overlap }, 5, "keep"],
    ["p = g, g confirmed just now", { confirmedAt: now }, 5, "keep"],
    ["p = g, g unconfirmed", {}, 5, "keep"],
    ["p = g, g confirmed in the clock's future", { confirmedAt: now + 9e9 }, 5, "keep"],
    ["p = g-1, g unconfirmed, however old", {}, 4, "resend"],
    ["p = g-1, g confirmed exactly overlap ago", { confirmedAt: now - overlap }, 4, "resend"],
    ["p = g-1, g confirmed in the clock's future", { confirmedAt: now + 9e9 }, 4, "resend"],
    ["p = g-1, g confirmed more than overlap ago", { confirmedAt: confirmedLongAgo }, 4, "theft"],
    ["p = g-2, g unconfirmed", {}, 3, "theft"],
    ["p = g-2, within the overlap", { confirmedAt: now }, 3, "theft"],
    ["p = 0, long before", {}, 0, "theft"],
    ["p = g+1: the store lost a generation", {}, 6, "forward"],
    ["p = g+7, g confirmed long ago", { confirmedAt: confirmedLongAgo }, 12, "forward"],
    ["p = the greatest generation that the age of the session permits", {}, 101, "forward"],
    ["p one beyond that", {}, 102, "impossible"],
    ["p beyond that, the store's clock went back", { createdAt: now + 1 }, 6, "impossible"],
    [
      "p = g + 1 in a session that was created just now",
      { createdAt: now, generation: 0 },
      1,
      "forward",
    ],
    ["at the idle end", { idleExpiresAt: now }, 5, "expired"],
    ["at the absolute end", { expiresAt: now }, 5, "expired"],
    ["an old token after the end is not theft", { expiresAt: now }, 1, "expired"],
    ["revoked", { revokedAt: now - 1, endedBy: "signOut" }, 5, "revoked"],
    ["revoked and expired", { revokedAt: now - 1, expiresAt: now }, 5, "revoked"],
    ["an old token after a revocation is not a second theft", { revokedAt: 1 }, 1, "revoked"],
  ];
  it.each(rows)("%s", (_name, changes, presented, kind) => {
    expect(decideRefresh(state(changes), presented, { now, overlap, settle }).kind).toBe(kind);
  });

  it("the current token is never theft", () => {
    fc.assert(
      fc.property(fc.nat(), fc.option(fc.integer()), fc.nat(), (generation, confirmedAt, at) => {
        const record = state({
          generation,
          confirmedAt,
          idleExpiresAt: 2 ** 53,
          expiresAt: 2 ** 53,
        });
        expect(decideRefresh(record, generation, { now: at, overlap, settle }).kind).not.toBe(
          "theft",
        );
      }),
    );
  });

  describe("a re-send", () => {
    const resend = (changes: Partial<RefreshState>) =>
      decideRefresh(state(changes), 4, { now, overlap, settle });

    const rows: [string, Partial<RefreshState>, number | null][] = [
      ["at once prolongs nothing", { sentAt: now }, 0],
      ["while g settles prolongs by its age", { sentAt: now - 40_000 }, 40_000],
      ["of a settled generation prolongs by settle", { sentAt: now - settle }, settle],
      ["however late prolongs by settle only", { sentAt: 0 }, settle],
      ["with a send in the clock's future prolongs nothing", { sentAt: now + 9e9 }, 0],
      ["adds to earlier ones", { sentAt: now - 1, prolonged: 7 }, 8],
      ["up to ten times settle", { sentAt: now - 1, prolonged: 10 * settle - 1 }, 10 * settle],
      ["not beyond", { sentAt: now - 1, prolonged: 10 * settle }, null],
      ["at once, at the limit, prolongs nothing", { sentAt: now, prolonged: 10 * settle }, 600_000],
    ];
    it.each(rows)("%s", (_name, changes, prolonged) => {
      expect(resend(changes)).toEqual({ kind: "resend", prolonged });
    });
  });
});

describe("showsReceipt", () => {
  const cookie = { transport: "cookie", generation: 5 } as const;

  it("believes a cookie session only if a refresh cookie names the same generation", () => {
    expect(showsReceipt(cookie, [5])).toBe(true);
    expect(showsReceipt(cookie, [4, 5])).toBe(true);
    expect(showsReceipt(cookie, [4])).toBe(false);
    expect(showsReceipt(cookie, [6])).toBe(false);
    expect(showsReceipt(cookie, [])).toBe(false);
  });

  it("believes a header session, whose tokens arrive together", () => {
    expect(showsReceipt({ transport: "header", generation: 5 }, [])).toBe(true);
  });
});
