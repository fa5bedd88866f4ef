// Asks a decision point that speaks AuthZEN, the OpenID Authorization API 1.0, about each call.
import type { AuthorizeOptions } from "rpc-session";

/** For `createSessions({ authorize: authZen("https://pdp.example.com") })`. */
export function authZen(url: string): AuthorizeOptions {
  return {
    cacheFor: "30s",
    async decide({ userId }, procedure, { signal }) {
      const [service, method] = procedure.split("/");
      const answer = await fetch(new URL("/access/v1/evaluation", url), {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          subject: { type: "user", id: userId },
          action: { name: method },
          resource: { type: "service", id: service },
        }),
        signal,
      });
      if (!answer.ok) {
        throw new Error(`the decision point answered ${answer.status}`);
      }
      const { decision, context } = (await answer.json()) as Evaluation;
      if (typeof decision !== "boolean") {
        throw new Error("the decision point answered without a decision");
      }
      const [reason = "the decision point does not permit it"] = Object.values(
        context?.reason_user ?? {},
      );
      return decision ? "allow" : { deny: reason };
    },
  };
}

/** The answer of a decision point. Its context, with reasons for the user, is optional. */
interface Evaluation {
  readonly decision: unknown;
  readonly context?: { readonly reason_user?: Readonly<Record<string, string>> };
}
