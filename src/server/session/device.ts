import type { HandlerContext } from "@connectrpc/connect";
import { SessionError } from "../../base/errors.ts";
import type { Device } from "../../engine/store.ts";
import type { Core } from "../core.ts";

/** Characters that are kept of a User-Agent; real ones are shorter. */
const maxUserAgent = 512;
/** The longest IPv6 address with a zone has fewer characters. */
const maxIp = 64;

/**
 * What a call tells of the device it comes from.
 * @throws TypeError when `clientIp` returns no text
 * @throws SessionError `general` when it throws
 */
export function deviceOf(core: Core, context: HandlerContext): Device {
  const userAgent = context.requestHeader.get("user-agent")?.slice(0, maxUserAgent).toWellFormed();
  const ip = ipOf(core, context)?.slice(0, maxIp).toWellFormed();
  return { ...(userAgent ? { userAgent } : {}), ...(ip ? { ip } : {}) };
}

function ipOf({ clientIp }: Core, context: HandlerContext): string | undefined {
  let ip: unknown;
  try {
    ip = clientIp?.(context);
  } catch (cause) {
    throw new SessionError("general", "INTERNAL", { message: "clientIp threw", cause });
  }
  if (ip !== undefined && typeof ip !== "string") {
    throw new TypeError("clientIp: must return a string, or undefined where it is not known");
  }
  return ip;
}
