// npm run example:account: two devices of one user, with typed claims, step-up authentication, the
// list of devices, and signing out all other devices.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { createSessionClient, memoryTokens, type SessionClient } from "rpc-session/client";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock } from "rpc-session/testing";
import { AccountService } from "../gen/account/v1/account_pb.ts";
import { ClientClaims } from "./claims.ts";
import { accountRoutes, accountSessions } from "./service.ts";

const clock = createFakeClock(); // lets twenty minutes pass at once
const sessions = accountSessions({
  issuer: "http://localhost",
  store: memoryStore(),
  clock,
});
const adapter = connectNodeAdapter(
  sessions.protect({ routes: accountRoutes(sessions), readMaxBytes: 2 ** 20 }),
);
const server = createServer(adapter).listen(0, "localhost");
await new Promise((resolve) => server.once("listening", resolve));
const { port } = server.address() as AddressInfo;

const laptop = await signIn("laptop");
clock.advance("1m");
const phone = await signIn("phone");

// Claims are typed on both sides and can change during a session.
console.log("role:", laptop.session.claims?.role);
console.log("publish:", await outcome(laptop.account.publish({})));
await laptop.account.upgrade({});
console.log("role:", laptop.session.claims?.role);
console.log("publish:", await outcome(laptop.account.publish({})));

// The list of devices is available to every client.
const { sessions: devices } = await laptop.own.listSessions({});
for (const { device, current } of devices) {
  console.log("device:", device?.label, current ? "(this one)" : "");
}

// Step-up authentication: changing the password requires a recently entered password.
clock.advance("20m");
console.log("change password:", await outcome(laptop.account.changePassword({ password: "new" })));
await laptop.account.confirm({ password: "correct horse" });
const { signedOut } = await laptop.account.changePassword({ password: "new" });
console.log("change password: done, sessions signed out:", signedOut);
console.log("phone:", await outcome(phone.account.publish({})));
console.log("laptop:", await outcome(laptop.account.publish({})));

server.close();
server.closeAllConnections();
await sessions.close();

interface Device {
  readonly session: SessionClient<{ role: "reader" | "editor" | "admin" }>;
  readonly account: Client<typeof AccountService>;
  readonly own: Client<typeof SessionService>;
}

async function signIn(device: string): Promise<Device> {
  const session = createSessionClient({
    tokens: memoryTokens(),
    claims: ClientClaims,
    clock,
    transport: (parts) =>
      createConnectTransport({ baseUrl: `http://localhost:${port}`, httpVersion: "1.1", ...parts }),
  });
  const account = createClient(AccountService, session.transport);
  await account.signIn({ user: "ada", password: "correct horse", device });
  return { session, account, own: createClient(SessionService, session.transport) };
}

async function outcome(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return "ok";
  } catch (error) {
    return Code[ConnectError.from(error).code] ?? "unknown";
  }
}
