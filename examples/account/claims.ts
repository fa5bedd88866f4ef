import { z } from "zod";

/** What a session says of its user: the server checks it, and types `session.claims` with it. */
export const Claims = z.object({
  role: z.enum(["reader", "editor", "admin"]).default("reader"),
  costCenter: z.string().optional(),
});

/** What of it a page may know. */
export const ClientClaims = Claims.pick({ role: true });
