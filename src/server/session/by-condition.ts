import { assertMembers } from "../../base/checks.ts";
import type { JsonObject } from "../../base/json.ts";
import { type RevokeCause, readCause } from "../../engine/audit/log.ts";
import type { SessionInfo } from "../../engine/session.ts";
import type { Core } from "../core.ts";
import { infoOf } from "./edits.ts";

/** Which sessions `revokeWhere` ends: those that meet every member that is given. At least one must be. */
export interface SessionCondition<Claims extends object = JsonObject> {
  /**
   * Addresses and ranges in CIDR notation (RFC 4632, RFC 4291), such as "203.0.113.0/24" or
   * "2001:db8::/32". One of them must contain `device.ip`, the address at the sign-in, which is known only
   * with the option `clientIp`. At most 1000.
   */
  readonly addresses?: readonly string[];
  /** The session began before this time, by the store's clock. */
  readonly createdBefore?: Date;
  /** Anything else, such as the device or a claim. If it throws, no further session is ended. */
  readonly where?: (session: SessionInfo<Claims>) => boolean;
}

type Test = (session: SessionInfo) => boolean;

/** @returns how many sessions this call ended */
export async function revokeWhere(
  core: Core,
  condition: SessionCondition,
  given?: RevokeCause,
): Promise<number> {
  const tests = readCondition(condition);
  const cause = readCause("sessions.revokeWhere", given);
  const engine = await core.engine();
  return engine.revokeWhere(async (record) => {
    const session = await infoOf(core, record);
    return tests.every((test) => test(session));
  }, cause);
}

/** @throws TypeError if a member is wrong, or none is given */
function readCondition(condition: SessionCondition): readonly Test[] {
  assertMembers("sessions.revokeWhere", condition, { addresses: 0, createdBefore: 0, where: 0 });
  const { addresses, createdBefore, where } = condition;
  const tests: Test[] = [];
  if (createdBefore !== undefined) {
    if (!(createdBefore instanceof Date) || Number.isNaN(createdBefore.getTime())) {
      throw new TypeError("sessions.revokeWhere: createdBefore must be a valid Date");
    }
    const time = createdBefore.getTime();
    tests.push(({ createdAt }) => createdAt.getTime() < time);
  }
  if (addresses !== undefined) {
    tests.push(inRanges(addresses));
  }
  if (where !== undefined) {
    if (typeof where !== "function") {
      throw new TypeError(`sessions.revokeWhere: where must be a function, got ${typeof where}`);
    }
    tests.push((session) => {
      const isMet: unknown = where(session);
      if (typeof isMet !== "boolean") {
        // A promise is truthy: an async function would end every session.
        throw new TypeError(
          `sessions.revokeWhere: where must return true or false, got ${typeof isMet}`,
        );
      }
      return isMet;
    });
  }
  if (tests.length === 0) {
    throw new TypeError(
      "sessions.revokeWhere: the condition is empty; set addresses, createdBefore or where, or call revokeEverybody()",
    );
  }
  return tests;
}

/** Ranges in one condition. */
const rangesMax = 1_000;

function inRanges(given: readonly string[]): Test {
  if (!Array.isArray(given) || given.length === 0 || given.length > rangesMax) {
    throw new TypeError(
      `sessions.revokeWhere: addresses must be an array of 1 to ${rangesMax} addresses or ranges`,
    );
  }
  const ranges = given.map((text: unknown, index) => {
    const range = typeof text === "string" ? parseRange(text) : undefined;
    if (range === undefined) {
      throw new TypeError(
        `sessions.revokeWhere: addresses[${index}] must be an IP address or a range such as "203.0.113.0/24"`,
      );
    }
    return range;
  });
  return ({ device }) => {
    const address = device.ip === undefined ? undefined : parseAddress(device.ip);
    return (
      address !== undefined &&
      ranges.some(
        ({ bits, value, host }) => bits === address.bits && value >> host === address.value >> host,
      )
    );
  };
}

interface Address {
  readonly bits: 32 | 128;
  readonly value: bigint;
}

/** An address, and how many of its last bits do not count. */
interface Range extends Address {
  readonly host: bigint;
}

function parseRange(text: string): Range | undefined {
  const [, start = "", length] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const address = parseAddress(start);
  if (address === undefined) {
    return undefined;
  }
  // The length of a range of IPv4-mapped addresses counts the 96 bits before the IPv4 address.
  const written = start.includes(":") ? 128 : 32;
  const host = written - Number(length ?? written);
  return host >= 0 && host <= address.bits ? { ...address, host: BigInt(host) } : undefined;
}

/** Reads an IPv4 or IPv6 address; an IPv4-mapped one as the IPv4 address, and without its zone. */
function parseAddress(text: string): Address | undefined {
  if (!text.includes(":")) {
    const value = parseV4(text);
    return value === undefined ? undefined : { bits: 32, value };
  }
  const value = parseV6(text.replace(/%.*$/s, ""));
  if (value === undefined) {
    return undefined;
  }
  return value >> 32n === 0xffffn
    ? { bits: 32, value: value & 0xffff_ffffn }
    : { bits: 128, value };
}

function parseV4(text: string): bigint | undefined {
  const parts = text.split(".");
  const isValid =
    parts.length === 4 && parts.every((p) => /^(0|[1-9]\d{0,2})$/.test(p) && +p < 256);
  return isValid ? parts.reduce((value, part) => (value << 8n) | BigInt(part), 0n) : undefined;
}

function parseV6(text: string): bigint | undefined {
  // 1. The last 32 bits may be written as an IPv4 address.
  const v4 = /[^:]*\.[^:]*$/.exec(text)?.[0];
  const last = v4 === undefined ? undefined : parseV4(v4);
  if (v4 !== undefined && last === undefined) {
    return undefined;
  }
  const hex =
    v4 === undefined || last === undefined
      ? text
      : `${text.slice(0, -v4.length)}${(last >> 16n).toString(16)}:${(last & 0xffffn).toString(16)}`;

  // 2. "::" stands for the groups that are left out.
  const halves = hex.split("::").map((half) => (half === "" ? [] : half.split(":")));
  const [head = [], tail] = halves;
  const missing = 8 - head.length - (tail?.length ?? 0);
  if (halves.length > 2 || (tail === undefined ? missing !== 0 : missing < 1)) {
    return undefined;
  }
  const groups = [...head, ...Array.from({ length: missing }, () => "0"), ...(tail ?? [])];
  return groups.every((group) => /^[\da-f]{1,4}$/i.test(group))
    ? groups.reduce((value, group) => (value << 16n) | BigInt(`0x${group}`), 0n)
    : undefined;
}
