import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { type Clock, createSessions, type SessionStore } from "rpc-session";
import { AccountService } from "../gen/account/v1/account_pb.ts";
import { Claims } from "./claims.ts";

/** Sessions with typed claims and at most five devices per user. */
export function accountSessions(base: { issuer: string; store: SessionStore; clock?: Clock }) {
  return createSessions({
    ...base,
    claims: Claims,
    clientClaims: ({ role }) => ({ role }),
    sessionsPerUser: { max: 5, overflow: "evictOldest" },
    // Only safe behind a proxy that always overwrites this header.
    clientIp: (ctx) => ctx.requestHeader.get("x-real-ip") ?? undefined,
  });
}

/** The routes of the account service. A real service stores hashed passwords in a database. */
export function accountRoutes(sessions: ReturnType<typeof accountSessions>) {
  const passwords = new Map([["ada", "correct horse"]]);
  const check = (user: string, password: string): void => {
    if (passwords.get(user) !== password) {
      throw new ConnectError("wrong user or password", Code.PermissionDenied);
    }
  };
  return (router: ConnectRouter) =>
    router.service(AccountService, {
      async signIn({ user, password, device }, ctx) {
        check(user, password);
        const claims = { costCenter: "4711" }; // the schema sets the role to "reader"
        await sessions.create(ctx, { userId: user, claims, label: device || "unnamed" });
        return {};
      },
      async confirm({ password }, ctx) {
        check(sessions.require(ctx).userId, password);
        await sessions.reauthenticate(ctx);
        return {};
      },
      async changePassword({ password }, ctx) {
        // The policy in the schema guarantees that the password was entered recently.
        const session = sessions.require(ctx);
        passwords.set(session.userId, password);
        return { signedOut: (await session.revokeOthers()).length };
      },
      async upgrade(_request, ctx) {
        await sessions.require(ctx).updateClaims({ role: "editor" });
        return {};
      },
      async publish(_request, ctx) {
        const session = sessions.require(ctx);
        const { published } = await session.updateData((data) => ({
          published: Number(data.published ?? 0) + 1,
        }));
        return { count: Number(published) };
      },
    });
}
