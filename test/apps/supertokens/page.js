// A page with the unchanged SDK of SuperTokens, and functions for the test.
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import axios from "axios";
import { createSessionClient } from "rpc-session/client";
import SuperTokensWeb from "supertokens-web-js";
import SessionRecipe from "supertokens-web-js/recipe/session";
import Session from "supertokens-website";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const {
  mode,
  sdk,
  api = location.origin,
} = Object.fromEntries(new URLSearchParams(location.search));
const events = [];
const onHandleEvent = ({ action }) => events.push(action);
if (sdk === "web-js") {
  SuperTokensWeb.init({
    appInfo: { appName: "test", apiDomain: api, apiBasePath: "/auth" },
    recipeList: [SessionRecipe.init({ tokenTransferMethod: mode, onHandleEvent })],
  });
} else if (sdk !== "none") {
  Session.init({
    ...{ apiDomain: api, tokenTransferMethod: mode, onHandleEvent },
    autoAddCredentials: sdk !== "without-credentials",
  });
}
const session = sdk === "web-js" ? SessionRecipe : Session;
const notes = createClient(
  NotesService,
  createConnectTransport({ baseUrl: api, useHttpGet: false }),
);

/** The client of rpc-session, from when a test asks for it. */
let started;
const own = () => {
  started ??= createSessionClient({
    transport: (parts) => createConnectTransport({ baseUrl: api, ...parts }),
  });
  return started;
};
const ownNotes = () => createClient(NotesService, own().transport);

/** A plain request, by one of the ways that applications have. Returns the status and the body. */
const request = async (way, url, { method = "GET", headers = {}, body, baseURL, all } = {}) => {
  const given = { method, headers: { "content-type": "application/json", ...headers } };
  if (way === "fetch") {
    const response = await fetch(url, { ...given, body, ...(all && { credentials: "include" }) });
    return [response.status, await response.text()];
  }
  if (way === "xhr") {
    return new Promise((resolve) => {
      const sent = new XMLHttpRequest();
      sent.open(method, url);
      for (const [name, value] of Object.entries(given.headers)) {
        sent.setRequestHeader(name, value);
      }
      sent.withCredentials = all === true;
      sent.onloadend = () => resolve([sent.status, sent.responseText]);
      sent.send(body);
    });
  }
  const client = axios.create({ baseURL, withCredentials: all === true, responseType: "text" });
  if (way === "axios with interceptors") {
    Session.addAxiosInterceptors(client);
  }
  const { status, data } = await client
    .request({ ...given, url, data: body })
    .catch((error) => error.response);
  return [status, data];
};

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
  st: {
    ...{ session, notes, ways, events, request, own, ownNotes },
    settle: (work) => work.catch((error) => String(error)),
  },
});
