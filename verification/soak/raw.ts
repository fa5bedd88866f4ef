// Connect calls written by hand, as a browser sends them, over connections that may be cut.
import { type IncomingMessage, request } from "node:http";
import { fromBinary } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import { RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { decodeNotice } from "../../src/base/wire.ts";
import { namesOf } from "./hint.ts";
import type { Answer } from "./history.ts";
import { issuer } from "./options.ts";

/** A call from a page. */
export interface RawCall {
  readonly url: string;
  readonly body: Readonly<Record<string, string>>;
  readonly cookies: readonly string[];
  /** Milliseconds after which the connection is cut. */
  readonly cutAfter?: number | undefined;
  /** Cuts the connection and stops waiting. */
  readonly signal?: AbortSignal;
}

const names = { access: "__Host-rpcsession-access", refresh: "__Host-rpcsession-refresh" };
/** Milliseconds after which even the observer stops waiting. */
export const observedFor = 12_000;

/** Returns the parts of the Cookie header for the tokens that exist. */
export function cookiesOf(tokens: { access?: string; refresh?: string }): string[] {
  return Object.entries(tokens).map(
    ([name, token]) => `${names[name as keyof typeof names]}=${token}`,
  );
}

/** Sends a call. Never rejects: a failure is an outcome as well. */
export function post(call: RawCall): Promise<Answer> {
  return new Promise((resolve) => {
    const sent = request(call.url, {
      method: "POST",
      // Each request has its own connection, so that cutting one does not affect others.
      agent: false,
      headers: {
        "content-type": "application/json",
        origin: issuer,
        "sec-fetch-site": "same-origin",
        ...(call.cookies.length > 0 && { cookie: call.cookies.join("; ") }),
      },
    });
    const cut = (why: "cut" | "gaveUp"): void => {
      resolve({ kind: "unheard", why, message: why });
      sent.destroy();
    };
    const timers = [setTimeout(() => cut("gaveUp"), observedFor)];
    if (call.cutAfter !== undefined) {
      timers.push(setTimeout(() => cut("cut"), call.cutAfter));
    }
    call.signal?.addEventListener("abort", () => cut("gaveUp"), { once: true });
    sent.on("error", (error) =>
      resolve({ kind: "unheard", why: "broken", message: error.message }),
    );
    sent.on("response", (response) => void readAnswer(response).then(resolve));
    sent.on("close", () => timers.forEach(clearTimeout));
    sent.end(JSON.stringify(call.body));
  });
}

async function readAnswer(response: IncomingMessage): Promise<Answer> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of response) {
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    return { kind: "unheard", why: "broken", message: String(error) };
  }
  const body = Buffer.concat(chunks).toString();
  return response.statusCode === 200 ? readSuccess(response) : readRefusal(body);
}

function readSuccess({ headers }: IncomingMessage): Answer {
  const notice = decodeNotice(String(headers["rpcsession-session"] ?? "") || null);
  const written = (name: string): string | undefined =>
    headers["set-cookie"]
      ?.find((cookie) => cookie.startsWith(`${name}=`))
      ?.slice(name.length + 1)
      .split(";")[0] || undefined;
  return {
    kind: "ok",
    session: notice?.session,
    expiresIn: notice?.expiresIn ?? 0,
    refreshToken: written(names.refresh),
    accessToken: written(names.access),
  };
}

function readRefusal(body: string): Answer {
  try {
    const { code, message, details } = JSON.parse(body) as {
      code: string;
      message?: string;
      details?: { type: string; value: string }[];
    };
    const found = details?.find(({ type }) => type === RefreshHintSchema.typeName);
    const hint = found && fromBinary(RefreshHintSchema, base64Decode(found.value));
    return {
      kind: "refused",
      code,
      ...namesOf(hint),
      message: message ?? "",
    };
  } catch {
    return { kind: "refused", code: "unreadable", action: "", reason: "", message: body };
  }
}
