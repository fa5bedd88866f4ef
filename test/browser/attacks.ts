// Attacks that a hostile page may try with the cookies of a visitor. Each runs in that page and
// resolves to everything it has learned.

/** @param api the origin of the API */
export type Attack = (api: string) => Promise<string>;

export const attacks: Readonly<Record<string, Attack>> = {
  "fetch with credentials": async (api) => {
    const get = `${api}/notes.v1.NotesService/ListNotes?connect=v1&encoding=json&message=%7B%7D`;
    return await fetch(get, { credentials: "include" }).then((r) => r.text(), String);
  },

  "fetch without CORS": async (api) => {
    const get = `${api}/notes.v1.NotesService/ListNotes?connect=v1&encoding=json&message=%7B%7D`;
    const response = await fetch(get, { credentials: "include", mode: "no-cors" });
    return `${response.type} ${[...response.headers].join()} ${await response.text()}`;
  },

  "elements that load a GET": async (api) => {
    const get = `${api}/notes.v1.NotesService/ListNotes?connect=v1&encoding=json&message=%7B%7D`;
    const load = (element: HTMLElement): Promise<string> =>
      new Promise((resolve) => {
        element.onload = () => resolve(`${element.tagName} loaded`);
        element.onerror = () => resolve(`${element.tagName} failed`);
        document.body.append(element);
      });
    const script = Object.assign(document.createElement("script"), { src: get });
    const img = Object.assign(document.createElement("img"), { src: get });
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: get });
    const frame = Object.assign(document.createElement("iframe"), { src: get });
    const done = await Promise.all([script, img, link, frame].map(load));
    return `${done.join()} ${frame.contentDocument?.body.textContent}`;
  },

  "XMLHttpRequest with credentials": async (api) => {
    const request = new XMLHttpRequest();
    request.withCredentials = true;
    request.open("POST", `${api}/notes.v1.NotesService/AddNote`);
    request.setRequestHeader("content-type", "application/json");
    return await new Promise((resolve) => {
      request.onloadend = () => resolve(`${request.status} ${request.responseText}`);
      request.send('{"note":{"text":"planted"}}');
    });
  },

  "POST of JSON": async (api) => {
    const methods = [
      "notes.v1.NotesService/AddNote",
      "notes.v1.NotesService/SignIn",
      "notes.v1.NotesService/SignOut",
      "rpcsession.v1.SessionService/Refresh",
      "rpcsession.v1.SessionService/SignOut",
    ];
    const post = (method: string, headers: Record<string, string>): Promise<string> =>
      fetch(`${api}/${method}`, {
        method: "POST",
        credentials: "include",
        headers,
        body: "{}",
      }).then((r) => r.text(), String);
    const learned = methods.flatMap((method) => [
      post(method, { "content-type": "application/json" }),
      post(method, { "content-type": "application/json", "rpcsession-transport": "cookie" }),
    ]);
    return (await Promise.all(learned)).join();
  },

  "POST of types that need no preflight": async (api) => {
    const methods = [
      "notes.v1.NotesService/AddNote",
      "notes.v1.NotesService/SignIn",
      "notes.v1.NotesService/SignOut",
      "rpcsession.v1.SessionService/Refresh",
      "rpcsession.v1.SessionService/SignOut",
    ];
    const bodies = [
      new Blob(["{}"], { type: "text/plain" }),
      new Blob(["{}"]),
      new URLSearchParams({ note: "planted" }),
      new FormData(),
    ];
    const learned = methods.flatMap((method) =>
      bodies.map(async (body) => {
        const init = { method: "POST", mode: "no-cors", credentials: "include", body } as const;
        return await (await fetch(`${api}/${method}`, init)).text();
      }),
    );
    return (await Promise.all(learned)).join();
  },

  beacons: async (api) => {
    const method = `${api}/rpcsession.v1.SessionService/SignOut`;
    const plain = navigator.sendBeacon(method, new Blob(["{}"], { type: "text/plain" }));
    const json = navigator.sendBeacon(method, new Blob(["{}"], { type: "application/json" }));
    // A fetch after the beacons, so that they have been sent when this returns.
    await fetch(method, { method: "POST", mode: "no-cors", body: "" });
    return `${plain} ${json}`;
  },

  forms: async (api) => {
    const methods = [
      "notes.v1.NotesService/AddNote",
      "notes.v1.NotesService/SignIn",
      "rpcsession.v1.SessionService/Refresh",
      "rpcsession.v1.SessionService/SignOut",
    ];
    const types = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
    const submit = (method: string, enctype: string): Promise<string> =>
      new Promise((resolve) => {
        const frame = Object.assign(document.createElement("iframe"), { name: method + enctype });
        const form = document.createElement("form");
        Object.assign(form, { method: "POST", action: `${api}/${method}`, enctype });
        form.target = frame.name;
        const field = Object.assign(document.createElement("input"), {
          name: '{"a":"',
          value: '"}',
        });
        form.append(field);
        document.body.append(frame, form);
        frame.onload = () => resolve(`${frame.contentDocument?.body.textContent}`);
        form.submit();
      });
    const all = methods.flatMap((method) => types.map((type) => submit(method, type)));
    return (await Promise.all(all)).join();
  },
};
