// How the demo tells its story: a title for every step, what was sent, what came back.
import { styleText } from "node:util";
import { base64Decode } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  Action,
  Reason,
  RefreshHintSchema,
  Tokens,
} from "rpc-session/gen/rpcsession/v1/hint_pb.js";

type Style = Parameters<typeof styleText>[0];

/** Runs steps one after the other and counts what is not as stated. */
export interface Report {
  /** One step; it fails when `act` throws. */
  step(title: string, act: () => Promise<void>): Promise<void>;
  /** @throws Error with the statement unless it is true */
  check(statement: string, isTrue: boolean): void;
  sent(what: string): void;
  got(what: string): void;
  /** Prints the last line. @returns how many steps failed */
  end(): number;
}

export function createReport(): Report {
  let steps = 0;
  let failed = 0;
  const paint = (style: Style, text: string): string =>
    styleText(style, text, { stream: process.stdout });
  const line = (text: string): void => {
    process.stdout.write(`${text}\n`);
  };
  return {
    async step(title, act) {
      steps++;
      line(paint("bold", `\n${String(steps).padStart(2)}  ${title}`));
      try {
        await act();
      } catch (error) {
        failed++;
        line(`    ${paint("red", "✗")} ${error instanceof Error ? error.message : String(error)}`);
      }
    },
    check(statement, isTrue) {
      if (!isTrue) {
        throw new Error(`not as stated: ${statement}`);
      }
      line(`    ${paint("green", "✓")} ${statement}`);
    },
    sent: (what) => line(`    ${paint("cyan", "→")} ${what}`),
    got: (what) => line(`    ${paint("yellow", "←")} ${what}`),
    end() {
      line(paint(failed === 0 ? "green" : "red", `\ndemo: ${steps} steps, ${failed} failed`));
      return failed;
    },
  };
}

/** The error of a call that should have been refused. */
export async function refusalOf(call: Promise<unknown>): Promise<ConnectError> {
  return call.then(
    () => {
      throw new Error("not as stated: the call is refused (it went through)");
    },
    (error: unknown) => ConnectError.from(error),
  );
}

/** The code and the decoded hint of a refused call, as a person would read them. */
export function describeRefusal(error: ConnectError): string {
  const [hint] = error.findDetails(RefreshHintSchema);
  const code = `${Code[error.code]}: ${error.rawMessage}`;
  if (hint === undefined) {
    return `${code} (no hint)`;
  }
  return `${code}\n      hint: action ${nameOf(Action, hint.action)}, reason ${nameOf(Reason, hint.reason)}, tokens ${nameOf(Tokens, hint.tokens)}`;
}

/** A token as it may be shown: its beginning. */
export function shorten(token: string | null): string {
  return token === null ? "none" : `${token.slice(0, 12)}… (${token.length} characters)`;
}

/** A refresh token as it may be shown: whose it is, and its generation, but not its proof. */
export function describeRefreshToken(token: string): string {
  const [, session = "", generation] = token.split(".");
  return `of session ${session.slice(0, 6)}…, generation ${generation}`;
}

/** A Set-Cookie line with its value shortened. */
export function describeCookie(setCookie: string): string {
  return setCookie.replace(/=([^;]{16})[^;]*/, "=$1…");
}

/** What an access token says. */
export function claimsOf(accessToken: string): Record<string, unknown> {
  const [, payload = ""] = accessToken.split(".");
  return JSON.parse(new TextDecoder().decode(base64Decode(payload))) as Record<string, unknown>;
}

function nameOf(names: Readonly<Record<string, number>>, value: number): string {
  return Object.entries(names).find(([, number]) => number === value)?.[0] ?? String(value);
}
