import { z } from "zod";

/** The claims of a session. The server validates them and types `session.claims` with this schema. */
export const Claims = z.object({
  role: z.enum(["reader", "editor", "admin"]).default("reader"),
  costCenter: z.string().optional(),
});

/** The claims that a page may read. */
export const ClientClaims = Claims.pick({ role: true });
