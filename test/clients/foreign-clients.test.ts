import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { header } from "../../src/base/wire.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { type ForeignAnswer, type ForeignCall, foreignClients } from "./clients.ts";

let server: NotesServer;
beforeAll(async () => {
  server = await startNotes();
});
afterAll(() => server.close());

const { signIn, listNotes, addNote } = NotesService.method;
const { refresh, signOut } = SessionService.method;

describe.each(foreignClients)("$name", (client) => {
  it.skipIf(client.missing)(
    "feat:K5 signs in, calls, refreshes and signs out with tokens in headers",
    async () => {
      const url = `http://127.0.0.1:${server.port[client.http]}`;
      const call = (
        method: ForeignCall["method"],
        message: ForeignCall["message"],
        headers: Record<string, string> = {},
      ): Promise<ForeignAnswer> => client.call({ url, method, message, headers });
      const bearer = (token: string | null) => ({ authorization: `Bearer ${token}` });

      // 1. Without a session, the call is refused and says why.
      const handled = server.calls.handled;
      const refused = await call(listNotes, {});
      expect(refused.code).toBe("unauthenticated");
      expect(refused.headers.get(header.hint)).toBe("sign-in");
      expect(server.calls.handled).toBe(handled);

      // 2. A sign-in answers with tokens, and the access token proves the session.
      const user = `user of ${client.name}`;
      const signedIn = await call(signIn, { user }, { [header.transport]: "header" });
      expect(signedIn.code).toBe("ok");
      const access = signedIn.headers.get(header.accessToken);
      expect((await call(addNote, { note: { text: "milk" } }, bearer(access))).code).toBe("ok");
      expect(await call(listNotes, {}, bearer(access))).toMatchObject({
        code: "ok",
        message: { notes: [{ text: "milk" }] },
      });
      expect((await call(listNotes, {}, bearer(`${access?.slice(0, -6)}AAAAAA`))).code).toBe(
        "unauthenticated",
      );

      // 3. A refresh answers with the next tokens.
      const refreshToken = signedIn.headers.get(header.refreshToken) ?? "";
      const refreshed = await call(refresh, { refreshToken });
      expect(refreshed).toMatchObject({ code: "ok", message: { session: { userId: user } } });
      const next = refreshed.headers.get(header.accessToken);
      expect(next).not.toBe(access);
      expect((await call(listNotes, {}, bearer(next))).code).toBe("ok");

      // 4. After the sign-out, no token of the session is accepted.
      const last = refreshed.headers.get(header.refreshToken) ?? refreshToken;
      expect((await call(signOut, { refreshToken: last })).code).toBe("ok");
      for (const token of [access, next]) {
        const over = await call(listNotes, {}, bearer(token));
        expect(over.code).toBe("unauthenticated");
        expect(over.headers.get(header.hint)).toBe("sign-in");
      }
    },
  );
});
