import { createServer, type Http2Server } from "node:http2";
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Catch, type RpcExceptionFilter } from "@nestjs/common";
import { type CustomTransportStrategy, Server } from "@nestjs/microservices";
import { lastValueFrom, type Observable, throwError } from "rxjs";
import { port, sessions } from "./sessions.js";

/** Serves controllers of Nest over Connect and gRPC: `@MessagePattern("notes.v1.NotesService/AddNote")`. */
export class ConnectStrategy extends Server implements CustomTransportStrategy {
  readonly #services: readonly DescService[];
  #server: Http2Server | undefined;

  constructor(...services: DescService[]) {
    super();
    this.#services = services;
  }

  listen(callback: () => void): void {
    const options = sessions.protect({
      routes: (router: ConnectRouter) => this.#register(router),
      readMaxBytes: 2 ** 20,
    });
    this.#server = createServer(connectNodeAdapter(options)).listen(port, callback);
  }

  async close(): Promise<void> {
    this.#server?.close();
    await sessions.close();
  }

  #register(router: ConnectRouter): void {
    for (const service of this.#services) {
      const unary = service.methods.filter(({ methodKind }) => methodKind === "unary");
      const implementation: object = Object.fromEntries(
        unary.map((method) => [method.localName, this.#call(method)]),
      );
      router.service(service, implementation);
    }
  }

  #call({ parent, name }: DescMethod) {
    return async (request: unknown, context: HandlerContext): Promise<unknown> => {
      const handler = this.getHandlerByPattern(`${parent.typeName}/${name}`);
      return lastValueFrom(this.transformToObservable(await handler?.(request, context)));
    };
  }

  on(): void {}

  unwrap<T>(): T {
    return this.#server as T;
  }
}

/**
 * Passes on the code and the hint of an error. Nest replaces errors that it does not know by
 * "Internal server error", and the client would not see that it has to sign in.
 */
@Catch(ConnectError)
export class ConnectErrorFilter implements RpcExceptionFilter<ConnectError> {
  catch(error: ConnectError): Observable<never> {
    return throwError(() => error);
  }
}
