import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The part of `@microsoft/api-extractor` that is used here; type checks run without the package. */
export interface Extractor {
  readonly ExtractorConfig: {
    prepare(options: {
      readonly configObject: object;
      readonly configObjectFullPath: undefined;
      readonly packageJsonFullPath: string;
    }): unknown;
  };
  readonly CompilerState: {
    create(config: unknown, options: { readonly additionalEntryPoints: string[] }): unknown;
  };
  readonly Extractor: {
    invoke(
      config: unknown,
      options: {
        readonly localBuild: boolean;
        readonly compilerState: unknown;
        readonly messageCallback: (message: ExtractorMessage) => void;
      },
    ): { readonly errorCount: number };
  };
}

interface ExtractorMessage {
  logLevel: string;
  handled: boolean;
  readonly messageId: string;
  readonly text: string;
}

export interface Entry {
  readonly name: string;
  /** The declaration file of the entry point. */
  readonly file: string;
}

/**
 * Returns the API report of each entry point, by its name: the exported signatures without their
 * doc comments. One compilation serves all of them.
 *
 * @throws Error if the declarations cannot be analysed
 */
export function reportsOf(
  { CompilerState, Extractor, ExtractorConfig }: Extractor,
  root: string,
  entries: readonly Entry[],
): ReadonlyMap<string, string> {
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-api-"));
  try {
    const prepared = entries.map((entry) => ({
      ...entry,
      config: ExtractorConfig.prepare({
        configObject: configOf(root, folder, entry),
        configObjectFullPath: undefined,
        packageJsonFullPath: join(root, "package.json"),
      }),
    }));
    const compilerState = CompilerState.create(prepared[0]?.config, {
      additionalEntryPoints: entries.map(({ file }) => file),
    });
    for (const { name, config } of prepared) {
      const problems: string[] = [];
      Extractor.invoke(config, {
        localBuild: true,
        compilerState,
        messageCallback(message) {
          message.handled = true;
          if (message.logLevel === "error") {
            problems.push(`${message.messageId}: ${message.text}`);
          }
        },
      });
      if (problems.length > 0) {
        throw new Error(`cannot report the API of "${name}":\n${problems.join("\n")}`);
      }
    }
    const read = (name: string): string => readFileSync(join(folder, `${name}.api.md`), "utf8");
    return new Map(entries.map(({ name }) => [name, read(name)]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function configOf(root: string, folder: string, { name, file }: Entry) {
  return {
    projectFolder: root,
    mainEntryPointFilePath: file,
    newlineKind: "lf",
    compiler: { tsconfigFilePath: join(root, "tsconfig.build.json") },
    apiReport: {
      enabled: true,
      reportFileName: name,
      reportFolder: folder,
      reportTempFolder: join(folder, "temp"),
    },
    docModel: { enabled: false },
    dtsRollup: { enabled: false },
    tsdocMetadata: { enabled: false },
    messages: {
      // The compiler of this repository has already checked the declarations.
      compilerMessageReporting: { default: { logLevel: "none" } },
      extractorMessageReporting: {
        default: { logLevel: "none" },
        // A type that a signature needs but no entry point exports is worth a line in the report.
        "ae-forgotten-export": { logLevel: "warning", addToApiReportFile: true },
      },
      tsdocMessageReporting: { default: { logLevel: "none" } },
    },
  };
}
