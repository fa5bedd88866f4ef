export type { Duration } from "../base/checks.ts";
export type { Clock } from "../base/clock.ts";
export type {
  SessionCallOptions,
  SessionClientEvent,
  SessionClientEventListener,
  TransportParts,
} from "../client/index.ts";
export type { CookieNames } from "../request/cookie-options.ts";
export type { CookieToSet } from "./cookies.ts";
export {
  createVisitor,
  type Visitor,
  type VisitorOptions,
  type VisitorRequest,
} from "./visitor.ts";
