// Where browsers keep the key of bound sessions.
import { expect, test } from "vitest";
import { inEngines } from "./world.ts";

inEngines((_engine, open) => {
  test("feat:S10 the key of a browser is one for all tabs, outlives a reload, and cannot be exported", async () => {
    const { api, visit } = await open({
      options: {
        browserHeaderTransport: true,
        methods: { "notes.v1.NotesService/ListNotes": { proof: "required" } },
      },
    });

    // 1. Two tabs, and two clients in each of them, make the key at once: one is kept.
    const tabs = await Promise.all([visit(), visit()]);
    const thumbprints = () =>
      Promise.all([app.withKey().key.thumbprint(), app.withKey().key.thumbprint()]);
    const made = (await Promise.all(tabs.map((tab) => tab.evaluate(thumbprints)))).flat();
    expect(made).toEqual(Array(4).fill(made[0]));

    // 2. After a reload it is still there. A session that is bound to it calls by POST and GET.
    const [tab] = tabs;
    if (tab === undefined) {
      throw new Error("there is no tab");
    }
    await tab.reload();
    expect((await tab.evaluate(thumbprints))[0]).toBe(made[0]);
    const status = await tab.evaluate(async () => {
      const { notes, session } = app.withKey();
      await notes.signIn({ user: "ada", password: "correct horse" });
      await notes.addNote({ note: { text: "bread" } });
      await notes.listNotes({});
      await session.refresh();
      return session.state.status;
    });
    expect(status).toBe("signedIn");
    expect(api.asked.some(({ verb, method }) => verb === "GET" && method === "ListNotes")).toBe(
      true,
    );
    expect(api.events.filter(({ type }) => type === "refreshed")).toHaveLength(1);

    // 3. A script of the page can use the key, and cannot take it away.
    const taken = await tab.evaluate(async () => {
      const opening = indexedDB.open("rpc-session-dpop");
      await new Promise((resolve) => {
        opening.onsuccess = resolve;
      });
      const reading = opening.result.transaction("keys").objectStore("keys").get("current");
      await new Promise((resolve) => {
        reading.onsuccess = resolve;
      });
      opening.result.close();
      const pair = reading.result as CryptoKeyPair;
      return await crypto.subtle.exportKey("jwk", pair.privateKey).then(
        () => "taken",
        (error: Error) => error.name,
      );
    });
    expect(taken).toBe("InvalidAccessError");
  });
});
