import type { DescMethod, Message } from "@bufbuild/protobuf";
import type { StreamRequest, StreamResponse } from "@connectrpc/connect";
import { SessionError } from "../../base/errors.ts";
import type { Call } from "../call/call.ts";
import type { VerifyingCore } from "../core.ts";
import { assertCondition } from "./conditions.ts";
import type { MethodPolicy } from "./policy.ts";

/**
 * Checks one message against a condition that reads the request, and asks a decision point that does. A
 * call without a session, which an optional policy admits, has nothing to meet.
 * @throws SessionError `forbidden`
 */
export function assertAllowed(
  core: Pick<VerifyingCore, "revocations" | "decisions">,
  call: Call,
  { allow }: Pick<MethodPolicy, "allow">,
  { method, message: request }: { readonly method: DescMethod; readonly message: Message },
): Promise<void> | undefined {
  const { session } = call;
  if (allow?.readsRequest && session !== undefined) {
    assertCondition(allow, { session, now: core.revocations.storeNow(), request });
  }
  return core.decisions?.onMessage(call, method, request);
}

/** A stream whose messages are checked. */
interface Checked {
  readonly request: StreamRequest;
  /** Ends the answers with the refusal, also if the handler has ignored it. */
  answering(response: StreamResponse): StreamResponse;
}

/**
 * Checks every message of a stream before its handler sees it, if the policy or a decision reads it. The
 * handler of a call with a session starts when the first message has passed: it may act, and answer,
 * before it reads anything.
 * @throws SessionError `forbidden` if the first message does not pass, or there is none
 */
export async function checkedMessages(
  core: Pick<VerifyingCore, "revocations" | "decisions">,
  call: Call,
  request: StreamRequest,
  policy: Pick<MethodPolicy, "allow">,
): Promise<Checked> {
  const { allow } = policy;
  if (!allow?.readsRequest && core.decisions?.readsRequest !== true) {
    return { request, answering: (response) => response };
  }
  let refusal: { readonly error: unknown } | undefined;
  async function* checked(): AsyncGenerator<Message, undefined> {
    for await (const message of request.message) {
      try {
        await assertAllowed(core, call, policy, { method: request.method, message });
      } catch (error) {
        refusal = { error };
        throw error;
      }
      yield message;
    }
  }
  const messages = checked();
  const first = call.session === undefined ? undefined : await messages.next();
  if (first?.done) {
    throw withoutMessage(call, allow);
  }
  const firstMessage = first?.value;
  async function* fromFirst(): AsyncGenerator<Message> {
    if (firstMessage !== undefined) {
      yield firstMessage;
    }
    yield* messages;
  }
  const stopIfRefused = (): void => {
    if (refusal !== undefined) {
      throw refusal.error;
    }
  };
  async function* answers(given: AsyncIterable<Message>): AsyncGenerator<Message> {
    for await (const message of given) {
      stopIfRefused();
      yield message;
    }
    stopIfRefused();
  }
  return {
    request: { ...request, message: fromFirst() },
    answering: (response) => ({ ...response, message: answers(response.message) }),
  };
}

/** The error of a stream whose messages decide, and that has none. */
function withoutMessage({ session }: Call, allow: MethodPolicy["allow"]): SessionError {
  const rule = allow?.readsRequest ? "allow" : "authorize";
  const requirement = allow?.readsRequest ? allow.source : "a message";
  const message = "the stream has no message, and the messages decide";
  return new SessionError("forbidden", "CLAIM_REJECTED", {
    message: "the policy reads the messages of this stream, and it has none; send one at least",
    ...(session && { sessionId: session.id }),
    violations: [{ claim: rule, requirement, rule, message }],
  });
}
