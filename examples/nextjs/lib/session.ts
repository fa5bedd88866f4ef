import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { cookies, headers } from "next/headers";
import { cache } from "react";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import type { Visitor } from "rpc-session/ssr";
import { visitorOf } from "./visitor.ts";

/** The visitor of this request. React keeps it for one render, and never longer. */
export const currentVisitor = cache(async () => visitorOf({ headers: await headers() }));

/** The user of this request; undefined if nobody is signed in. */
export const currentUser = cache(async () => {
  const visitor = await currentVisitor();
  if (!visitor.hasSession) {
    return undefined;
  }
  try {
    const { session } = await createClient(SessionService, visitor.transport).getSession({});
    return session?.userId;
  } catch (error) {
    if (ConnectError.from(error).code === Code.Unauthenticated) {
      return undefined;
    }
    throw error;
  }
});

/** Hands new cookies to the browser. Works in actions and route handlers; pages cannot set cookies. */
export async function setCookies(visitor: Visitor): Promise<void> {
  const store = await cookies();
  for (const { name, value, options } of visitor.cookies) {
    store.set(name, value, options);
  }
}
