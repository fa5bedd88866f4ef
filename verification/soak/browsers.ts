import { secretOf } from "./history.ts";
import { Jar } from "./jar.ts";
import type { Random } from "./random.ts";
import { signIn } from "./sign-in.ts";
import { sleep } from "./windows.ts";
import { isOver, type World } from "./world.ts";

/** How long tabs continue after the end of their session was acknowledged, in milliseconds. */
const goOnFor = 1_500;

/** A user with a browser who signs in again and again, until the run is over. */
export async function browse(
  world: World,
  { user, random, robbed }: { user: string; random: Random; robbed: boolean },
): Promise<void> {
  await sleep(random.between(0, 1_000));
  for (let sessions = 0; sessions < 10_000 && !isOver(world); sessions++) {
    const cookies = await signIn(world, user, random);
    if (cookies === undefined) {
      return;
    }
    const jar = new Jar(world, { cookies, by: "owner", random: random.fork(`${sessions}`) });
    const thief = robbed ? steal(world, jar, random.fork(`thief ${sessions}`)) : undefined;
    await Promise.all([openTabs(world, jar, random), leave(world, jar, random), thief]);
    await sleep(random.between(100, 600));
  }
}

async function openTabs(world: World, jar: Jar, random: Random): Promise<void> {
  const tabs = random.pick([1, 1, 2, 3]);
  await Promise.all(
    Array.from({ length: tabs }, (_, tab) => {
      return goOn(world, jar, random.fork(`${jar.session} ${tab}`));
    }),
  );
}

/** One tab: calls and refreshes until the session is over. */
async function goOn(world: World, jar: Jar, random: Random): Promise<void> {
  while (!jar.ended && !isOver(world)) {
    // Sometimes the tab sleeps for longer than an access token is valid.
    await sleep(random.chance(0.03) ? random.between(2_000, 6_000) : random.between(150, 900));
    if (!jar.ended && !isOver(world)) {
      await (random.chance(0.65) ? jar.refresh() : jar.use());
    }
  }
}

/** Ends the session at a random moment by revocation or sign-out, or not at all. */
async function leave(world: World, jar: Jar, random: Random): Promise<void> {
  const how = random.pick(["revoke", "signOut", "stay", "stay"] as const);
  const at = world.history.now() + random.between(4_000, 25_000);
  while (!jar.ended && !isOver(world)) {
    await sleep(100);
    const retired = secretOf(jar.cookies.refresh) === world.retired;
    if (retired || (how !== "stay" && world.history.now() > at)) {
      if (await jar.end(how === "revoke" ? "revoke" : "signOut")) {
        await sleep(goOnFor);
        jar.ended = true;
      }
    }
  }
}

/** Copies the cookies of a jar and uses them until the session is over. */
async function steal(world: World, victim: Jar, random: Random): Promise<void> {
  await sleep(random.between(500, 6_000));
  if (victim.ended || isOver(world)) {
    return;
  }
  world.history.stolen(victim.session);
  const jar = new Jar(world, { cookies: victim.cookies, by: "thief", random });
  while (!jar.ended && !victim.ended && !isOver(world)) {
    await sleep(random.between(200, 2_500));
    await jar.refresh();
  }
}
