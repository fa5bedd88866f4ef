import { fromBinary } from "@bufbuild/protobuf";
import { cel } from "rpc-session/cel";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PolicyViolationsSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { factsOf, leaksOf, passedFacts, readRefusal, refusalFacts } from "../helpers/golden.ts";
import { cells } from "../helpers/kinds.ts";
import { byHeader } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { callWire, wireName } from "../helpers/wire.ts";

const refusal = "permission_denied NONE CLAIM_REJECTED KEEP named left";

// Reads have no fields, so only the session decides there.
const conditionOf = ({ name }: { readonly name: string }) =>
  /^(List|Watch)/.test(name)
    ? "session.claims.role == 'writer'"
    : "session.claims.role == 'writer' && request.note.text == 'milk'";
const methods = Object.fromEntries(
  ["ListNotes", "WatchNotes", "AddNote", "ImportNotes", "SyncNotes"].map((name) => [
    `notes.v1.NotesService/${name}`,
    { allow: conditionOf({ name }) },
  ]),
);

for (const [role, allows] of [["writer", true] as const, ["reader", false] as const]) {
  describe(`feat:L8 feat:Q3 a condition in CEL, for a ${role}`, () => {
    let server: NotesServer;
    beforeAll(async () => {
      server = await startNotes({ sessions: { conditions: cel(), methods } });
    });
    afterAll(() => server.close());

    for (const { kind, wire } of cells) {
      test(`feat:L8 ${kind.name}, ${wireName(wire)}: ${allows ? "passes" : refusal}`, async () => {
        const userId = `${kind.name} ${wireName(wire)}`;
        const claims = { role };
        const { session, tokens } = await server.sessions.issue({ userId, claims });
        const presented = byHeader(session.id, tokens.accessToken);
        const { headers } = presented;
        if (allows) {
          // The one note of this user.
          const add = cells.find((cell) => cell.kind.name === "unary");
          await callWire(server, add?.wire ?? wire, { ...(add?.kind ?? kind), headers });
        }
        server.calls.handled = 0;
        const result = await callWire(server, wire, { ...kind, headers });
        const cell = { wire, ...kind };
        const { details, ...facts } = factsOf(result);
        const [hint, info, ...others] = details;
        expect({ ...facts, details: allows ? details : [hint, info] }).toEqual(
          allows ? passedFacts(cell) : refusalFacts(readRefusal(refusal), cell, presented),
        );
        const violations = others.map(({ type, value }) => {
          expect(type).toBe("rpcsession.v1.PolicyViolations");
          return fromBinary(PolicyViolationsSchema, Buffer.from(value, "hex")).violations;
        });
        expect(violations).toMatchObject(
          allows ? [] : [[{ rule: "allow", requirement: conditionOf(kind.method) }]],
        );
        expect(leaksOf(result, presented.secrets)).toEqual([]);
        expect(result.messages.length > 0).toBe(allows);
        // Also the handler of a stream only starts when its first message has passed.
        expect(server.calls.handled).toBe(allows ? 1 : 0);
      });
    }
  });
}
