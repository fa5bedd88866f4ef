import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

const root = join(import.meta.dirname, "../..");
const main = join(root, "src/cli/main.ts");

const notes = join(root, "examples/gen/notes/v1/notes_pb.ts");
const auth = join(root, "test/gen/auth/v1/auth_pb.ts");
const policies = join(root, "test/gen/policytest/v1/policytest_pb.ts");

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "rpcsession-cli-"));
});
afterEach(() => rm(folder, { recursive: true }));

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function execute(file: string, args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(file, args, { cwd: root }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

/** Runs the program, which imports modules as Node.js does. */
function policy(...args: readonly string[]): Promise<Outcome> {
  return execute(process.execPath, ["--conditions=@rpc-session/source", main, "policy", ...args]);
}

interface Policy {
  readonly procedure: string;
  readonly auth: string;
  readonly stated: boolean;
}

async function json(
  ...args: readonly string[]
): Promise<{ ok: boolean; methods: readonly Policy[] }> {
  return JSON.parse((await policy("--json", ...args)).stdout) as Awaited<ReturnType<typeof json>>;
}

describe("feat:R4 rpc-session policy", () => {
  it("shows what each method of generated modules demands, and where that is stated", async () => {
    const { code, stdout } = await policy(auth, policies);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^METHOD +AUTH +FROM +CLAIMS +FRESH +ACR +CHECK +STREAM +CSRF +BEARER\n/,
    );
    expect(stdout).toMatch(
      /\nauth\.v1\.AuthService\/DeleteAccount +required +default +600s +feed +refuse\n/,
    );
    expect(stdout).toMatch(
      /\npolicytest\S+\/Claimed +required +default +role=admin\|owner plan=\* /,
    );
    expect(stdout).toMatch(/\npolicytest\S+\/Inherited +none +service option +refuse\n/);
    expect(stdout).toMatch(/\nEvery method states its policy\.\n$/);
  });

  it("says which methods are refused without a session because nothing is stated", async () => {
    const { code, stdout } = await policy(notes);
    expect(code).toBe(0);
    expect(stdout).toContain("No stated policy, so calls without a session are refused:\n");
    expect(stdout).toContain("\n  notes.v1.NotesService/SignIn\n");
    const { ok, methods } = await json(notes);
    expect(ok).toBe(false);
    expect(methods).toContainEqual(
      expect.objectContaining({ procedure: "notes.v1.NotesService/SignIn", stated: false }),
    );
  });

  it("exits with 1 if --check finds a method without a stated policy", async () => {
    expect((await policy("--check", notes)).code).toBe(1);
    expect((await policy("--check", auth)).code).toBe(0);
  });

  it.each(["binpb", "json"])("reads an image of buf build in the format %s", async (format) => {
    const image = join(folder, `image.${format}`);
    const buf = join(root, "node_modules/.bin/buf");
    expect(await execute(buf, ["build", "-o", image])).toMatchObject({ code: 0 });
    const read = await json(image);
    const generated = await json(auth, policies, notes);
    const known = new Set(generated.methods.map(({ procedure }) => procedure));
    const byName = (list: readonly Policy[]) =>
      list.toSorted((a, b) => a.procedure.localeCompare(b.procedure));
    const same = read.methods.filter(({ procedure }) => known.has(procedure));
    expect(byName(same)).toEqual(byName(generated.methods));
    expect(JSON.stringify(read)).not.toContain("rpcsession.v1.SessionService");
  });

  it.each([
    [[], 2, "at least one file, got 0"],
    [["notes.proto"], 2, "buf build -o image.binpb"],
    [["notes.txt"], 2, "must be a module"],
    [[join(root, "src/base/wire.ts")], 2, "the files have no service"],
    [[join(root, "package.json")], 2, "the files have no service"],
  ])("refuses %j and says what to give", async (args, code, reason) => {
    const refused = await policy(...args);
    expect(refused.stderr).toContain(reason);
    expect(refused.code).toBe(code);
  });

  it("says that a file is no image", async () => {
    const file = join(folder, "image.binpb");
    await writeFile(file, "not an image");
    const { code, stderr } = await policy(file);
    expect(code).toBe(1);
    expect(stderr).toContain("is not an image of buf build");
  });
});
