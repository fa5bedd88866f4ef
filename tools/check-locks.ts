// npm run check:locks: checks every lock file of the repository for platforms that it leaves out.
//
// npm drops an optional package from the lock without a word if the registry does not have it. On
// the platform that needs it, `npm ci` then refuses to install.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

interface Lock {
  readonly packages: Readonly<
    Record<string, { readonly optionalDependencies?: Readonly<Record<string, string>> }>
  >;
}

/** Returns each optional package that `lock` names without an entry, as `package needs optional`. */
export function missingPackages(lock: Lock): string[] {
  const present = new Set(Object.keys(lock.packages).map(nameOf));
  return Object.entries(lock.packages).flatMap(([path, { optionalDependencies = {} }]) =>
    Object.entries(optionalDependencies)
      .filter(([name]) => !present.has(name))
      .map(([name, version]) => `${nameOf(path)} needs ${name}@${version}`),
  );
}

function nameOf(path: string): string {
  return path.split("node_modules/").at(-1) ?? path;
}

if (process.argv[1] === import.meta.filename) {
  const root = join(import.meta.dirname, "..");
  const locks = globSync("**/package-lock.json", {
    cwd: root,
    exclude: (name) => name === "node_modules",
  });
  let missing = 0;
  for (const file of locks) {
    for (const line of missingPackages(
      JSON.parse(readFileSync(join(root, file), "utf8")) as Lock,
    )) {
      missing++;
      console.error(`${file}: ${line}, but has no entry for it; choose another version`);
    }
  }
  console.log(`locks: ${locks.length} checked, ${missing} packages missing`);
  process.exitCode = missing === 0 ? 0 : 1;
}
