import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { sorted } from "./helpers/sorted.ts";

const { exports, peerDependenciesMeta, types, typesVersions } = JSON.parse(
  readFileSync(join(import.meta.dirname, "../package.json"), "utf8"),
) as {
  exports: Record<string, string | { types: string }>;
  peerDependenciesMeta: Record<string, object>;
  types: string;
  typesVersions: { "*": Record<string, string[]> };
};

it("feat:K11 package.json names the types of each entry point for the module resolution node10 too", () => {
  const wanted = Object.entries(exports).flatMap(([entry, file]) =>
    typeof file === "string" || entry === "." ? [] : [[entry.slice(2), [file.types]]],
  );
  expect(typesVersions["*"]).toEqual(Object.fromEntries(wanted));
  expect(exports["."]).toMatchObject({ types });
});

it("docs/installing.md names each package that only some entry points need, and these entry points", () => {
  const page = readFileSync(join(import.meta.dirname, "../docs/installing.md"), "utf8");
  const rows = [...page.matchAll(/^\| `rpc-session(\/[\w/]+)`.*? \| `([^`]+)` \|/gm)];
  expect(sorted(rows.map(([, , name]) => name))).toEqual(sorted(Object.keys(peerDependenciesMeta)));
  expect(rows.filter(([, entry]) => exports[`.${entry}`] === undefined)).toEqual([]);
});
