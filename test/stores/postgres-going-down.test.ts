import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { expect, it } from "vitest";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { stillClock } from "./still-clock.ts";

// Regression: the error arrived before anything listened for it, and ended the process.
it("open() rejects if the server accepts a connection and announces its shutdown in the same packet", async () => {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.end(Buffer.concat([authenticated, ready, goingDown])));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const store = postgresStore(`postgres://nobody@127.0.0.1:${port}/none`);
  await expect(store.open({ clock: stillClock() })).rejects.toThrow();
  await store.close();
  server.close();
});

/** Encodes a message of PostgreSQL's protocol: type, length, content. */
function message(type: string, content: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.write(type);
  head.writeInt32BE(content.length + 4, 1);
  return Buffer.concat([head, content]);
}

const authenticated = message("R", Buffer.alloc(4));
const ready = message("Z", Buffer.from("I"));
const goingDown = message("E", Buffer.from("SFATAL\0VFATAL\0C57P01\0Mgoing down\0\0"));
