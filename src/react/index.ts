import { ConnectError } from "@connectrpc/connect";
import {
  createContext,
  createElement,
  Fragment,
  type ReactElement,
  type ReactNode,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useState,
  useSyncExternalStore,
} from "react";
import type { SessionClient, SessionState } from "../client/index.ts";

/**
 * Names the type of the application's session, so that `useSession` returns its claims typed. Declare
 * it once:
 *
 * ```ts
 * declare module "rpc-session/react" {
 *   interface Register {
 *     session: typeof session;
 *   }
 * }
 * ```
 */
// biome-ignore lint/suspicious/noEmptyInterface: applications add their session
export interface Register {}

/** The session that the application registered, or any. */
export type RegisteredSession = Register extends { readonly session: infer S extends SessionClient }
  ? S
  : SessionClient;

/** The claims of the session that the application registered. */
export type RegisteredClaims =
  RegisteredSession extends SessionClient<infer Claims> ? Claims : never;

/** What `useSession` returns. Another object only when something has changed. */
export type ReactSession = {
  /** The session, for calls such as `signOut`. */
  readonly session: RegisteredSession;
  /**
   * Why it is not known whether a user is signed in: the service or the token store could not be
   * reached, or CORS hides the headers of the service. Undefined otherwise.
   */
  readonly error: ConnectError | undefined;
} & (
  | {
      /** Somebody is signed in. */
      readonly status: "signedIn";
      /** The id of the session. Undefined only if CORS hides the response headers of the service. */
      readonly sessionId: string | undefined;
      /** The id of the user, from the access token. Undefined if the service does not tell it. */
      readonly userId: string | undefined;
      /** The claims that the service shows to clients. Undefined if it shows none, or if they do not match the schema. */
      readonly claims: RegisteredClaims | undefined;
    }
  | {
      /** Nobody is signed in, or it is not known yet. */
      readonly status: "signedOut" | "unknown";
      readonly sessionId: undefined;
      readonly userId: undefined;
      readonly claims: undefined;
    }
);

/** Properties of {@link SessionProvider}. */
export interface SessionProviderProps {
  /** The session, created once outside of the components. */
  readonly session: RegisteredSession;
  /**
   * What a server found out about the visitor when it rendered the page. It is shown on the server,
   * while the page hydrates, and until the client knows more. Default: unknown.
   */
  readonly initialState?: SessionState;
  /** The components that use the session. */
  readonly children?: ReactNode;
}

const SessionContext = createContext<ReactSession | undefined>(undefined);
const unknown: SessionState = { status: "unknown" };

/**
 * Gives the components below it the session. On its first render in a browser it asks the service who
 * is signed in, with `session.load()`, if the client does not know.
 *
 * ```tsx
 * <SessionProvider session={session}>
 *   <App />
 * </SessionProvider>
 * ```
 *
 * @throws TypeError if `session` is something else
 */
export function SessionProvider({
  session,
  initialState = unknown,
  children,
}: SessionProviderProps): ReactElement {
  if (typeof session?.subscribe !== "function") {
    throw new TypeError(
      "SessionProvider: `session` must be the object returned by createSessionClient",
    );
  }
  // The same function as long as the session is the same, or React would subscribe again every time.
  const subscribe = useCallback((changed: () => void) => session.subscribe(changed), [session]);
  const now = useSyncExternalStore(
    subscribe,
    () => session.state,
    () => initialState,
  );
  const [error, setError] = useState<ConnectError>();
  // What the server rendered counts only until the client has known more: the user may have signed out.
  const [known, setKnown] = useState<RegisteredSession>();
  if (known !== session && session.state.status !== "unknown") {
    setKnown(session);
  }
  const { status } = now;

  // Who is signed in? React may run an effect twice; loads that run at the same time are one.
  useEffect(() => {
    let isCurrent = true;
    const failed = (reason: unknown) => isCurrent && setError(ConnectError.from(reason));
    const load = () => {
      setError(undefined);
      session.load().catch(failed);
    };
    if (status === "unknown") {
      load();
      addEventListener("online", load);
    }
    return () => {
      isCurrent = false;
      removeEventListener("online", load);
    };
  }, [session, status]);

  const shown = status === "unknown" && known !== session ? initialState : now;
  const value = useMemo(() => toReact(session, shown, error), [session, shown, error]);
  return createElement(SessionContext, { value }, children);
}

function toReact(
  session: RegisteredSession,
  state: SessionState,
  error: ConnectError | undefined,
): ReactSession {
  const { status, sessionId, userId } = state;
  if (status !== "signedIn") {
    const nobody = { sessionId: undefined, userId: undefined, claims: undefined };
    return { session, error: status === "unknown" ? error : undefined, status, ...nobody };
  }
  // A state that a server passed on has been read by the schema of the server.
  const claims = (state === session.state ? session.claims : state.claims) as typeof session.claims;
  return { session, error: undefined, status, sessionId, userId, claims };
}

/**
 * Returns who is signed in. The component renders again when that changes, in this tab or another.
 *
 * ```tsx
 * const { status, userId, claims, session } = useSession();
 * ```
 *
 * @throws Error outside of a `SessionProvider`
 */
export function useSession(): ReactSession {
  const value = useContext(SessionContext);
  if (value === undefined) {
    throw new Error(
      "useSession was called outside of a SessionProvider; render <SessionProvider session={session}> around the component",
    );
  }
  return value;
}

/** Children, or a function that returns them for the user who is signed in. */
export interface SignedInProps {
  /** Rendered only while somebody is signed in. A function receives what `useSession` returns. */
  readonly children?:
    | ReactNode
    | ((session: Extract<ReactSession, { readonly status: "signedIn" }>) => ReactNode);
}

/**
 * Renders its children while somebody is signed in. They start anew when another user signs in, so that
 * their state holds nothing of the former one.
 */
export function SignedIn({ children }: SignedInProps): ReactNode {
  const session = useSession();
  if (session.status !== "signedIn") {
    return null;
  }
  const shown = typeof children === "function" ? children(session) : children;
  return createElement(Fragment, { key: session.userId }, shown);
}

/** Properties of {@link SignedOut} and {@link SessionUnknown}. */
export interface ChildrenProps {
  /** Rendered only in the state that the component is named after. */
  readonly children?: ReactNode;
}

/** Renders its children while nobody is signed in. */
export function SignedOut({ children }: ChildrenProps): ReactNode {
  return useSession().status === "signedOut" ? children : null;
}

/** Renders its children while it is not known whether somebody is signed in. */
export function SessionUnknown({ children }: ChildrenProps): ReactNode {
  return useSession().status === "unknown" ? children : null;
}
