import { createElement, type ReactNode } from "react";
import { renderToString } from "react-dom/server";
import type { SessionState } from "rpc-session/client";
import {
  type RegisteredSession,
  SessionProvider,
  SessionUnknown,
  SignedIn,
  SignedOut,
  useSession,
} from "rpc-session/react";
import { expect, it } from "vitest";

const unknown: SessionState = { status: "unknown" };
const alice: SessionState = {
  status: "signedIn",
  sessionId: "s1",
  userId: "alice",
  claims: { role: "admin" },
};

/** A client that renders on a server: it knows nothing, and is never asked. */
const session = {
  state: unknown,
  claims: undefined,
  subscribe: () => () => {},
  load: () => Promise.reject(new Error("a render on a server must not load")),
} as unknown as RegisteredSession;

function Page(): ReactNode {
  const { status, userId, claims } = useSession();
  return createElement(
    "p",
    null,
    [status, userId, JSON.stringify(claims)].join(" "),
    createElement(SignedIn, { children: (known) => ` in ${known.userId}` }),
    createElement(SignedOut, null, " out"),
    createElement(SessionUnknown, null, " wait"),
  );
}

const render = (initialState?: SessionState): string =>
  renderToString(
    createElement(
      SessionProvider,
      { session, ...(initialState && { initialState }) },
      createElement(Page),
    ),
  )
    .replace(/<[^>]*>/g, "")
    .replaceAll("&quot;", '"');

it.each<[string, SessionState | undefined, string]>([
  ["nothing is known", undefined, "unknown   wait"],
  ["a user is signed in", alice, 'signedIn alice {"role":"admin"} in alice'],
  ["nobody is signed in", { status: "signedOut" }, "signedOut   out"],
])("feat:P17 a server renders that %s", (_, initialState, expected) => {
  expect(render(initialState)).toBe(expected);
});

it("useSession outside of a provider says what to render", () => {
  expect(() => renderToString(createElement(Page))).toThrow(
    "render <SessionProvider session={session}> around the component",
  );
});

it.each<[string, unknown]>([
  ["none", undefined],
  ["an object of another kind", {}],
])("a provider with %s as its session says what to pass", (_, given) => {
  const provider = createElement(SessionProvider, { session: given as never });
  expect(() => renderToString(provider)).toThrow(TypeError);
  expect(() => renderToString(provider)).toThrow("the object returned by createSessionClient");
});
