import type { NextConfig } from "next";

const service = process.env.SERVICE_URL ?? "http://localhost:8080";

export default {
  // Pages and the service share an origin, so that both get the cookies.
  rewrites: async () =>
    ["notes.v1.NotesService", "rpcsession.v1.SessionService"].map((name) => ({
      source: `/${name}/:method`,
      destination: `${service}/${name}/:method`,
    })),
} satisfies NextConfig;
