import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, BrowserContext } from "playwright-core";
import { chromium } from "playwright-core";
import { onTestFinished } from "vitest";

/** The Chromium that the tests drive, or why there is none. */
export type FoundChromium = { readonly path: string } | { readonly missing: string };

/** $CHROMIUM, else the system's, else the one that the package @sparticuz/chromium brings for Linux on x64. */
export async function findChromium(): Promise<FoundChromium> {
  const { CHROMIUM } = process.env;
  if (CHROMIUM !== undefined) {
    return existsSync(CHROMIUM)
      ? { path: CHROMIUM }
      : { missing: `there is no ${CHROMIUM}, which CHROMIUM names` };
  }
  const installed = ["/usr/bin/chromium", "/usr/bin/google-chrome"].find((path) =>
    existsSync(path),
  );
  if (installed !== undefined) {
    return { path: installed };
  }
  if (process.platform === "linux" && process.arch === "x64") {
    return { path: await unpackChromium() };
  }
  return { missing: "on Debian: apt-get install chromium; elsewhere name one in CHROMIUM" };
}

/** Hosts that lead to this machine, beside its own names. */
const hosts = ["evil.test", "partner.test"];
const args = [`--host-resolver-rules=${hosts.map((host) => `MAP ${host} 127.0.0.1`).join(",")}`];

export async function launchChromium(executablePath: string): Promise<Browser> {
  return await chromium.launch({ executablePath, args });
}

/** A profile that sends cookies to other sites too, where these ask for it with SameSite=None. */
export async function launchProfile(executablePath: string): Promise<BrowserContext> {
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-profile-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, "Default"));
  writeFileSync(
    join(folder, "Default/Preferences"),
    JSON.stringify({ profile: { cookie_controls_mode: 0 } }),
  );
  return await chromium.launchPersistentContext(folder, { executablePath, args });
}

/**
 * The package unpacks into the folder for temporary files, and its own NSS libraries only where it
 * takes itself to be in AWS Lambda. It sets LD_LIBRARY_PATH for child processes: use it in test files
 * that start nothing else.
 */
async function unpackChromium(): Promise<string> {
  const cache = join(import.meta.dirname, "../../node_modules/.cache/chromium");
  mkdirSync(cache, { recursive: true });
  const before = { TMPDIR: process.env.TMPDIR, AWS_EXECUTION_ENV: process.env.AWS_EXECUTION_ENV };
  process.env.TMPDIR = cache;
  process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x";
  try {
    const { default: bundled } = await import("@sparticuz/chromium");
    return await bundled.executablePath();
  } finally {
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) {
        delete process.env[name];
      } else {
        process.env[name] = value;
      }
    }
  }
}
