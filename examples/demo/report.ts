// The output of the demo: the title of every step, what was sent, and what was received.
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

/** Runs steps in sequence and counts the ones that fail. */
export interface Report {
  /** Runs one step. It fails if `act` throws. */
  step(title: string, act: () => Promise<void>): Promise<void>;
  /** Prints the statement. @throws Error if it is not true */
  check(statement: string, isTrue: boolean): void;
  sent(what: string): void;
  got(what: string): void;
  /** Prints the closing line. @returns the number of failed steps */
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
        throw new Error(`expected: ${statement}`);
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

/** Returns the error of a call that must be refused. */
export async function refusalOf(call: Promise<unknown>): Promise<ConnectError> {
  return call.then(
    () => {
      throw new Error("expected the call to be refused, but it succeeded");
    },
    (error: unknown) => ConnectError.from(error),
  );
}

/** Formats the code and the decoded hint of a refused call. */
export function describeRefusal(error: ConnectError): string {
  const [hint] = error.findDetails(RefreshHintSchema);
  const code = `${Code[error.code]}: ${error.rawMessage}`;
  if (hint === undefined) {
    return `${code} (no hint)`;
  }
  return `${code}\n      hint: action ${nameOf(Action, hint.action)}, reason ${nameOf(Reason, hint.reason)}, tokens ${nameOf(Tokens, hint.tokens)}`;
}

/** Formats a token without revealing it: only its beginning. */
export function shorten(token: string | null): string {
  return token === null ? "none" : `${token.slice(0, 12)}… (${token.length} characters)`;
}

/** Formats a refresh token without revealing it: its session and generation, but not its secret. */
export function describeRefreshToken(token: string): string {
  const [, session = "", generation] = token.split(".");
  return `of session ${session.slice(0, 6)}…, generation ${generation}`;
}

/** Formats a Set-Cookie line with a shortened value. */
export function describeCookie(setCookie: string): string {
  return setCookie.replace(/=([^;]{16})[^;]*/, "=$1…");
}

/** Decodes the claims of an access token without verifying it. */
export function claimsOf(accessToken: string): Record<string, unknown> {
  const [, payload = ""] = accessToken.split(".");
  return JSON.parse(new TextDecoder().decode(base64Decode(payload))) as Record<string, unknown>;
}

function nameOf(names: Readonly<Record<string, number>>, value: number): string {
  return Object.entries(names).find(([, number]) => number === value)?.[0] ?? String(value);
}
