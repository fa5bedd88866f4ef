import type { SessionEvent, SessionEventListener } from "./events.ts";

/**
 * Where log lines go: fields, then a message, as pino takes them; `console` fits too. No field holds
 * a token or another secret.
 */
export interface SessionLogger {
  info(fields: object, message: string): unknown;
  warn(fields: object, message: string): unknown;
  error(fields: object, message: string): unknown;
}

/** A listener that writes each event as one line. */
export function logEvents(logger: SessionLogger): SessionEventListener {
  return (event) => {
    const { type, ...fields } = event;
    const { level, message } = lines[type];
    return logger[level]({ event: type, ...fields }, message);
  };
}

type Line = { readonly level: keyof SessionLogger; readonly message: string };

const lines: Readonly<Record<SessionEvent["type"], Line>> = {
  created: { level: "info", message: "a session began" },
  refreshed: { level: "info", message: "a session was refreshed" },
  recovered: { level: "info", message: "a refresh whose answer was lost was answered again" },
  claimsChanged: { level: "info", message: "the claims of a session changed" },
  revoked: { level: "info", message: "a session was ended" },
  expired: { level: "info", message: "a session has expired" },
  csrfRefused: { level: "warn", message: "a request with session cookies was refused" },
  theft: { level: "warn", message: "a refresh token was stolen, and its session ended" },
  storeWentBack: { level: "error", message: "the store came back older than its tokens" },
  failed: { level: "error", message: "a call failed for a fault of the service or an outage" },
  feedStale: { level: "error", message: "the change log cannot be read: calls are refused" },
  feedRecovered: { level: "info", message: "the change log is read again" },
  unknownSecret: {
    level: "error",
    message: "a token, session or key is under a secret that this server was not given",
  },
};
