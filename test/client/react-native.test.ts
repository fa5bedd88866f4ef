// The client under React Native: its URLSearchParams, AbortController (abort-controller 3) and fetch
// (whatwg-fetch 3) lack what this file leaves out.

import http from "node:http";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { expect, it, onTestFinished, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { createSessionClient } from "../../src/client/index.ts";
import { examplePrograms } from "../helpers/programs.ts";

/** React Native before 0.80: only what it appends can be read, as text. */
class NativeSearchParams {
  readonly #pairs: [string, string][] = [];
  constructor(pairs?: unknown) {
    if (typeof pairs === "object" && pairs !== null) {
      for (const [name, value] of Object.entries(pairs)) {
        this.#pairs.push([name, String(value)]);
      }
    }
  }
  get(): never {
    throw new Error("URLSearchParams.get is not implemented");
  }
  toString(): string {
    return this.#pairs.map((pair) => pair.map(encodeURIComponent).join("=")).join("&");
  }
}

/** A signal without `reason`, `throwIfAborted` and static methods. */
class NativeSignal extends EventTarget {
  aborted = false;
}

class NativeAbortController {
  readonly signal = new NativeSignal();
  abort(): void {
    if (!this.signal.aborted) {
      this.signal.aborted = true;
      this.signal.dispatchEvent(new Event("abort"));
    }
  }
}

/** Requests go out by XMLHttpRequest, so there is no body to read in pieces. */
function nativeFetch(seen: RequestInit[]): typeof globalThis.fetch {
  return async (input, init = {}) => {
    seen.push(init);
    const { method = "GET", headers, body, signal } = init;
    const sent = Object.fromEntries(new Headers(headers));
    return await new Promise((resolve, reject) => {
      const request = http.request(
        new Request(input).url,
        { method, headers: sent },
        (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("end", () => {
            const bytes = Buffer.concat(chunks);
            const { statusCode: status = 0 } = response;
            const received = new Headers(response.headers as Record<string, string>);
            resolve({
              ...{ status, ok: status >= 200 && status < 300, headers: received },
              arrayBuffer: async () => new Uint8Array(bytes).buffer,
              text: async () => bytes.toString(),
              json: async () => JSON.parse(bytes.toString()) as unknown,
            } as Response);
          });
        },
      );
      request.on("error", () => reject(new TypeError("Network request failed")));
      signal?.addEventListener("abort", () => {
        request.destroy();
        reject(new DOMException("Aborted", "AbortError"));
      });
      request.end(body);
    });
  };
}

/** Starts a server in a process of its own, because it needs the globals that this file replaces. */
async function start() {
  const server = await examplePrograms();
  await server.serve("minimal/server.ts");
  const seen: RequestInit[] = [];
  vi.stubGlobal("fetch", nativeFetch(seen));
  vi.stubGlobal("URLSearchParams", NativeSearchParams);
  vi.stubGlobal("AbortController", NativeAbortController);
  vi.stubGlobal("AbortSignal", NativeSignal);
  vi.stubGlobal("ReadableStream", undefined);
  onTestFinished(() => void vi.unstubAllGlobals());
  const session = createSessionClient({
    transport: (parts) =>
      createConnectTransport({ baseUrl: `http://localhost:${server.port}`, ...parts }),
  });
  const notes = createClient(NotesService, session.transport);
  await notes.signIn({ user: "ada", password: "correct horse" });
  return { seen, session, notes };
}

it("feat:P9 under React Native it signs in, refreshes and signs out, and keeps away from the app's cookies", async () => {
  const { seen, session, notes } = await start();
  await notes.addNote({ note: { text: "milk" } });
  await session.refresh({ timeoutMs: 10_000 });
  expect((await notes.listNotes({})).notes).toHaveLength(1);
  await session.signOut();
  await expect(notes.listNotes({})).rejects.toThrow("sign in");
  expect(seen.length).toBeGreaterThan(4);
  expect(new Set(seen.map(({ credentials }) => credentials))).toEqual(new Set(["omit"]));
});

it("under React Native a deadline and an abort keep their codes", async () => {
  const { session } = await start();
  const abort = new AbortController();
  abort.abort();
  await expect(session.refresh({ signal: abort.signal })).rejects.toThrow("[canceled]");
  vi.stubGlobal("fetch", () => new Promise(() => {}));
  await expect(session.refresh({ timeoutMs: 20 })).rejects.toThrow("[deadline_exceeded]");
});

it("under React Native a stream fails with the reason, and resume does not try again", async () => {
  const { notes, session } = await start();
  const interrupted: unknown[] = [];
  const read = async (): Promise<void> => {
    const stream = session.resume((_, call) => notes.watchNotes({}, call), {
      onInterrupted: (error) => interrupted.push(error),
    });
    for await (const _ of stream) {
      // There is none.
    }
  };
  const error = await read().catch((reason: Error) => reason);
  expect(String(error)).toContain("the fetch of this runtime cannot read a response in parts");
  expect(interrupted).toEqual([]);
});
