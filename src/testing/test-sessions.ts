import type { Interceptor } from "@connectrpc/connect";
import type { AnyClaims, ClaimsInput, ClaimsOf, ClaimsSchema, JsonObject } from "../base/json.ts";
import { createSessions, type Sessions } from "../create-sessions.ts";
import type { SessionsOptions } from "../options.ts";
import type { NewSessionOptions } from "../server/session/sign-in.ts";
import { memoryStore } from "../stores/memory/index.ts";
import { createFakeClock, type FakeClock } from "./fake-clock.ts";

/** Sessions for a test, and the clock they live by. */
export interface TestSessions<Claims extends object = JsonObject, Given extends object = object>
  extends Sessions<Claims, Given> {
  readonly clock: FakeClock;
}

/** Options of {@link testSessions}: those of `createSessions`, of which none must be given. */
export type TestSessionsOptions<Schema extends ClaimsSchema = AnyClaims> = Partial<
  Omit<SessionsOptions<Schema>, "clock">
> & { readonly clock?: FakeClock };

/**
 * Sessions as they are in production, in memory and on a clock of their own.
 * @param options whatever the test needs otherwise; the default issuer is "https://test.example"
 */
export function testSessions<Schema extends ClaimsSchema>(
  options: TestSessionsOptions<Schema> & { readonly claims: Schema },
): TestSessions<ClaimsOf<Schema>, ClaimsInput<Schema>>;
export function testSessions(options?: TestSessionsOptions): TestSessions;
export function testSessions(options: TestSessionsOptions = {}): TestSessions {
  const clock = options.clock ?? createFakeClock();
  const sessions = createSessions({
    issuer: "https://test.example",
    store: memoryStore(),
    ...options,
    clock,
  });
  return { ...sessions, clock };
}

/**
 * A client interceptor that is signed in: every call carries the access token of a new session.
 * The token expires as any other; to test refreshing, use `createSessionClient`.
 */
export async function signedIn<Given extends object>(
  sessions: Pick<Sessions<object, Given>, "issue">,
  options: NewSessionOptions<NoInfer<Given>>,
): Promise<Interceptor> {
  const { tokens } = await sessions.issue({ ...options, transport: "header" });
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${tokens.accessToken}`);
    return next(request);
  };
}
