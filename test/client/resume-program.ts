// Watches a stream whose first attempt fails. Until the next attempt only a timer is left.

import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { createSessionClient, memoryTokens } from "rpc-session/client";
import { InboxService } from "../../examples/gen/inbox/v1/inbox_pb.ts";

let attempts = 0;
const session = createSessionClient({
  tokens: memoryTokens(),
  transport: (parts) =>
    createRouterTransport(
      ({ service }) =>
        service(InboxService, {
          async *watch() {
            attempts += 1;
            if (attempts === 1) {
              throw new ConnectError("restarting", Code.Unavailable);
            }
            yield { number: attempts };
          },
        }),
      { transport: parts },
    ),
});
const client = createClient(InboxService, session.transport);
for await (const { number } of session.resume((_, call) => client.watch({}, call))) {
  process.stdout.write(`message of attempt ${number}`);
}
