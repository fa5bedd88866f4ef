/** A CPU profile in the format of V8. */
export interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: {
      readonly functionName: string;
      readonly url: string;
      readonly lineNumber: number;
    };
  }[];
  readonly samples: readonly number[];
  /** Microseconds. */
  readonly timeDeltas: readonly number[];
}

/** The time spent in one function itself, without the functions it calls. */
export interface SelfTime {
  readonly name: string;
  readonly microseconds: number;
}

/** The time of a profile by owner of the code and by function. */
export interface ProfileSummary {
  readonly owners: readonly SelfTime[];
  readonly functions: readonly (SelfTime & { readonly owner: string })[];
}

/** Adds up the samples of a profile, without idle time. */
export function summarize({ nodes, samples, timeDeltas }: CpuProfile): ProfileSummary {
  const byId = new Map(nodes.map((node) => [node.id, node.callFrame]));
  const owners = new Map<string, number>();
  const functions = new Map<string, SelfTime & { readonly owner: string }>();
  samples.forEach((sample, i) => {
    const frame = byId.get(sample);
    const microseconds = timeDeltas[i] ?? 0;
    if (frame === undefined || frame.functionName === "(idle)") {
      return;
    }
    const owner = ownerOf(frame.functionName, frame.url);
    owners.set(owner, (owners.get(owner) ?? 0) + microseconds);
    const file = frame.url.split("/").slice(-2).join("/");
    const name = `${frame.functionName || "(anonymous)"} ${file}:${frame.lineNumber + 1}`;
    const before = functions.get(name)?.microseconds ?? 0;
    functions.set(name, { name, owner, microseconds: before + microseconds });
  });
  return {
    owners: descending([...owners].map(([name, microseconds]) => ({ name, microseconds }))),
    functions: descending([...functions.values()]),
  };
}

function descending<T extends SelfTime>(all: readonly T[]): T[] {
  return all.toSorted((a, b) => b.microseconds - a.microseconds);
}

function ownerOf(name: string, url: string): string {
  if (url.includes("/node_modules/")) {
    const [, path = ""] = url.split(/.*\/node_modules\//);
    return path
      .split("/")
      .slice(0, path.startsWith("@") ? 2 : 1)
      .join("/");
  }
  if (url.startsWith("node:internal/deps/undici")) {
    return "node: Headers";
  }
  if (url.startsWith("node:")) {
    return "node";
  }
  if (/\/(src|gen)\//.test(url)) {
    return "rpc-session";
  }
  return url === "" ? (name.startsWith("(") ? name : "node: native") : "bench";
}
