import type { DescMethod } from "@bufbuild/protobuf";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import type { NotesServer } from "./server.ts";
import { callWire, type Wire, type WireCall, wires } from "./wire.ts";

/** A kind of method, and a call of it. */
export interface Kind {
  readonly name: string;
  readonly method: DescMethod;
  readonly messages: WireCall["messages"];
  /** How many messages a successful response has, given one note. */
  readonly answers: number;
  readonly get?: boolean;
}

const note = { note: { text: "milk" } };
const { listNotes, addNote, watchNotes, importNotes, syncNotes } = NotesService.method;
/** Reads come first, while there is one note. */
export const kinds: readonly Kind[] = [
  { name: "Connect GET", method: listNotes, messages: [{}], answers: 1, get: true },
  { name: "server stream", method: watchNotes, messages: [{}], answers: 1 },
  { name: "unary", method: addNote, messages: [note], answers: 1 },
  { name: "client stream", method: importNotes, messages: [note, note], answers: 1 },
  { name: "bidi", method: syncNotes, messages: [note, note], answers: 2 },
];

/** Connect itself refuses bidi over HTTP/1.1; GET is Connect only. */
function canCarry({ protocol, http }: Wire, kind: Kind): boolean {
  return kind.get ? protocol.startsWith("connect") : kind.name !== "bidi" || http === "h2c";
}

/** Every kind over every wire that carries it. */
export const cells = kinds.flatMap((kind) =>
  wires.filter((wire) => canCarry(wire, kind)).map((wire) => ({ kind, wire })),
);

/** Adds the one note, over any wire. */
export async function seedNote(
  server: NotesServer,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  const call = { method: addNote, messages: [note], headers };
  await callWire(server, { protocol: "connect-json", http: "h1" }, call);
}
