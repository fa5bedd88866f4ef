// Produces the transcript in the documentation: real requests to a real server, with shortened tokens.
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { testSessions } from "rpc-session/testing";
import { NotesService } from "../examples/gen/notes/v1/notes_pb.ts";

const issuer = "https://api.example.com";
const shownHeaders =
  /^(content-type|cookie|authorization|origin|sec-fetch-site|set-cookie|rpcsession-.*|cache-control|www-authenticate)$/i;

/** Signs in like a browser, calls, lets the token expire, refreshes and replays a stolen token. */
export async function wireTranscript(): Promise<string> {
  const sessions = testSessions({ issuer, public: [NotesService.method.signIn] });
  const handler = connectNodeAdapter(
    sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async signIn({ user }, context) {
            await sessions.create(context, { userId: user });
            return {};
          },
          listNotes: () => ({ notes: [{ text: "hello" }] }),
        }),
    }),
  );
  const server = createServer({ keepAlive: false }, handler);
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  const page = [`Origin: ${issuer}`, "Sec-Fetch-Site: same-origin"];
  const jar = new Map<string, string>();
  const say = async (title: string, path: string, body: string, headers: string[]) => {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
    const sent = [
      `POST /${path} HTTP/1.1`,
      "Content-Type: application/json",
      ...headers,
      ...(cookie === "" ? [] : [`Cookie: ${cookie}`]),
    ];
    const answer = await exchange(port, sent, body);
    for (const [, name = "", value = ""] of answer.matchAll(/^set-cookie: ([^=]+)=([^;]*)/gim)) {
      jar.set(name, value);
    }
    return `# ${title}\n${render(sent, body, "> ")}\n${renderAnswer(answer)}`;
  };
  const parts = [
    await say(
      "A page signs in: the tokens come in cookies that no script can read.",
      "notes.v1.NotesService/SignIn",
      '{"user":"ada"}',
      page,
    ),
  ];
  sessions.clock.advance("20m");
  parts.push(
    await say(
      "Twenty minutes later the access token has expired. The hint says what to do.",
      "notes.v1.NotesService/ListNotes",
      "{}",
      page,
    ),
    await say(
      "The client refreshes, once for all its calls, and sends the call again.",
      "rpcsession.v1.SessionService/Refresh",
      "{}",
      page,
    ),
    await say("", "notes.v1.NotesService/ListNotes", "{}", page).then((text) => text.slice(3)),
    await say(
      "The same call from a page of another site.",
      "notes.v1.NotesService/ListNotes",
      "{}",
      ["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"],
    ),
  );
  server.close();
  await sessions.close();
  return parts.join("\n\n");
}

function exchange(port: number, head: readonly string[], body: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = connect(port, "127.0.0.1", () => {
      const lines = [
        ...head,
        `Host: ${new URL(issuer).host}`,
        "Connection: close",
        `Content-Length: ${body.length}`,
      ];
      socket.write(`${lines.join("\r\n")}\r\n\r\n${body}`);
    });
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => {
      text += chunk;
    });
    socket.on("error", reject);
    socket.on("end", () => resolve(text));
  });
}

function renderAnswer(answer: string): string {
  const [head = "", body = ""] = answer.split("\r\n\r\n");
  return render(head.split("\r\n"), body, "< ");
}

function render([first = "", ...headers]: readonly string[], body: string, mark: string): string {
  const shown = headers.filter((line) => shownHeaders.test(line.slice(0, line.indexOf(":"))));
  return [first, ...shown, ...renderBody(body)].map((line) => `${mark}${mask(line)}`).join("\n");
}

function renderBody(body: string): string[] {
  if (!body.startsWith('{"code"')) {
    return [body];
  }
  const { code, message, details } = JSON.parse(body) as {
    code: string;
    message: string;
    details: { type: string; debug: unknown }[];
  };
  const [hint] = details;
  return [
    `{"code":"${code}","message":"${message}","details":[`,
    `  {"type":"${hint?.type}","value":"…",`,
    `   "debug":${JSON.stringify(hint?.debug)}}, …]}`,
  ];
}

/** Shortens tokens and ids, because they differ on every run. */
function mask(line: string): string {
  return line
    .replace(/eyJ[\w-]+\.[\w-]+\.[\w-]+/g, "eyJhbGciOi…")
    .replace(/[\w-]{8}\.[\w-]{22}\.(\d+)\.2\.[\w-]{22}\.[\w-]{43}/g, "kT3xQ0aZ.Yq0c….$1.…")
    .replace(/("(?:session|id)":"|session=)[\w-]{22}/g, "$1Yq0c…")
    .replace(/expiresAt=\d+/, "expiresAt=…")
    .replace(/expiresIn=\d+/, "expiresIn=…")
    .replace(/"accessExpiresIn":"[^"]*"/, '"accessExpiresIn":"…"');
}
