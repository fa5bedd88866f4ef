import { request } from "node:http";

/** A request with exactly these headers: `fetch` of Node.js replaces `Sec-Fetch-Mode`. */
export interface Sent {
  /** Default "GET". */
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** Sends a request over HTTP/1.1, and follows no redirect. */
export async function send(url: string, { method = "GET", headers, body }: Sent = {}) {
  return await new Promise<Response>((resolve, reject) => {
    const sent = request(url, { method, headers }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on("data", (chunk: Buffer) => chunks.push(chunk));
      answer.on("end", () => {
        const received = new Headers();
        const { rawHeaders, statusCode: status = 0 } = answer;
        for (let i = 0; i < rawHeaders.length; i += 2) {
          received.append(rawHeaders[i] ?? "", rawHeaders[i + 1] ?? "");
        }
        const text = Buffer.concat(chunks);
        resolve(new Response(status === 204 ? null : text, { status, headers: received }));
      });
      answer.on("error", reject);
    });
    sent.on("error", reject);
    sent.end(body);
  });
}
