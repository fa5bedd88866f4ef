import type { HandlerContext } from "@connectrpc/connect";
import type { Device } from "../session/store.ts";
import type { Core } from "./core.ts";

/** Characters that are kept of a User-Agent; real ones are shorter. */
const maxUserAgent = 512;
/** The longest IPv6 address with a zone has fewer characters. */
const maxIp = 64;

/** What a call tells of the device it comes from. */
export function deviceOf(core: Core, context: HandlerContext): Device {
  const userAgent = context.requestHeader.get("user-agent")?.slice(0, maxUserAgent).toWellFormed();
  const ip = core.clientIp?.(context)?.slice(0, maxIp).toWellFormed();
  return { ...(userAgent ? { userAgent } : {}), ...(ip ? { ip } : {}) };
}
