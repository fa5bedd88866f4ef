// The process of one scenario: run.ts FILE NAME [--quick]. It sends its answer to main.ts. SIGTERM ends it
// together with the servers that it started, which end on the event "exit".
import { MissingService, type Scenario, type ScenarioOptions } from "./scenario.ts";

/** What the process of a scenario answers. */
export type Answer =
  | { readonly figures: Readonly<Record<string, number>> }
  | { readonly missing: string }
  | { readonly failed: string };

process.once("SIGTERM", () => process.exit(1));
const [file = "", name = "", quick] = process.argv.slice(2);
process.send?.(await answer(), undefined, undefined, () => process.exit());

async function answer(): Promise<Answer> {
  const options: ScenarioOptions = {
    quick: quick === "--quick",
    log: (line) => console.log(`  ${line}`),
  };
  try {
    const module = (await import(`./${file}.ts`)) as Readonly<Record<string, Scenario | undefined>>;
    const scenario = module[name];
    if (scenario === undefined) {
      return { failed: `${file}.ts exports no function ${name}` };
    }
    return { figures: await scenario(options) };
  } catch (error) {
    if (error instanceof MissingService) {
      return { missing: error.message };
    }
    console.error(error);
    return { failed: String(error) };
  }
}
