// One call by @grpc/grpc-js. Reads it from the first argument and prints the answer as JSON.
import { Client, credentials, Metadata } from "@grpc/grpc-js";

const { url, path, message, headers } = JSON.parse(process.argv[2]);
const client = new Client(new URL(url).host, credentials.createInsecure());
const metadata = new Metadata();
for (const [name, value] of Object.entries(headers)) {
  metadata.set(name, value);
}
const bytes = (value) => value;
const call = client.makeUnaryRequest(
  path,
  bytes,
  bytes,
  Buffer.from(message, "base64"),
  metadata,
  (_error, response) => {
    answer.message = response?.toString("base64");
  },
);
const answer = { headers: [] };
const note = (received) => {
  for (const name of Object.keys(received.getMap())) {
    for (const value of received.get(name)) {
      answer.headers.push([name, Buffer.from(value).toString("base64url")]);
    }
  }
};
call.on("metadata", note);
call.on("status", (status) => {
  note(status.metadata);
  answer.code = status.code;
  // The callback for the response runs after this event.
  setImmediate(() => {
    console.log(JSON.stringify(answer));
    client.close();
  });
});
