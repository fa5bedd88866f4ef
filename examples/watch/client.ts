import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node"; // connect-web in a browser
import { createSessionClient } from "rpc-session/client";
import { InboxService } from "../gen/inbox/v1/inbox_pb.ts";

const baseUrl = `http://localhost:${process.env.PORT ?? 8080}`;

const session = createSessionClient({
  transport: (parts) => createConnectTransport({ baseUrl, httpVersion: "1.1", ...parts }),
  refreshTimeout: "500ms", // the same as refresh.clientTimeout of the server
});
const inbox = createClient(InboxService, session.transport);

await inbox.signIn({ user: "ada", password: "correct horse" });

// The server ends each stream with its access token. The loop continues across all of them.
const messages = session.resume((after, call) => inbox.watch({ after }, call), {
  start: 0,
  cursor: (message) => message.number,
});
for await (const { number, text } of messages) {
  console.log(number, text);
  if (number >= 75) {
    break; // ends the call
  }
}
