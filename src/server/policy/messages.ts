import type { DescMethod, Message } from "@bufbuild/protobuf";
import type { StreamRequest, StreamResponse } from "@connectrpc/connect";
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

/** Checks every message of a stream before its handler sees it, if the policy or a decision reads it. */
export function checkedMessages(
  core: Pick<VerifyingCore, "revocations" | "decisions">,
  call: Call,
  request: StreamRequest,
  policy: Pick<MethodPolicy, "allow">,
): Checked {
  if (!policy.allow?.readsRequest && core.decisions?.readsRequest !== true) {
    return { request, answering: (response) => response };
  }
  let refusal: { readonly error: unknown } | undefined;
  async function* checked(messages: AsyncIterable<Message>): AsyncGenerator<Message> {
    for await (const message of messages) {
      try {
        await assertAllowed(core, call, policy, { method: request.method, message });
      } catch (error) {
        refusal = { error };
        throw error;
      }
      yield message;
    }
  }
  const stopIfRefused = (): void => {
    if (refusal !== undefined) {
      throw refusal.error;
    }
  };
  async function* answers(messages: AsyncIterable<Message>): AsyncGenerator<Message> {
    for await (const message of messages) {
      stopIfRefused();
      yield message;
    }
    stopIfRefused();
  }
  return {
    request: { ...request, message: checked(request.message) },
    answering: (response) => ({ ...response, message: answers(response.message) }),
  };
}
