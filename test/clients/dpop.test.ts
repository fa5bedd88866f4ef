import { calculateThumbprint, generateKeyPair, generateProof } from "dpop";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type NotesServer, startNotes } from "../helpers/server.ts";

/** What clients call the service; the requests go to the loopback interface. */
const publicUrl = "https://test.example";

let server: NotesServer;
beforeAll(async () => {
  server = await startNotes({
    sessions: { methods: { "notes.v1.NotesService/AddNote": { proof: "required" } } },
  });
});
afterAll(() => server.close());

/** A client of a session that is bound to a key, with fetch and the npm package dpop alone. */
async function newClient() {
  const keys = await generateKeyPair("ES256");
  let nonce: string | undefined;
  const calls: string[] = [];

  async function post(procedure: string, message: object, accessToken?: string): Promise<Response> {
    const send = async (): Promise<Response> => {
      const proof = await generateProof(
        keys,
        `${publicUrl}/${procedure}`,
        "POST",
        nonce,
        accessToken,
      );
      const response = await fetch(`http://127.0.0.1:${server.port.h1}/${procedure}`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "rpcsession-transport": "header",
          dpop: proof,
          ...(accessToken === undefined ? {} : { authorization: `DPoP ${accessToken}` }),
        },
        body: JSON.stringify(message),
      });
      calls.push(`${procedure.split("/")[1]} ${response.status}`);
      nonce = response.headers.get("dpop-nonce") ?? nonce;
      return response;
    };
    const first = await send();
    // Another nonce is asked for once (RFC 9449 section 9).
    return first.headers.get("www-authenticate")?.includes("use_dpop_nonce") ? send() : first;
  }

  return { keys, post, calls };
}

describe("a client with fetch and the npm package dpop", () => {
  it("feat:S9 signs in, calls a method that needs a proof, and refreshes", async () => {
    const { keys, post, calls } = await newClient();
    const signedIn = await post("notes.v1.NotesService/SignIn", { user: "alice" });
    const access = signedIn.headers.get("rpcsession-access-token") ?? "";
    const refreshToken = signedIn.headers.get("rpcsession-refresh-token") ?? "";
    expect(refreshToken).toContain(await calculateThumbprint(keys.publicKey));

    const added = await post("notes.v1.NotesService/AddNote", { note: { text: "bread" } }, access);
    expect(added.status).toBe(200);

    const refreshed = await post("rpcsession.v1.SessionService/Refresh", { refreshToken });
    expect(refreshed.status).toBe(200);
    const newAccess = refreshed.headers.get("rpcsession-access-token") ?? "";
    const list = await post("notes.v1.NotesService/ListNotes", {}, newAccess);
    expect(await list.json()).toEqual({ notes: [{ text: "bread" }] });
    // The first call asked for a nonce; the others brought one.
    expect(calls).toEqual([
      "SignIn 401",
      "SignIn 200",
      "AddNote 200",
      "Refresh 200",
      "ListNotes 200",
    ]);
  });

  it("feat:S9 a thief with all of its tokens and another key gets nothing new", async () => {
    const owner = await newClient();
    const signedIn = await owner.post("notes.v1.NotesService/SignIn", { user: "alice" });
    const access = signedIn.headers.get("rpcsession-access-token") ?? "";
    const refreshToken = signedIn.headers.get("rpcsession-refresh-token") ?? "";
    const thief = await newClient();
    const add = await thief.post("notes.v1.NotesService/AddNote", { note: { text: "x" } }, access);
    expect(add.status).toBe(401);
    const refresh = await thief.post("rpcsession.v1.SessionService/Refresh", { refreshToken });
    expect(refresh.status).toBe(401);
    expect(refresh.headers.get("rpcsession-access-token")).toBeNull();
    const again = await owner.post("rpcsession.v1.SessionService/Refresh", { refreshToken });
    expect(again.status).toBe(200);
  });
});
