import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { runtimesTable } from "./apps/runtimes-table.ts";

it("docs/runtimes.md claims what the tests in test/apps run, and nothing else", () => {
  const page = readFileSync(join(import.meta.dirname, "../docs/runtimes.md"), "utf8");
  const table = page.split("\n").filter((line) => line.startsWith("|"));
  expect(table.slice(0, runtimesTable().split("\n").length).join("\n")).toBe(runtimesTable());
});

it("docs/runtimes.md names the versions that the tests install", () => {
  const page = readFileSync(join(import.meta.dirname, "../docs/runtimes.md"), "utf8");
  const { dependencies } = JSON.parse(
    readFileSync(join(import.meta.dirname, "apps/runtimes/package.json"), "utf8"),
  ) as { readonly dependencies: Readonly<Record<string, string>> };
  for (const name of ["node-22", "node-24", "node-26", "bun", "deno", "workerd"]) {
    const version = dependencies[name]?.split("@").at(-1) ?? "missing";
    expect(page, name).toContain(version);
  }
});
