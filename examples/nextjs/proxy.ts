import { type NextRequest, NextResponse } from "next/server";
import { visitorOf } from "./lib/visitor.ts";

/** Refreshes before a page is rendered, because the page itself cannot set cookies. */
export async function proxy(request: NextRequest): Promise<NextResponse> {
  const visitor = visitorOf(request);
  await visitor.refreshIfDue();
  const headers = new Headers(request.headers);
  headers.set("cookie", visitor.cookieHeader);
  const response = NextResponse.next({ request: { headers } });
  visitor.writeTo(response.headers);
  return response;
}

// Pages only. The browser's own calls of the service refresh by themselves.
export const config = { matcher: ["/((?!_next/|favicon|.*\\.v1\\.).*)"] };
