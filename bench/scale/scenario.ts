/** How a scenario is run. */
export interface ScenarioOptions {
  /** Whether to measure for a shorter time. The sizes stay the same. */
  readonly quick: boolean;
  /** Prints a line for people. */
  readonly log: (line: string) => void;
}

/** What a scenario measured, by the keys of the last line of `npm run bench:scale`. */
export type Figures = Record<string, number>;

/** One file of this folder exports one of these. It runs in a process of its own. */
export type Scenario = (options: ScenarioOptions) => Promise<Figures>;

/** A service that a scenario needs is not installed. The message says how to get it. */
export class MissingService extends Error {
  override readonly name = "MissingService";
}

/**
 * @param missing why the service cannot be started; see `postgresMissing` and `redisMissing`
 * @throws MissingService unless it is undefined
 */
export function requireService(missing: string | undefined): void {
  if (missing !== undefined) {
    throw new MissingService(missing);
  }
}
