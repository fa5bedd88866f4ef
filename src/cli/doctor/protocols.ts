import { type Finding, Findings } from "./findings.ts";
import { isPage, sessionUrl, type Target } from "./rpc.ts";
import { causeOf, type HttpReply, send, sendHttp2 } from "./wire.ts";

/** An empty message in the envelope of gRPC: no compression, length 0. */
const emptyMessage = new Uint8Array(5);
/** `grpc-status` of Unauthenticated. */
const unauthenticated = "16";

/** Calls SessionService over gRPC-Web, which browsers can use over HTTP/1.1. */
export async function lookAtGrpcWeb({ url }: Target): Promise<readonly Finding[]> {
  const found = new Findings("grpc-web");
  const reply = await send(sessionUrl(url, "GetSession"), {
    method: "POST",
    headers: { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" },
    body: emptyMessage,
  });
  const trailers = webTrailersOf(reply);
  if (reply.status === 415) {
    found.ok("The service does not offer gRPC-Web, which only createGrpcWebTransport needs.");
  } else if (isPage(reply) || reply.status !== 200) {
    found.fail(
      `A call over gRPC-Web is answered with status ${reply.status}${isPage(reply) ? " and a web page" : ""}.`,
      "Clients with createGrpcWebTransport cannot call.",
      "Let the proxy forward POST requests with Content-Type application/grpc-web+proto unchanged.",
    );
  } else if (trailers === undefined && reply.header("grpc-status") === undefined) {
    found.fail(
      "The answer over gRPC-Web ends without its trailers, which are the last part of the body.",
      "Clients with createGrpcWebTransport see every call fail.",
      "Let nothing on the way cut, buffer or convert the body of application/grpc-web+proto.",
    );
  } else if ((trailers?.get("grpc-status") ?? reply.header("grpc-status")) !== unauthenticated) {
    found.fail(
      "A call over gRPC-Web without a session is not refused as unauthenticated.",
      "Something else than SessionService answers.",
      "Check what stands in front of the service.",
    );
  }
  return found.okIfNone("SessionService answers over gRPC-Web.");
}

/** The trailers at the end of the body; undefined if there are none. */
function webTrailersOf({ body }: HttpReply): ReadonlyMap<string, string> | undefined {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  for (let at = 0; at + 5 <= body.length; ) {
    const length = view.getUint32(at + 1);
    const part = body.subarray(at + 5, at + 5 + length);
    if ((body[at] ?? 0) >= 0x80) {
      const lines = new TextDecoder().decode(part).split("\r\n");
      return new Map(
        lines.map((line): [string, string] => {
          const colon = line.indexOf(":");
          return [line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim()];
        }),
      );
    }
    at += 5 + length;
  }
  return undefined;
}

/** Calls SessionService over gRPC: with TLS, or in plain text with prior knowledge (h2c). */
export async function lookAtGrpc({ url }: Target, isNeeded: boolean): Promise<readonly Finding[]> {
  const found = new Findings("grpc");
  let reply: HttpReply;
  try {
    const headers = { "content-type": "application/grpc+proto", te: "trailers" };
    reply = await sendHttp2(sessionUrl(url, "GetSession"), headers, emptyMessage);
  } catch (error) {
    reportNoHttp2(found, { url, isNeeded, cause: causeOf(error) });
    return found.list;
  }
  const status = reply.trailers["grpc-status"] ?? reply.header("grpc-status");
  if (reply.status === 415) {
    found.ok("HTTP/2 works, and the service does not offer gRPC.");
  } else if (reply.status !== 200 || isPage(reply)) {
    const wrong = [
      `A call over gRPC is answered with status ${reply.status}${isPage(reply) ? " and a web page" : ""}.`,
      "gRPC clients cannot call here. Browsers do not use gRPC.",
      "Forward gRPC with HTTP/2 up to the service (nginx: grpc_pass, in a server block of its own), or give gRPC clients the port of the service.",
    ] as const;
    if (isNeeded) {
      found.fail(...wrong);
    } else {
      found.warn(...wrong);
    }
  } else if (status === undefined) {
    found.fail(
      "The answer over gRPC has no trailers.",
      "Without grpc-status, gRPC clients see every call fail.",
      "Forward gRPC with HTTP/2 on the whole way: a proxy that speaks HTTP/1.1 to the service loses trailers (nginx: grpc_pass).",
    );
  } else if (status !== unauthenticated) {
    found.fail(
      "A call over gRPC without a session is not refused as unauthenticated.",
      "Something else than SessionService answers.",
      "Check what stands in front of the service.",
    );
  }
  return found.okIfNone("SessionService answers over gRPC, with HTTP/2 and trailers.");
}

interface NoHttp2 {
  readonly url: URL;
  readonly isNeeded: boolean;
  readonly cause: string;
}

function reportNoHttp2(found: Findings, { url, isNeeded, cause }: NoHttp2): void {
  if (isNeeded) {
    found.fail(
      `There is no HTTP/2 at ${url.origin}: ${cause}.`,
      "gRPC needs HTTP/2.",
      "Serve the adapter with http2.createSecureServer, or http2.createServer behind a proxy that speaks HTTP/2 to it.",
    );
  } else if (url.protocol === "https:") {
    found.warn(
      `There is no HTTP/2 at ${url.origin}.`,
      "Browsers then open at most six connections, and each open stream takes one. gRPC needs HTTP/2.",
      "Switch on HTTP/2 where TLS ends (nginx: http2 on).",
    );
  } else {
    found.ok("gRPC is not offered at this address. Browsers do not need it; gRPC clients do.");
  }
}
