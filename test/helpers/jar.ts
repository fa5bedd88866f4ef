import { CookieJar } from "tough-cookie";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { sameOrigin } from "./presented.ts";
import type { NotesServer } from "./server.ts";
import { callWire, type WireCall, type WireResult } from "./wire.ts";

/** A browser that follows RFC 6265bis exactly. */
export function newJar(): CookieJar {
  return new CookieJar(undefined, { prefixSecurity: "strict", allowSpecialUseDomain: true });
}

/** Calls a method from a page of the service's own origin, with the cookies of the jar. */
export async function callFromPage(
  server: NotesServer,
  { jar, issuer }: { readonly jar: CookieJar; readonly issuer: string },
  method: WireCall["method"],
): Promise<WireResult> {
  const wire = { protocol: "connect-json", http: "h1" } as const;
  const url = `${issuer}/${method.parent.typeName}/${method.name}`;
  const cookie = await jar.getCookieString(url);
  const result = await callWire(server, wire, {
    method,
    messages: [method === NotesService.method.signIn ? { user: "alice" } : {}],
    headers: { ...sameOrigin, ...(cookie !== "" && { cookie }) },
  });
  for (const one of result.setCookie) {
    // Browsers drop cookies that a host may not set.
    await jar.setCookie(one, url, { ignoreError: true });
  }
  return result;
}
