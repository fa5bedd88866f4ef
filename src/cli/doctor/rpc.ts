import { fromBinary } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import {
  ReasonSchema,
  type RefreshHint,
  RefreshHintSchema,
} from "../../../gen/rpcsession/v1/hint_pb.ts";
import { type HttpReply, send } from "./wire.ts";

/** The service to look at. */
export interface Target {
  /** The address that clients use as `baseUrl`. */
  readonly url: URL;
  /** The origin of a page that calls the service; undefined for none. */
  readonly origin: string | undefined;
  /** The name of the refresh cookie, if it is known; else the default names are tried. */
  readonly cookie: string | undefined;
}

/** The answer to a call, as far as it is one of an RPC server. */
export interface RpcReply extends HttpReply {
  /** The code of a Connect error; undefined for a success, and for anything that is no Connect response. */
  readonly code: string | undefined;
  /** Whether this is a response of the Connect protocol. */
  readonly isRpc: boolean;
  readonly hint: RefreshHint | undefined;
  /** The reason of the hint, such as "SESSION_MISSING". */
  readonly reason: string | undefined;
}

const service = "rpcsession.v1.SessionService";

/** The URL of a method below the address of the service. */
export function methodUrl(url: URL, procedure: string): URL {
  return new URL(`${url.href.replace(/\/*$/, "")}/${procedure}`);
}

/** The URL of a method of SessionService. */
export function sessionUrl(url: URL, method: "GetSession" | "Refresh"): URL {
  return methodUrl(url, `${service}/${method}`);
}

/** Calls SessionService over Connect with JSON. */
export async function callSession(
  { url }: Target,
  method: "GetSession" | "Refresh",
  headers: Readonly<Record<string, string>> = {},
  body = "{}",
): Promise<RpcReply> {
  const reply = await send(sessionUrl(url, method), {
    method: "POST",
    headers: { "content-type": "application/json", "connect-protocol-version": "1", ...headers },
    body,
  });
  return rpcReplyOf(reply);
}

function rpcReplyOf(reply: HttpReply): RpcReply {
  const json = jsonOf(reply);
  const code = typeof json?.code === "string" ? json.code : undefined;
  const isRpc = json !== undefined && (code !== undefined || reply.status === 200);
  const hint = code === undefined ? undefined : hintOf(json?.details);
  const reason = hint && ReasonSchema.value[hint.reason]?.localName;
  return { ...reply, code, isRpc, hint, reason };
}

/** The body as a JSON object; undefined if it is none. */
export function jsonOf(reply: HttpReply): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(textOfBody(reply));
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    return isObject ? (value as Readonly<Record<string, unknown>>) : undefined;
  } catch {
    return undefined;
  }
}

function textOfBody({ body }: HttpReply): string {
  return new TextDecoder().decode(body);
}

function hintOf(details: unknown): RefreshHint | undefined {
  for (const detail of Array.isArray(details) ? (details as unknown[]) : []) {
    const { type, value } = detail as { readonly type?: unknown; readonly value?: unknown };
    if (type === RefreshHintSchema.typeName && typeof value === "string") {
      try {
        return fromBinary(RefreshHintSchema, base64Decode(value));
      } catch {
        return undefined;
      }
    }
  }
  return undefined;
}

/** Whether a response is a page for people, of a proxy or of a web app. */
export function isPage(reply: HttpReply): boolean {
  const type = reply.header("content-type") ?? "";
  return /text\/html/i.test(type) || /^\s*<(?:!doctype|html)/i.test(textOfBody(reply));
}
