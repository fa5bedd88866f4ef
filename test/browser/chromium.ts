import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, BrowserContext } from "playwright-core";
import { chromium } from "playwright-core";
import { onTestFinished } from "vitest";

/** The Chromium that the tests drive. */
export interface Chromium {
  readonly executablePath: string;
  readonly env: NodeJS.ProcessEnv;
}

/** It, or why there is none. */
export type FoundChromium = Chromium | { readonly missing: string };

/** $CHROMIUM, else the system's, else the one that the package @sparticuz/chromium brings for Linux on x64. */
export async function findChromium(): Promise<FoundChromium> {
  const { CHROMIUM } = process.env;
  if (CHROMIUM) {
    return existsSync(CHROMIUM)
      ? { executablePath: CHROMIUM, env: process.env }
      : { missing: `there is no ${CHROMIUM}, which CHROMIUM names` };
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
  return { missing: "on Debian: apt-get install chromium; elsewhere name one in CHROMIUM" };
}

/** Hosts that lead to this machine, beside its own names. */
const hosts = ["evil.test", "partner.test", "*.shop.test"];
const args = [`--host-resolver-rules=${hosts.map((host) => `MAP ${host} 127.0.0.1`).join(",")}`];

export async function launchChromium(found: Chromium): Promise<Browser> {
  return await chromium.launch({ ...found, args });
}

/** A profile that sends cookies to other sites too, where these ask for it with SameSite=None. */
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
 * The package unpacks into the folder for temporary files, and its own libraries only where it takes
 * itself to be in AWS Lambda; it looks for its fonts in a place that is not ours.
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
