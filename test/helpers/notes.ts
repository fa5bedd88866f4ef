import type { ConnectRouter } from "@connectrpc/connect";
import type { Sessions } from "rpc-session";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

/**
 * A minimal notes service with sessions; counts how often its handlers ran.
 * @param own what its sign-ins ask for
 */
export function notesApp(sessions: Sessions, own: { readonly bind?: "required" } = {}) {
  const notes = new Map<string, string[]>();
  const of = (userId: string): string[] => {
    const list = notes.get(userId) ?? [];
    notes.set(userId, list);
    return list;
  };
  const calls: { handled: number; watching?: Promise<void> | undefined } = { handled: 0 };
  const routes = (router: ConnectRouter): void => {
    router.service(NotesService, {
      async signIn(request, context) {
        calls.handled++;
        await sessions.create(context, { userId: request.user, ...own });
        return {};
      },
      async signOut(_request, context) {
        calls.handled++;
        await sessions.require(context).revoke();
        return {};
      },
      listNotes(_request, context) {
        calls.handled++;
        return { notes: of(sessions.require(context).userId).map((text) => ({ text })) };
      },
      addNote(request, context) {
        calls.handled++;
        of(sessions.require(context).userId).push(request.note?.text ?? "");
        return {};
      },
      async *watchNotes(_request, context) {
        calls.handled++;
        for (const text of of(sessions.require(context).userId)) {
          yield { note: { text } };
        }
        await calls.watching;
      },
      async importNotes(requests, context) {
        calls.handled++;
        const list = of(sessions.require(context).userId);
        let imported = 0;
        for await (const { note } of requests) {
          list.push(note?.text ?? "");
          imported++;
        }
        return { imported };
      },
      async *syncNotes(requests, context) {
        calls.handled++;
        const list = of(sessions.require(context).userId);
        for await (const { note } of requests) {
          yield { number: list.push(note?.text ?? "") };
        }
      },
    });
  };
  return { routes, calls };
}
