import { createClient } from "@connectrpc/connect";
import { NotesService } from "../gen/notes/v1/notes_pb.js";
import { currentUser, currentVisitor } from "../lib/session.ts";
import { addNote, signIn, signOut } from "./actions.ts";
import { Counter } from "./counter.tsx";

export default async function Page() {
  const user = await currentUser();
  if (user === undefined) {
    return (
      <form action={signIn}>
        <input name="user" aria-label="User" />
        <input name="password" type="password" aria-label="Password" />
        <button type="submit">Sign in</button>
      </form>
    );
  }
  const visitor = await currentVisitor();
  const { notes } = await createClient(NotesService, visitor.transport).listNotes({});
  return (
    <main>
      <h1>{`Signed in as ${user}`}</h1>
      <ul>
        {notes.map(({ text }, at) => (
          <li key={`${at} ${text}`}>{text}</li>
        ))}
      </ul>
      <form action={addNote}>
        <input name="text" aria-label="Note" />
        <button type="submit">Add</button>
      </form>
      <Counter />
      <form action={signOut}>
        <button type="submit">Sign out</button>
      </form>
    </main>
  );
}
