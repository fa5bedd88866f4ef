// The scene of the tests in browsers: an API, a page that may call it, and a visitor.
import { afterAll, beforeAll, describe, onTestFinished } from "vitest";
import type { TestSessionsOptions } from "../helpers/server.ts";
import {
  type Engine,
  engines,
  type RunningEngine,
  type Tab,
  type Traits,
  type Visitor,
  type VisitorSettings,
} from "./engines.ts";
import { type Api, bundlePage, type Site, startApi, startPages } from "./servers.ts";
import { visit } from "./visitor.ts";

export interface Scene {
  /** The host of the page. Default: localhost, on its own port. */
  readonly host?: string;
  /** Default: localhost. */
  readonly apiHost?: string;
  /** Whether both use TLS. Default: if a host ends in "example.com", or the engine needs it. */
  readonly tls?: boolean;
  readonly options?: TestSessionsOptions;
  /** Settings that the user of the browser has changed. */
  readonly settings?: VisitorSettings;
  /** Whether the page keeps its tokens in memory instead of cookies. */
  readonly keepsTokens?: boolean;
  /** A script that the page runs first. */
  readonly prelude?: string;
}

export interface World {
  readonly api: Api;
  readonly site: Site;
  readonly visitor: Visitor;
  /** Opens the page in a new tab. */
  readonly visit: () => Promise<Tab>;
}

/** Defines `tests` for each engine that has the traits `of`. `page`: the script of the page. */
export function inEngines(
  tests: (engine: Engine, open: (scene?: Scene) => Promise<World>) => void,
  of: Partial<Traits> = {},
  page?: string,
): void {
  const names = Object.keys(of) as (keyof Traits)[];
  for (const engine of engines.filter(({ traits }) => names.every((n) => traits[n] === of[n]))) {
    const { name, missing } = engine;
    const how = missing === "" ? "" : `, which is missing: ${missing}`;
    describe.skipIf(missing !== "")(`in ${name}${how}`, () => {
      let running: RunningEngine;
      let script: string;
      beforeAll(async () => {
        [running, script] = await Promise.all([launched(engine), bundlePage(undefined, page)]);
      });
      afterAll(() => running?.close());
      tests(engine, (scene) => openWorld(engine, running, script, scene));
    });
  }
}

/** Starting a foreign program under load may fail once, so it is tried twice. */
async function launched({ name, launch }: Engine): Promise<RunningEngine> {
  if (launch === undefined) {
    throw new Error(`${name} is missing.`);
  }
  try {
    return await launch();
  } catch (error) {
    console.warn(`${name} did not start, and is started once more: ${String(error)}`);
    return await launch();
  }
}

async function openWorld(
  engine: Engine,
  running: RunningEngine,
  script: string,
  scene: Scene = {},
): Promise<World> {
  const { host = "localhost", apiHost = "localhost", options = {}, settings } = scene;
  const isPlain = engine.traits.secureOnLocalhost;
  const tls = scene.tls ?? (!isPlain || host.endsWith("example.com"));
  let source = "";
  const site = await startPages(() => source, { host, tls });
  const api = await startApi([site.at()], options, { host: apiHost, tls });
  const given = { appApi: api.at(), appKeepsTokens: scene.keepsTokens ?? false };
  source = `Object.assign(globalThis, ${JSON.stringify(given)});${scene.prelude ?? ""}\n${script}`;
  const visitor = await running.visitor(settings);
  onTestFinished(async () => {
    await visitor.close();
    await Promise.all([site.close(), api.close()]);
  });
  return { api, site, visitor, visit: () => visit(visitor, site.at()) };
}
