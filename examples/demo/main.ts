// npm run demo            runs all steps and exits
// npm run demo -- --serve keeps the server running, for trying it with curl
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createReport } from "./report.ts";
import { type DemoServer, startServer } from "./server.ts";
import { runStory } from "./story.ts";

const folder = mkdtempSync(join(tmpdir(), "rpc-session-demo-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
const serving = process.argv.includes("--serve");
if (!serving) {
  process.once("SIGINT", () => process.exit(130));
}
const file = join(folder, "sessions.db");

if (serving) {
  const server = await startServer(file, {});
  printCommands(server);
  process.once("SIGINT", () => void server.close());
  process.once("SIGTERM", () => void server.close());
} else {
  // Short lifetimes, so that tokens expire within seconds.
  const server = await startServer(file, {
    lifetimes: { access: "4s" },
    refresh: { clientTimeout: "900ms", overlap: "1s", settle: "0s" },
  });
  const report = createReport();
  await runStory({ server, report, accessLife: 4_000, overlap: 1_000 });
  await server.close();
  process.exitCode = report.end() === 0 ? 0 : 1;
}

function printCommands(server: DemoServer): void {
  const notes = "notes.v1.NotesService";
  const json = "-H 'content-type: application/json'";
  process.stdout.write(`The notes service is running. Press Ctrl-C to stop it.

  HTTP/1.1  ${server.http1}    HTTP/2  ${server.http2}

# a call without a session is refused with a hint
curl -i ${json} -d '{}' ${server.http1}/${notes}/ListNotes

# sign in; the response headers carry the tokens
TOKEN=$(curl -si ${json} -d '{"user":"ada","password":"correct horse"}' \\
  ${server.http1}/${notes}/SignIn | tr -d '\\r' | sed -n 's/^rpcsession-access-token: //p')

# call with curl, and with buf over each protocol
curl -i ${json} -H "authorization: Bearer $TOKEN" -d '{}' ${server.http1}/${notes}/ListNotes
npx buf curl --schema examples/proto -H "authorization: Bearer $TOKEN" \\
  -d '{"note":{"text":"from buf"}}' ${server.http1}/${notes}/AddNote
npx buf curl --schema examples/proto --protocol grpcweb -H "authorization: Bearer $TOKEN" \\
  -d '{}' ${server.http1}/${notes}/ListNotes
npx buf curl --schema examples/proto --protocol grpc --http2-prior-knowledge \\
  -H "authorization: Bearer $TOKEN" -d '{}' ${server.http2}/${notes}/WatchNotes

# sign in as a browser; cookies carry the tokens
curl -i ${json} -H 'origin: ${server.http1}' -H 'sec-fetch-site: same-origin' \\
  -d '{"user":"lynn","password":"correct horse"}' ${server.http1}/${notes}/SignIn

# show the session and when it ends
npx buf curl --schema proto -H "authorization: Bearer $TOKEN" \\
  -d '{}' ${server.http1}/rpcsession.v1.SessionService/GetSession
`);
}
