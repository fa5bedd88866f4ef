import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { expect, it, onTestFinished } from "vitest";
import { freePort } from "../servers/port.ts";

const folder = join(import.meta.dirname, "../../examples/watch");

/** Starts a program of the example and records its output. */
function run(name: string, port: number) {
  const child = spawn(process.execPath, ["--conditions=@rpc-session/source", join(folder, name)], {
    env: { ...process.env, PORT: String(port), NODE_OPTIONS: "" },
  });
  onTestFinished(() => void child.kill());
  let printed = "";
  const note = (chunk: Buffer): void => {
    printed += chunk.toString();
  };
  child.stdout.on("data", note);
  child.stderr.on("data", note);
  const ended = once(child, "close");
  return {
    printed: () => printed.trimEnd().split("\n"),
    ended,
    kill: () => child.kill(),
  };
}

it("feat:Q2 the example keeps watching across several access tokens, then disconnects", async () => {
  const port = await freePort();
  const server = run("server.ts", port);
  await listening(port);
  const client = run("client.ts", port);
  await client.ended;
  expect(client.printed()).toEqual(Array.from({ length: 75 }, (_, i) => `${i + 1} ping`));
  const left = (): boolean => server.printed().some((line) => line.includes("aborted"));
  while (!left()) {
    await wait(20);
  }
  const ends = server.printed();
  expect(ends.length).toBeGreaterThanOrEqual(3);
  expect(ends.slice(0, -1)).toEqual(
    ends
      .slice(1)
      .map(
        () =>
          "[unauthenticated] the access token has expired; refresh the session and open the stream again",
      ),
  );
});

async function listening(port: number): Promise<void> {
  for (;;) {
    const socket = connect(port, "localhost");
    const there = await Promise.race([
      once(socket, "connect").then(() => true),
      once(socket, "error").then(() => false),
    ]).catch(() => false);
    socket.destroy();
    if (there) {
      return;
    }
    await wait(20);
  }
}
