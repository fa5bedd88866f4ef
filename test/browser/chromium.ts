import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, BrowserContext } from "playwright-core";
import { chromium } from "playwright-core";
import { onTestFinished } from "vitest";

/** The Chromium that the tests run in. */
export interface Chromium {
  readonly executablePath: string;
  readonly env: NodeJS.ProcessEnv;
}

/** A Chromium, or how to install one. */
export type FoundChromium = Chromium | { readonly missing: string };

/** Looks for Chromium in $CHROMIUM, on the system, and in the package @sparticuz/chromium (Linux on x64). */
export async function findChromium(): Promise<FoundChromium> {
  const { CHROMIUM } = process.env;
  if (CHROMIUM) {
    return existsSync(CHROMIUM)
      ? { executablePath: CHROMIUM, env: process.env }
      : { missing: `the variable CHROMIUM names ${CHROMIUM}, which does not exist` };
  }
  const installed = ["/usr/bin/chromium", "/usr/bin/google-chrome"].find((path) =>
    existsSync(path),
  );
  if (installed !== undefined) {
    return { executablePath: installed, env: process.env };
  }
  if (process.platform === "linux" && process.arch === "x64") {
    return await unpackChromium();
  }
  return {
    missing:
      "on Debian, run apt-get install chromium; elsewhere, set the variable CHROMIUM to its path",
  };
}

/** Hosts that resolve to this machine, besides its own names. */
const hosts = ["evil.test", "partner.test", "*.shop.test"];
const args = [`--host-resolver-rules=${hosts.map((host) => `MAP ${host} 127.0.0.1`).join(",")}`];

export async function launchChromium(found: Chromium): Promise<Browser> {
  return await chromium.launch({ ...found, args });
}

/** Opens a profile that sends SameSite=None cookies to other sites as well. */
export async function launchProfile(found: Chromium): Promise<BrowserContext> {
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-profile-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, "Default"));
  writeFileSync(
    join(folder, "Default/Preferences"),
    JSON.stringify({ profile: { cookie_controls_mode: 0 } }),
  );
  return await chromium.launchPersistentContext(folder, { ...found, args });
}

/**
 * The package unpacks into the folder for temporary files. It unpacks its libraries only if it
 * believes that it runs in AWS Lambda, and it looks for its fonts in a folder that does not exist here.
 */
async function unpackChromium(): Promise<Chromium> {
  const cache = join(import.meta.dirname, "../../node_modules/.cache/chromium");
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
