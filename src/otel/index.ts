export type {
  FeedReadings,
  ObservedCall,
  ObservedOperation,
  Operation,
  OperationFacts,
  SessionTelemetry,
  TelemetryReadings,
} from "../base/telemetry.ts";
export type { OpenTelemetryOptions } from "./attributes.ts";
export { type ClientTelemetry, openTelemetryClient } from "./client.ts";
export { openTelemetry } from "./server.ts";
