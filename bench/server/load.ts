// The load generator, in a process of its own: sends requests that are already encoded, with a given
// concurrency, and reports the duration of each.
import http2 from "node:http2";
import { connect, type Socket } from "node:net";
import { quantile } from "../lib/stats.ts";

export type Protocol = "json" | "binary" | "grpc";

export interface LoadOrder {
  readonly protocol: Protocol;
  readonly port: number;
  readonly requests: number;
  readonly inFlight: number;
  readonly bearers: readonly string[];
  readonly cookie: string;
}

export interface LoadReport {
  readonly seconds: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
}

const path = "/notes.v1.NotesService/ListNotes";

process.on("message", (order: LoadOrder) => {
  void run(order).then(
    (report) => process.send?.(report),
    (error: unknown) => process.send?.({ failed: String(error) }),
  );
});

async function run(order: LoadOrder): Promise<LoadReport> {
  const open = order.protocol === "grpc" ? openGrpc : openHttp1;
  const lanes = await open(order);
  const times: number[] = [];
  let left = order.requests;
  const begun = performance.now();
  await Promise.all(
    lanes.map(async (lane, at) => {
      for (let i = at; left > 0; i++) {
        left--;
        const sent = performance.now();
        await lane.send(i);
        times.push(performance.now() - sent);
      }
    }),
  );
  const seconds = (performance.now() - begun) / 1000;
  for (const lane of lanes) {
    lane.close();
  }
  times.sort((a, b) => a - b);
  return { seconds, p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
}

/** Sends one request after another. */
interface Lane {
  send(i: number): Promise<void>;
  close(): void;
}

/** The headers that every server receives, whichever of them it reads. */
function commonHeaders({ cookie }: LoadOrder): Record<string, string> {
  return { cookie, "user-agent": "bench/1.0", "accept-encoding": "identity" };
}

async function openHttp1(order: LoadOrder): Promise<Lane[]> {
  const type = order.protocol === "json" ? "application/json" : "application/proto";
  const body = order.protocol === "json" ? "{}" : "";
  const common = Object.entries(commonHeaders(order)).map(([name, value]) => `${name}: ${value}`);
  const encoded = order.bearers.map((bearer) =>
    Buffer.from(
      [
        `POST ${path} HTTP/1.1`,
        "host: 127.0.0.1",
        `authorization: Bearer ${bearer}`,
        ...common,
        `content-type: ${type}`,
        "connect-protocol-version: 1",
        `content-length: ${body.length}`,
        "",
        body,
      ].join("\r\n"),
    ),
  );
  const lane = async (): Promise<Lane> => {
    const socket = connect(order.port, "127.0.0.1");
    socket.setNoDelay(true);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve).once("error", reject);
    });
    return {
      send: (i) => exchange(socket, encoded[i % encoded.length] ?? Buffer.alloc(0)),
      close: () => socket.destroy(),
    };
  };
  return Promise.all(Array.from({ length: order.inFlight }, lane));
}

/** @throws Error if the status is not 200 */
function exchange(socket: Socket, request: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    let answer = "";
    const done = (error?: Error): void => {
      socket.off("data", onData);
      socket.off("close", onClose);
      if (error === undefined) {
        resolve();
      } else {
        reject(error);
      }
    };
    const onClose = (): void => done(new Error(`the connection was closed: ${answer}`));
    const onData = (chunk: Buffer): void => {
      answer += chunk.toString("latin1");
      if (!isComplete(answer)) {
        return;
      }
      done(answer.startsWith("HTTP/1.1 200 ") ? undefined : new Error(answer));
    };
    socket.on("data", onData);
    socket.on("close", onClose);
    socket.write(request);
  });
}

function isComplete(answer: string): boolean {
  const end = answer.indexOf("\r\n\r\n");
  if (end === -1) {
    return false;
  }
  const length = /\r\ncontent-length: (\d+)/i.exec(answer.slice(0, end))?.[1];
  return length === undefined
    ? answer.endsWith("0\r\n\r\n")
    : answer.length >= end + 4 + Number(length);
}

async function openGrpc(order: LoadOrder): Promise<Lane[]> {
  const session = http2.connect(`http://127.0.0.1:${order.port}`);
  const emptyMessage = Buffer.alloc(5);
  const common = {
    ":method": "POST",
    ":path": path,
    ...commonHeaders(order),
    "content-type": "application/grpc+proto",
    te: "trailers",
  };
  const heads = order.bearers.map((bearer) => ({ ...common, authorization: `Bearer ${bearer}` }));
  const send = (i: number): Promise<void> =>
    new Promise((resolve, reject) => {
      const stream = session.request(heads[i % heads.length], { endStream: false });
      let status: unknown;
      stream.on("response", (head) => {
        status = head["grpc-status"] ?? status;
      });
      stream.on("trailers", (trailers) => {
        status = trailers["grpc-status"] ?? status;
      });
      stream.on("error", reject);
      stream.on("close", () =>
        status === "0" ? resolve() : reject(new Error(`grpc-status ${String(status)}`)),
      );
      stream.resume();
      stream.end(emptyMessage);
    });
  const close = (): void => session.destroy();
  return Array.from({ length: order.inFlight }, () => ({ send, close }));
}
