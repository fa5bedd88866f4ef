/**
 * How the tokens of a session travel: in HttpOnly cookies, or in the `Authorization` header and
 * `rpcsession-*` response headers. Chosen when the session is created, and never changed after.
 */
export type TokenTransport = "cookie" | "header";
