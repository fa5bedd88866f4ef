// What runs in which runtime: the list that the tests of runtimes.test.ts and the table of
// docs/runtimes.md are made from. A cell of the table is a test.

export type Runtime = "Node.js 22" | "Node.js 24" | "Node.js 26" | "Bun" | "Deno" | "Workers";

export const capabilities = {
  store: "the server, with its store",
  signIn: "sign-in",
  refresh: "refresh",
  revocation: "revocation",
  stream: "a stream",
  streamEnds: "a stream ends with its session",
  verification: "verification by another service",
  client: "the client",
  cli: "the command line",
} as const;

export type Capability = keyof typeof capabilities;

const everything = Object.keys(capabilities) as Capability[];

/** The capabilities that are tested in each runtime. */
export const tested: Readonly<Record<Runtime, readonly Capability[]>> = {
  "Node.js 22": everything,
  "Node.js 24": everything,
  "Node.js 26": everything,
  Bun: everything,
  Deno: everything,
  Workers: everything.filter((each) => each !== "streamEnds" && each !== "cli"),
};

/** The table of docs/runtimes.md. */
export function runtimesTable(): string {
  const runtimes = Object.keys(tested) as Runtime[];
  const lines = everything.map((capability) => {
    const cells = runtimes.map((runtime) => {
      const isTested = tested[runtime].includes(capability);
      const store = runtime === "Workers" ? "memory" : "SQLite";
      return isTested ? (capability === "store" ? store : "yes") : "–";
    });
    return [capabilities[capability], ...cells];
  });
  const head = ["", ...runtimes];
  return [head, head.map(() => "---"), ...lines]
    .map((line) => `| ${line.join(" | ")} |`)
    .join("\n");
}
