// npm run screenshots: takes the pictures of the README from the page of examples/web in Chromium.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { buildPage } from "../examples/web/build.ts";
import { startPlayground } from "../examples/web/server.ts";

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const files = await buildPage();
const browser = await chromium.launch({ executablePath });

for (const colorScheme of ["light", "dark"] as const) {
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-web-"));
  const database = join(folder, "sessions.db");
  const playground = await startPlayground({ port: 0, database, page: files });
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme });
  const press = (name: string) => page.getByRole("button", { name, exact: true }).click();
  await page.goto(playground.url);
  await page.getByRole("button", { name: "Ada" }).click();
  await press("Call");
  await press("Let the token expire");
  await press("Call");
  await page.getByText("a new access token").last().waitFor();
  await press("Add a phone");
  await page.getByRole("button", { name: "Sign it out" }).waitFor();
  if (colorScheme === "dark") {
    await press("Steal");
    for (const generation of [2, 3]) {
      await press("Let the token expire");
      await press("Call");
      await page.getByText(`refresh token number ${generation}.`).last().waitFor();
    }
    await press("Thief refreshes");
    await page.getByText("I tried to refresh").waitFor();
  }
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({
    path: join(import.meta.dirname, `../docs/images/playground-${colorScheme}.png`),
  });
  await page.close();
  await playground.close();
  rmSync(folder, { recursive: true, force: true });
}

await browser.close();
