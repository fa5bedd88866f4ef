import http from "node:http";
import type { ClientHttp2Session } from "node:http2";

/** Names in lower case, with their values, in the order of the wire; a name may come twice. */
export type Pairs = readonly (readonly [string, string])[];

export interface RawRequest {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
}

/** The raw response, with nothing merged, decoded or left out. */
export interface RawResponse {
  readonly status: number;
  readonly headers: [string, string][];
  readonly trailers: Pairs;
  readonly body: Buffer;
}

/** Sends a request on its own connection. */
export function sendH1(port: number, { method, path, headers, body }: RawRequest) {
  return new Promise<RawResponse>((resolve, reject) => {
    const request = http.request(
      { host: "127.0.0.1", port, method, path, headers: { ...headers }, agent: false },
      (response) => {
        collect(response, reject, (bytes) =>
          resolve({
            status: response.statusCode ?? 0,
            headers: pairsOf(response.rawHeaders),
            trailers: pairsOf(response.rawTrailers),
            body: bytes,
          }),
        );
      },
    );
    request.on("error", reject);
    request.end(body);
  });
}

/** Sends a request as a stream of the connection. */
export function sendH2(
  session: ClientHttp2Session,
  { method, path, headers, body }: RawRequest,
): Promise<RawResponse> {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":method": method, ":path": path, ...headers });
    let head: [string, string][] = [];
    let trailers: Pairs = [];
    stream.on("response", (received) => {
      head = pairsOfHeaders(received);
    });
    stream.on("trailers", (received) => {
      trailers = pairsOfHeaders(received);
    });
    stream.on("error", reject);
    collect(stream, reject, (bytes) => {
      const status = Number(head.find(([name]) => name === ":status")?.[1]);
      const own = head.filter(([name]) => !name.startsWith(":"));
      resolve({ status, headers: own, trailers, body: bytes });
    });
    stream.end(body);
  });
}

function collect(
  source: NodeJS.ReadableStream,
  failed: (reason: Error) => void,
  done: (bytes: Buffer) => void,
): void {
  const chunks: Buffer[] = [];
  source.on("data", (chunk: Buffer) => chunks.push(chunk));
  source.on("error", failed);
  source.on("end", () => done(Buffer.concat(chunks)));
}

function pairsOf(raw: readonly string[]): [string, string][] {
  const pairs: [string, string][] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    pairs.push([raw[i]?.toLowerCase() ?? "", raw[i + 1] ?? ""]);
  }
  return pairs;
}

function pairsOfHeaders(
  headers: Readonly<Record<string, string | string[] | number | undefined>>,
): [string, string][] {
  return Object.entries(headers).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [String(value)]).map((one): [string, string] => [name, one]),
  );
}
