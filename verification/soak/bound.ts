// Thieves who have copied all tokens of sessions that are bound to a key, but not the key.
import { createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { type ClientTokens, createSessionClient, memoryTokens } from "rpc-session/client";
import { dpopKey } from "rpc-session/client/dpop";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { issuer } from "./options.ts";
import type { Random } from "./random.ts";
import { sleep } from "./windows.ts";
import { isOver, someServer, type World } from "./world.ts";

/** What such thieves have tried, and what they got: each count but the first must be 0. */
export class BoundThieves {
  tries = 0;
  refreshes = 0;
  callsAfterExpiry = 0;
  proofCalls = 0;
}

/** Milliseconds after its end in which a server of this machine may still take a token for valid. */
const slack = 100;

/** Copies the tokens of a client again and again, and uses them in every way. */
export async function robBound(
  world: World,
  copy: () => Promise<ClientTokens | undefined>,
  random: Random,
): Promise<void> {
  const { thieves } = world;
  while (!isOver(world)) {
    await sleep(random.between(300, 1_500));
    const copied = await copy();
    if (copied?.refreshToken === undefined) {
      continue;
    }
    const { accessToken, refreshToken } = copied;
    const plain = (scheme: string): Transport =>
      transportTo(world, random, [withToken(`${scheme} ${accessToken}`)]);
    const withKey = createSessionClient({
      tokens: memoryTokens(copied),
      transport: dpopKey({ url: issuer }).transport(({ interceptors }) =>
        transportTo(world, random, interceptors),
      ),
    });
    const count = async (call: Promise<unknown>): Promise<number> => {
      thieves.tries += 1;
      return call.then(
        () => 1,
        () => 0,
      );
    };
    const note = { note: { text: "by a thief" } };

    // 1. Methods that need a proof, with every scheme, and with a proof by another key.
    for (const transport of [plain("Session"), plain("DPoP"), plain("Bearer"), withKey.transport]) {
      const call = createClient(NotesService, transport).addNote(note, { timeoutMs: 2_000 });
      thieves.proofCalls += await count(call);
    }

    // 2. Refreshes, without a proof and with one by another key.
    const bare = createClient(SessionService, transportTo(world, random, []));
    thieves.refreshes += await count(bare.refresh({ refreshToken }, { timeoutMs: 2_000 }));
    thieves.refreshes += await count(withKey.refresh());
    withKey.close();

    // 3. An ordinary call after the end of the access token.
    await sleep(Math.max(0, endOf(accessToken) + slack - Date.now()));
    const late = createClient(NotesService, plain("Session")).listNotes({}, { timeoutMs: 2_000 });
    thieves.callsAfterExpiry += await count(late);
  }
}

/** Milliseconds since 1970. */
function endOf(accessToken: string): number {
  const [, payload = ""] = accessToken.split(".");
  const { exp } = JSON.parse(Buffer.from(payload, "base64url").toString()) as { exp: number };
  return exp * 1_000;
}

function transportTo(
  world: World,
  random: Random,
  interceptors: readonly Interceptor[],
): Transport {
  return createConnectTransport({
    baseUrl: world.servers.url(someServer(world, random)),
    httpVersion: "1.1",
    nodeOptions: { agent: false },
    interceptors: [...interceptors],
  });
}

function withToken(authorization: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", authorization);
    return next(request);
  };
}
