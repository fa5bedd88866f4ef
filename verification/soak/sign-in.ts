import { generationOf, sessionOf } from "./history.ts";
import type { Cookies } from "./jar.ts";
import type { Random } from "./random.ts";
import { post } from "./raw.ts";
import { sleep } from "./windows.ts";
import { isOver, someServer, type World } from "./world.ts";

/** Retries to sign in until it succeeds; undefined if the run ends first. */
export async function signIn(
  world: World,
  user: string,
  random: Random,
): Promise<Cookies | undefined> {
  const { history, servers } = world;
  while (!isOver(world)) {
    const server = someServer(world, random);
    const began = history.now();
    const answer = await post({
      url: `${servers.url(server)}/notes.v1.NotesService/SignIn`,
      body: { user },
      cookies: [],
    });
    const token = (answer.kind === "ok" && answer.refreshToken) || "";
    const session = sessionOf(token);
    const ended = history.now();
    history.add({
      what: "signIn",
      by: "owner",
      session,
      server,
      token,
      began,
      ended,
      answer,
      heard: true,
    });
    if (answer.kind === "ok" && token === "") {
      throw new Error(
        "the sign-in has set no cookie that this test knows; see the names in raw.ts",
      );
    }
    if (answer.kind === "ok" && generationOf(token) === 0) {
      const goodUntil = ended + answer.expiresIn;
      return { refresh: token, access: answer.accessToken ?? "", goodUntil };
    }
    await sleep(random.between(100, 400));
  }
  return undefined;
}
