// A page with the unchanged SDK of SuperTokens, and functions for the test.
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import axios from "axios";
import SuperTokensWeb from "supertokens-web-js";
import SessionRecipe from "supertokens-web-js/recipe/session";
import Session from "supertokens-website";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const { mode, sdk } = Object.fromEntries(new URLSearchParams(location.search));
const events = [];
const onHandleEvent = ({ action }) => events.push(action);
if (sdk === "web-js") {
  SuperTokensWeb.init({
    appInfo: { appName: "test", apiDomain: location.origin, apiBasePath: "/auth" },
    recipeList: [SessionRecipe.init({ tokenTransferMethod: mode, onHandleEvent })],
  });
} else {
  Session.init({ apiDomain: location.origin, tokenTransferMethod: mode, onHandleEvent });
}
const session = sdk === "web-js" ? SessionRecipe : Session;
const notes = createClient(
  NotesService,
  createConnectTransport({ baseUrl: location.origin, useHttpGet: false }),
);

const path = "/notes.v1.NotesService/ListNotes";
const headers = { "content-type": "application/json" };
const ways = {
  connect: async () => (await notes.listNotes({})).notes[0].text,
  fetch: async () => {
    const response = await fetch(path, { method: "POST", headers, body: "{}" });
    return response.ok ? (await response.json()).notes[0].text : response.status;
  },
  xhr: () =>
    new Promise((resolve) => {
      const request = new XMLHttpRequest();
      request.open("POST", path);
      request.setRequestHeader("content-type", "application/json");
      request.onload = () =>
        resolve(
          request.status === 200 ? JSON.parse(request.response).notes[0].text : request.status,
        );
      request.onerror = () => resolve("failed");
      request.send("{}");
    }),
  axios: async () => {
    const { status, data } = await axios.post(path, {}, { validateStatus: () => true });
    return status === 200 ? data.notes[0].text : status;
  },
};
Object.assign(globalThis, {
  st: { session, notes, ways, events, settle: (work) => work.catch((error) => String(error)) },
});
