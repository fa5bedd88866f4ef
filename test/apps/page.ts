// A browser that follows RFC 6265bis and shows pages without scripts: it opens them and submits forms.
import { CookieJar } from "tough-cookie";
import { expect } from "vitest";

export class PageBrowser {
  readonly #origin: string;
  readonly #jar = new CookieJar(undefined, {
    prefixSecurity: "strict",
    allowSpecialUseDomain: true,
  });
  /** The page that was opened last. */
  html = "";
  /** The names of the cookies that the last response has set. */
  set: readonly string[] = [];

  constructor(origin: string) {
    this.#origin = origin;
  }

  /** The names of the cookies that it has. */
  get cookies(): readonly string[] {
    return this.#jar.getCookiesSync(this.#origin).map(({ key }) => key);
  }

  /** The generation that its refresh cookie names. */
  get generation(): number {
    const refresh = this.#jar.getCookiesSync(this.#origin).find(({ key }) => /refresh/.test(key));
    return Number(refresh?.value.split(".")[2]);
  }

  /** Goes to a page. Without `keeps`, the cookies of the response are lost. */
  async open(path = "/", { keeps = true } = {}): Promise<string> {
    const response = await this.#send(path, { method: "GET" }, keeps);
    expect(response.status, response.text).toBe(200);
    return response.text;
  }

  /** Submits the form of the page that has this button, and goes where the response leads. */
  async submit(button: string, fields: Readonly<Record<string, string>> = {}): Promise<string> {
    const form = this.html
      .match(/<form[\s\S]*?<\/form>/g)
      ?.find((text) => text.includes(`>${button}<`));
    expect(form, `the form with the button ${button}`).toBeDefined();
    const body = new FormData();
    for (const [input] of form?.matchAll(/<input[^>]*type="hidden"[^>]*>/g) ?? []) {
      body.append(attribute(input, "name"), attribute(input, "value"));
    }
    for (const [name, value] of Object.entries(fields)) {
      body.append(name, value);
    }
    const action = attribute(form?.match(/<form[^>]*>/)?.[0] ?? "", "action");
    const response = await this.#send(action || "/", { method: "POST", body }, true);
    expect(response.status, response.text).toBe(303);
    const { set } = this;
    const html = await this.open(response.location);
    this.set = set;
    return html;
  }

  /** Calls a method of the service from the page, as the client does after a refusal. */
  async call(procedure: string): Promise<number> {
    const init = { method: "POST", body: "{}", headers: { "content-type": "application/json" } };
    return (await this.#send(`/${procedure}`, init, true)).status;
  }

  async #send(path: string, init: RequestInit, keeps: boolean) {
    const isForm = init.body instanceof FormData;
    const response = await fetch(new URL(path, this.#origin), {
      redirect: "manual",
      ...init,
      headers: {
        cookie: this.#jar.getCookieStringSync(this.#origin),
        "sec-fetch-site": init.method === "GET" ? "none" : "same-origin",
        ...((init.method === "GET" || isForm) && {
          "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "document",
          accept: "text/html",
        }),
        ...(init.method === "POST" && { origin: this.#origin }),
        ...(init.headers as Record<string, string>),
      },
    });
    const lines = response.headers.getSetCookie();
    this.set = lines.map((line) => line.split("=", 1)[0] ?? "");
    for (const line of keeps ? lines : []) {
      this.#jar.setCookieSync(line, this.#origin);
    }
    const text = await response.text();
    if (init.method === "GET") {
      this.html = text;
    }
    return { status: response.status, text, location: response.headers.get("location") ?? "/" };
  }
}

function attribute(tag: string, name: string): string {
  const text = new RegExp(` ${name}="([^"]*)"`).exec(tag)?.[1] ?? "";
  return text.replaceAll("&quot;", '"').replaceAll("&amp;", "&");
}
