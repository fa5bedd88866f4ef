import {
  type ArgumentsHost,
  type CanActivate,
  Catch,
  createParamDecorator,
  type ExceptionFilter,
  type ExecutionContext,
  Injectable,
} from "@nestjs/common";
import type { Request, Response } from "express";
import { SessionError, type VerifiedSession } from "rpc-session";
import { fromNode } from "rpc-session/http";
import { sessions } from "./sessions.js";

const verified = new WeakMap<Request, VerifiedSession>();

/** Lets a request to a Nest controller pass if it has a session. */
@Injectable()
export class SessionGuard implements CanActivate {
  async canActivate(context: ExecutionContext): Promise<boolean> {
    const http = context.switchToHttp();
    const request = http.getRequest<Request>();
    verified.set(
      request,
      await sessions.getSession(fromNode(request, http.getResponse<Response>())),
    );
    return true;
  }
}

/** The session that the guard has verified: `@Session() session`. */
export const Session = createParamDecorator((_data: unknown, context: ExecutionContext) =>
  verified.get(context.switchToHttp().getRequest<Request>()),
);

/** Answers with the status of a refusal. Nest answers 500 to errors that it does not know. */
@Catch(SessionError)
export class SessionErrorFilter implements ExceptionFilter<SessionError> {
  catch({ statusCode, message }: SessionError, host: ArgumentsHost): void {
    host.switchToHttp().getResponse<Response>().status(statusCode).json({ message });
  }
}
