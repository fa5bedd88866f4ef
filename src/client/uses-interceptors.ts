import { Code, ConnectError, type Transport } from "@connectrpc/connect";

/**
 * A transport that says why calls are refused where none of them has gone through our interceptors:
 * whoever sets interceptors beside `...parts` replaces them, and no call ever carries a token.
 *
 * @param isUsed whether a call has gone through them
 */
export function usesInterceptors(made: Transport, isUsed: () => boolean): Transport {
  const explain = (error: unknown): never => {
    const refused = error instanceof ConnectError && error.code === Code.Unauthenticated;
    if (refused && !isUsed()) {
      throw new TypeError(
        "transport: the function replaced the interceptors of the parts; write interceptors: [...parts.interceptors, yours]",
        { cause: error },
      );
    }
    throw error;
  };
  const run = <T>(call: () => Promise<T>): Promise<T> =>
    isUsed() ? call() : call().catch(explain);
  return {
    unary: (...call) => run(() => made.unary(...call)),
    stream: (...call) => run(() => made.stream(...call)),
  };
}
