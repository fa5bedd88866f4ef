// Opens many streams to a server in the same process and reports the memory that each takes. The
// streams have sessions with `feed` and none with `bare`.
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type ContestantId, serve } from "../server/contestants.ts";
import { openStreams } from "../server/streams.ts";
import { heapUsed, tell } from "./talk.ts";

/** The cost of a stream, both ends together, in bytes. */
export interface OpenStreams {
  readonly bytesPerStream: number;
}

const [id = "bare", count = "1000"] = process.argv.slice(2) as [ContestantId?, string?];
const { options, bearers } = await serve(id);
const server = http2.createServer(
  { settings: { maxConcurrentStreams: 10_000 } },
  connectNodeAdapter(options),
);
await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
const client = http2.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
const body = Buffer.alloc(5);
const open = async (streams: number): Promise<void> => {
  const target = openStreams.count + streams;
  for (let i = 0; i < streams; i++) {
    const stream = client.request({
      ":method": "POST",
      ":path": "/notes.v1.NotesService/WatchNotes",
      "content-type": "application/grpc+proto",
      te: "trailers",
      authorization: `Bearer ${bearers[i % bearers.length]}`,
    });
    stream.on("error", () => {});
    stream.end(body);
  }
  while (openStreams.count < target) {
    await wait(10);
  }
};
// The first streams also pay for objects that are created once, so they do not count.
await open(100);
const before = heapUsed();
await open(Number(count));
const after = heapUsed();
tell({ bytesPerStream: (after - before) / Number(count) } satisfies OpenStreams);
