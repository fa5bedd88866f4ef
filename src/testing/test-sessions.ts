import type { Interceptor } from "@connectrpc/connect";
import type { AnyClaims, ClaimsInput, ClaimsOf, ClaimsSchema, JsonObject } from "../base/json.ts";
import { createSessions, type Sessions } from "../create-sessions.ts";
import type { SessionsOptions } from "../options.ts";
import type { NewSessionOptions } from "../server/session/sign-in.ts";
import { memoryStore } from "../stores/memory/index.ts";
import { createFakeClock, type FakeClock } from "./fake-clock.ts";

/** Sessions for a test, together with their clock. */
export interface TestSessions<Claims extends object = JsonObject, Given extends object = object>
  extends Sessions<Claims, Given> {
  readonly clock: FakeClock;
}

/** Options of {@link testSessions}: those of `createSessions`, all optional. */
export type TestSessionsOptions<Schema extends ClaimsSchema = AnyClaims> = Partial<
  Omit<SessionsOptions<Schema>, "clock">
> & { readonly clock?: FakeClock };

/**
 * Creates sessions that behave as in production, but live in memory and follow a fake clock.
 *
 * ```ts
 * const sessions = testSessions();
 * const { tokens } = await sessions.issue({ ...options, transport: "header" });
 * sessions.clock.advance("20m"); // the access token has expired
 * ```
 *
 * @param options overrides of the defaults: issuer "https://test.example", `memoryStore()` and a new
 *   fake clock
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
    onEvent: () => {},
    ...options,
    clock,
  });
  return { ...sessions, clock };
}

/**
 * Signs a user in and creates a client interceptor: every call carries the access token of a new
 * session. The token expires like any other. To test refreshing, use `createSessionClient`.
 *
 * ```ts
 * const interceptors = [await signedIn(sessions, { userId: "alice" })];
 * const alice = createClient(NotesService, createRouterTransport(routes, { router, transport: { interceptors } }));
 * ```
 */
export async function signedIn<Given extends object>(
  sessions: Pick<Sessions<object, Given>, "issue">,
  options: NewSessionOptions<NoInfer<Given>>,
): Promise<Interceptor> {
  const { tokens } = await sessions.issue({
    ...options,
    transport: "header",
    boundKey: undefined,
  });
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${tokens.accessToken}`);
    return next(request);
  };
}
