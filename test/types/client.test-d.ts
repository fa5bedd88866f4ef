import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createSessionClient, withRefresh } from "rpc-session/client";
import { describe, expectTypeOf, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

declare const transport: Transport;

describe("types of the client", () => {
  const session = createSessionClient({ transport: () => transport });

  it("its transport is a Connect transport", () => {
    expectTypeOf(session.transport).toEqualTypeOf<Transport>();
  });

  it("withRefresh keeps the client's type", () => {
    const client = createClient(NotesService, transport);
    expectTypeOf(withRefresh(client, session)).toEqualTypeOf<Client<typeof NotesService>>();
  });

  it("the state is told apart by its status", () => {
    expectTypeOf(session.state.status).toEqualTypeOf<"unknown" | "signedIn" | "signedOut">();
  });
});
