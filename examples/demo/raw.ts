// Plain HTTP calls in the Connect protocol, with the cookies and headers that a browser would send.
import { request } from "node:http";
import type { JsonValue } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";

export interface RawAnswer {
  readonly status: number;
  readonly setCookie: readonly string[];
  readonly headers: Headers;
  /** The error in the body of a refused call. */
  readonly error: ConnectError | undefined;
}

/** Posts a JSON message to a method. */
export function post(
  url: string,
  message: JsonValue,
  headers: Readonly<Record<string, string>>,
): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const sent = request(
      url,
      { method: "POST", headers: { "content-type": "application/json", ...headers } },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () => {
          const status = response.statusCode ?? 0;
          const body = Buffer.concat(chunks).toString();
          resolve({
            status,
            setCookie: response.headers["set-cookie"] ?? [],
            headers: new Headers(
              Object.entries(response.headers).map(([name, value]) => [name, String(value)]),
            ),
            error: status === 200 ? undefined : readError(body),
          });
        });
      },
    );
    sent.on("error", reject);
    sent.end(JSON.stringify(message));
  });
}

/** Returns the Cookie header that a browser would send after these Set-Cookie headers. */
export function jarOf(setCookie: readonly string[]): string {
  return setCookie.map((cookie) => cookie.split(";")[0]).join("; ");
}

function readError(body: string): ConnectError {
  const json = JSON.parse(body) as {
    code: string;
    message: string;
    details: { type: string; value: string }[];
  };
  const code = Object.entries(Code).find(
    ([name]) => name.toLowerCase() === json.code.replaceAll("_", ""),
  )?.[1];
  const error = new ConnectError(json.message, code as Code);
  error.details = json.details.map(({ type, value }) => ({ type, value: base64Decode(value) }));
  return error;
}
