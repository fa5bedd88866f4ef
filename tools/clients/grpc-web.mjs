// One call by grpc-web. Reads it from the first argument and prints the answer as JSON.
import grpcWeb from "grpc-web";

/** As much of the browser's class as grpc-web uses. */
globalThis.XMLHttpRequest = class {
  readyState = 0;
  status = 0;
  statusText = "";
  responseText = "";
  #request;
  #answer;

  open(method, url) {
    this.#request = { method, url, headers: new Headers() };
  }

  setRequestHeader(name, value) {
    this.#request.headers.append(name, value);
  }

  getAllResponseHeaders() {
    return [...this.#answer.headers].map(([name, value]) => `${name}: ${value}\r\n`).join("");
  }

  getResponseHeader(name) {
    return this.#answer.headers.get(name);
  }

  async send(body) {
    const { url, ...init } = this.#request;
    this.#answer = await fetch(url, { ...init, body });
    this.status = this.#answer.status;
    this.statusText = this.#answer.statusText;
    this.response = await this.#answer.arrayBuffer();
    for (const state of [2, 3, 4]) {
      this.readyState = state;
      this.onreadystatechange?.();
    }
  }

  abort() {}
};

const { url, path, message, headers } = JSON.parse(process.argv[2]);
const client = new grpcWeb.GrpcWebClientBase({ format: "binary" });
const method = new grpcWeb.MethodDescriptor(
  path,
  grpcWeb.MethodType.UNARY,
  Uint8Array,
  Uint8Array,
  (bytes) => bytes,
  (bytes) => bytes,
);
const answer = { headers: [] };
const note = (metadata) => {
  answer.headers.push(...Object.entries(metadata).map(([name, value]) => [name, btoaUrl(value)]));
};
const btoaUrl = (value) => Buffer.from(value).toString("base64url");
client
  .rpcCall(url + path, new Uint8Array(Buffer.from(message, "base64")), headers, method, () => {})
  .on("metadata", note)
  .on("data", (bytes) => {
    answer.message = Buffer.from(bytes).toString("base64");
  })
  .on("error", (error) => {
    answer.code = error.code;
    note(error.metadata ?? {});
  });
// The order of the events is not specified. Nothing runs after the last.
process.on("beforeExit", () => {
  answer.code ??= 0;
  console.log(JSON.stringify(answer));
  process.exit();
});
