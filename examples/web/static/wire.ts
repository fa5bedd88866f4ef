/** A request on its way from a page to the worker. */
export interface WorkerRequest {
  readonly url: string;
  readonly method: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: Uint8Array | undefined;
  /** Receives the {@link WorkerReply}s. Any message from the page's end cancels the request. */
  readonly reply: MessagePort;
}

/** One part of the response, in the order of HTTP. `failed` stands for a broken connection. */
export type WorkerReply =
  | {
      readonly type: "head";
      readonly status: number;
      readonly headers: readonly (readonly [name: string, value: string])[];
    }
  | { readonly type: "chunk"; readonly bytes: Uint8Array }
  | { readonly type: "end" | "failed" };
