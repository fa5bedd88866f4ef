// A bank whose transfers need a passkey (step-up authentication, RFC 9470).
import type { IncomingMessage, ServerResponse } from "node:http";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions, type Sessions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { BankService, PasskeyService } from "../gen/bank/v1/bank_pb.ts";
import { Passkeys } from "./passkeys.ts";

export interface App {
  readonly sessions: Pick<Sessions, "close">;
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
}

/** The class of an authentication by a passkey: it withstands phishing. */
const passkey = { acr: "phr", amr: ["hwk", "user"] } as const;

export function createApp(origin: string, script: string): App {
  const sessions = createSessions({ issuer: origin, store: memoryStore() });
  const passkeys = new Passkeys(origin, Date.now);
  const balances = new Map<string, number>();
  const balanceOf = (userId: string): number => balances.get(userId) ?? 1000;

  /**
   * The first passkey needs a password that was entered just now, each further one a passkey. Otherwise
   * whoever steals a session could add a passkey of their own, and confirm everything with it.
   */
  function whoMayAdd(ctx: HandlerContext) {
    const { userId } = sessions.require(ctx);
    const acr = passkeys.has(userId) ? { acr: [passkey.acr] } : {};
    return sessions.requireFresh(ctx, { freshWithin: "5m", ...acr });
  }

  const handle = connectNodeAdapter({
    ...sessions.protect({
      readMaxBytes: 2 ** 16,
      routes: (router) =>
        router
          .service(BankService, {
            async signIn({ user, password }, ctx) {
              if (password !== "correct horse") {
                throw new ConnectError("The password is wrong.", Code.PermissionDenied);
              }
              await sessions.create(ctx, { userId: user, amr: ["pwd"] });
              return {};
            },
            getBalance(_request, ctx) {
              const { userId } = sessions.require(ctx);
              return { balance: balanceOf(userId), hasPasskey: passkeys.has(userId) };
            },
            transfer({ amount }, ctx) {
              const { userId } = sessions.require(ctx);
              const balance = balanceOf(userId) - amount;
              if (amount < 1 || balance < 0) {
                throw new ConnectError("The account has too little.", Code.FailedPrecondition);
              }
              balances.set(userId, balance);
              return { balance };
            },
          })
          .service(PasskeyService, {
            async startRegistration(_request, ctx) {
              return { optionsJson: await passkeys.startRegistration(whoMayAdd(ctx)) };
            },
            async finishRegistration({ credentialJson }, ctx) {
              await passkeys.finishRegistration(whoMayAdd(ctx), credentialJson);
              return {};
            },
            async startStepUp(_request, ctx) {
              return { optionsJson: await passkeys.startStepUp(sessions.require(ctx)) };
            },
            async finishStepUp({ credentialJson }, ctx) {
              await passkeys.finishStepUp(sessions.require(ctx), credentialJson);
              await sessions.reauthenticate(ctx, passkey);
              return {};
            },
          }),
    }),
    fallback(request, response) {
      const isScript = request.url === "/page.js";
      response.setHeader("content-type", `text/${isScript ? "javascript" : "html"}; charset=utf-8`);
      response.end(isScript ? script : page);
    },
  });
  return { sessions, handle };
}

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>A bank with passkeys</title>
<h1>Bank</h1>
<form id="sign-in">
  <label>User <input name="user" value="ada" autocomplete="username"></label>
  <label>Password <input name="password" type="password" value="correct horse" autocomplete="current-password"></label>
  <button>Sign in</button>
</form>
<p><button id="add">Add a passkey</button> <button id="transfer">Transfer 100</button></p>
<p id="line" role="status">…</p>
<script type="module" src="/page.js"></script>
</html>`;
