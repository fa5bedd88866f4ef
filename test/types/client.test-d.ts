import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createSessionClient, withRefresh } from "rpc-session/client";
import { describe, expectTypeOf, it } from "vitest";
import { InboxService, type WatchResponse } from "../../examples/gen/inbox/v1/inbox_pb.ts";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

declare const transport: Transport;

describe("types of the client", () => {
  const session = createSessionClient({ transport: () => transport });

  it("session.transport is a Connect transport", () => {
    expectTypeOf(session.transport).toEqualTypeOf<Transport>();
  });

  it("withRefresh returns the client's type", () => {
    const client = createClient(NotesService, transport);
    expectTypeOf(withRefresh(client, session)).toEqualTypeOf<Client<typeof NotesService>>();
  });

  it("resume infers the message type from the call and the cursor type from start", () => {
    const inbox = createClient(InboxService, transport);
    const messages = session.resume(
      (after, call) => {
        expectTypeOf(after).toEqualTypeOf<number>();
        return inbox.watch({ after }, call);
      },
      {
        start: 0,
        cursor: (message, last) => {
          expectTypeOf(message).toEqualTypeOf<WatchResponse>();
          expectTypeOf(last).toEqualTypeOf<number>();
          return message.number;
        },
      },
    );
    expectTypeOf(messages).toEqualTypeOf<AsyncIterable<WatchResponse>>();
    const plain = session.resume((cursor, call) => {
      expectTypeOf(cursor).toEqualTypeOf<undefined>();
      return inbox.watch({}, call);
    });
    expectTypeOf(plain).toEqualTypeOf<AsyncIterable<WatchResponse>>();
  });

  it("resume rejects a cursor whose type differs from start", () => {
    const inbox = createClient(InboxService, transport);
    const wrong = () =>
      // @ts-expect-error: the cursor returns a string, but the start is a number
      session.resume((after, call) => inbox.watch({ after }, call), {
        start: 0,
        cursor: (message) => message.text,
      });
    expectTypeOf(wrong).toBeFunction();
  });

  it("the status of the state has three values", () => {
    expectTypeOf(session.state.status).toEqualTypeOf<"unknown" | "signedIn" | "signedOut">();
  });
});
