import type {
  DescMessage,
  DescMethodStreaming,
  DescMethodUnary,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import { ConnectError, createConnectRouter } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { createConnectTransport } from "@connectrpc/connect-web";
import type { ProtectOptions } from "rpc-session";
import { type RefreshHint, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { type Presented, requestHeaders } from "./exchanges.ts";

/** One response, parsed and raw. */
export interface WireAnswer<T> {
  readonly status: number;
  readonly headers: Headers;
  /** Every byte of the body, as text. */
  readonly body: string;
  readonly message: T | undefined;
  readonly error: ConnectError | undefined;
  readonly hint: RefreshHint | undefined;
}

/** A Connect server without a network: requests and responses as a fetch handler has them. */
export interface WireServer {
  readonly paths: readonly string[];
  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    input: MessageInitShape<I>,
    presented?: Presented,
  ): Promise<WireAnswer<MessageShape<O>>>;
  /** Calls a streaming method with one message; the message is the list of answers. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    input: MessageInitShape<I>,
    presented?: Presented,
  ): Promise<WireAnswer<MessageShape<O>[]>>;
  fetch(request: Request): Promise<Response>;
}

export const origin = "https://test.example";

/** Serves the options of an adapter, as `sessions.protect` returns them. */
export function wireServer(options: ProtectOptions): WireServer {
  const router = createConnectRouter(options);
  options.routes(router);
  const handlers = new Map(router.handlers.map((h) => [h.requestPath, createFetchHandler(h)]));
  const fetch = async (request: Request): Promise<Response> => {
    const handler = handlers.get(new URL(request.url).pathname);
    return handler === undefined ? new Response(null, { status: 404 }) : await handler(request);
  };
  const observed = (presented: Presented) => {
    let seen: { readonly response: Response; readonly body: Promise<string> } | undefined;
    const transport = createConnectTransport({
      baseUrl: origin,
      useBinaryFormat: false,
      useHttpGet: presented.method === "GET",
      async fetch(input, init) {
        const response = await fetch(new Request(input, init));
        const copy = response.clone();
        seen = { response, body: copy.text().catch((error: unknown) => String(error)) };
        return response;
      },
    });
    const answer = async <T>(work: Promise<T>): Promise<WireAnswer<T>> => {
      let message: T | undefined;
      let error: ConnectError | undefined;
      try {
        message = await work;
      } catch (reason) {
        error = ConnectError.from(reason);
      }
      if (seen === undefined) {
        throw new Error("the call was not sent", { cause: error });
      }
      const { status, headers } = seen.response;
      const hint = error?.findDetails(RefreshHintSchema)[0];
      return { status, headers, body: await seen.body, message, error, hint };
    };
    return { transport, answer };
  };
  return {
    paths: [...handlers.keys()],
    fetch,
    async call(method, input, presented = {}) {
      const { transport, answer } = observed(presented);
      const header = requestHeaders(presented);
      return await answer(
        transport.unary(method, undefined, undefined, header, input).then((r) => r.message),
      );
    },
    async stream<I extends DescMessage, O extends DescMessage>(
      method: DescMethodStreaming<I, O>,
      input: MessageInitShape<I>,
      presented: Presented = {},
    ) {
      const { transport, answer } = observed(presented);
      const header = requestHeaders(presented);
      async function* once() {
        yield input;
      }
      const collect = async () => {
        const r = await transport.stream(method, undefined, undefined, header, once());
        const messages: MessageShape<O>[] = [];
        for await (const message of r.message) {
          messages.push(message);
        }
        return messages;
      };
      return await answer(collect());
    },
  };
}
