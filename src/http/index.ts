export { type JwksHandler, type JwksHandlerOptions, type JwksSource, jwksHandler } from "./jwks.ts";
export { jwksFallback, type NodeFallback, type NodeRequest, type NodeResponse } from "./node.ts";
