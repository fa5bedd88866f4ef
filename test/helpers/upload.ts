import { once } from "node:events";
import type { ClientHttp2Session } from "node:http2";
import { connect } from "node:net";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** A request with a large body, of which the sender decides how much is sent. */
export interface UploadRequest {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** What the body begins with; zeros follow. */
  readonly start: Buffer;
  /** Bytes of the whole body; Infinity for a body in chunks over HTTP/1.1, whose start is one chunk. */
  readonly length: number;
}

export interface Upload {
  /** The answer, as text: with its head over HTTP/1.1, without over HTTP/2. */
  readonly answer: Promise<string>;
  /** Bytes of the body that were handed over. */
  readonly sent: () => number;
  /** Sends up to so many bytes of the body in all; waits while the other side does not read. */
  sendUpTo(bytes: number): Promise<void>;
  end(): void;
}

const zeros = Buffer.alloc(64 * 1024);

export interface UploadH1 extends Upload {
  /** Resolves when the connection is closed. */
  readonly closed: Promise<void>;
  /** Sends the same request on the same connection, with another body. */
  again(body: string): Promise<string>;
}

/** Sends the head of a request and the start of its body over a socket. */
export async function uploadH1(port: number, request: UploadRequest): Promise<UploadH1> {
  const { start, length } = request;
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.write(headOf(request, length));
  socket.write(start);
  let sent = start.length;
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  return {
    answer: readUntil(socket, isWholeAnswer),
    sent: () => sent,
    closed,
    async sendUpTo(bytes) {
      while (sent < bytes && socket.writable) {
        const chunk = zeros.subarray(0, Math.min(zeros.length, bytes - sent));
        sent += chunk.length;
        if (!socket.write(chunk)) {
          await Promise.race([once(socket, "drain").catch(() => {}), closed]);
        }
      }
    },
    end: () => socket.destroy(),
    again(body) {
      socket.write(headOf(request, body.length));
      socket.write(body);
      return readUntil(socket, isWholeAnswer);
    },
  };
}

function headOf({ path, headers }: UploadRequest, length: number): string {
  const all = {
    host: "test.example",
    ...headers,
    ...(Number.isFinite(length)
      ? { "content-length": `${length}` }
      : { "transfer-encoding": "chunked" }),
  };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `POST ${path} HTTP/1.1\r\n${lines.join("")}\r\n`;
}

/** The same as a stream of an HTTP/2 connection. */
export function uploadH2(session: ClientHttp2Session, request: UploadRequest): Upload {
  const { path, headers, start, length } = request;
  const stream = session.request(
    { ":method": "POST", ":path": path, ...headers, "content-length": length },
    { endStream: false },
  );
  stream.on("error", () => {
    // The server resets streams that it does not want to read.
  });
  stream.write(start);
  let sent = start.length;
  if (sent === length) {
    stream.end();
  }
  let trailers = "";
  stream.on("trailers", (received) => {
    trailers = JSON.stringify(received);
  });
  const closed = once(stream, "close");
  return {
    answer: readUntil(stream, () => false).then((body) => body + trailers),
    sent: () => sent,
    async sendUpTo(bytes) {
      while (sent < bytes && stream.writable) {
        const chunk = zeros.subarray(0, Math.min(zeros.length, bytes - sent));
        sent += chunk.length;
        if (!stream.write(chunk)) {
          await Promise.race([once(stream, "drain"), closed]);
        }
      }
    },
    end: () => stream.destroy(),
  };
}

/** Whether an HTTP/1.1 answer is complete, by its length or its last chunk. */
function isWholeAnswer(text: string): boolean {
  const end = text.indexOf("\r\n\r\n");
  const length = /content-length: (\d+)/i.exec(text)?.[1];
  return (
    end >= 0 && (length ? text.length >= end + 4 + Number(length) : text.endsWith("0\r\n\r\n"))
  );
}

function readUntil(
  source: NodeJS.ReadableStream,
  whole: (text: string) => boolean,
): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    source.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      if (whole(text)) {
        resolve(text);
      }
    });
    source.on("end", () => resolve(text));
    source.on("error", reject);
  });
}

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** Megabytes that the process retains. */
export async function heldMegabytes(): Promise<number> {
  // Buffers are released some turns of the event loop after they became garbage.
  for (let i = 0; i < 3; i++) {
    collectGarbage();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const { heapUsed, external } = process.memoryUsage();
  return (heapUsed + external) / 2 ** 20;
}

/** Megabytes that the process occupies. */
export function residentMegabytes(): number {
  return process.memoryUsage().rss / 2 ** 20;
}
