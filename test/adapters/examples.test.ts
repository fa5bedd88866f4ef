// The programs of `examples`, run as their readers would run them.
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { examplePrograms } from "../helpers/programs.ts";

const signedOut = "[unauthenticated] the call needs a session; sign in first\n";

describe("examples", () => {
  it.each(["express", "fastify", "hono"])(
    "feat:K5 %s serves the minimal client",
    async (adapter) => {
      const programs = await examplePrograms();
      await programs.serve(`${adapter}/server.ts`);
      expect(await programs.run("minimal/client.ts")).toBe(`[ 'hello' ]\n${signedOut}`);
    },
  );

  it("feat:K5 h2 serves gRPC with TLS", async () => {
    const fixture = (name: string): string => join(import.meta.dirname, "../fixtures", name);
    const programs = await examplePrograms({
      TLS_CERT: fixture("localhost.crt"),
      TLS_KEY: fixture("localhost.key"),
      NODE_EXTRA_CA_CERTS: fixture("localhost.crt"),
    });
    await programs.serve("h2/server.ts");
    expect(await programs.run("h2/client.ts")).toBe(`hello\n${signedOut}`);
  });

  it("feat:J3 feat:K5 hono accepts the preflight of an allowed page and of no other", async () => {
    const programs = await examplePrograms({ ORIGINS: "http://localhost:5173" });
    await programs.serve("hono/server.ts");
    const preflight = (origin: string): Promise<Response> =>
      fetch(`http://localhost:${programs.port}/notes.v1.NotesService/SignIn`, {
        method: "OPTIONS",
        headers: {
          origin,
          "access-control-request-method": "POST",
          "access-control-request-headers": "connect-protocol-version,content-type",
        },
      });
    const { headers } = await preflight("http://localhost:5173");
    expect(headers.get("access-control-allow-origin")).toBe("http://localhost:5173");
    expect(headers.get("access-control-allow-credentials")).toBe("true");
    expect(headers.get("access-control-max-age")).toBe("7200");
    expect(headers.get("access-control-allow-headers")).toContain("rpcsession-transport");
    const other = await preflight("http://evil.example");
    expect(other.headers.get("access-control-allow-origin")).toBeNull();
  });
});
