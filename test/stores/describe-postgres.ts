import { afterAll, beforeAll, describe } from "vitest";
import { postgresMissing, startPostgres, type TestPostgres } from "../servers/postgres.ts";

const skipped = postgresMissing === undefined ? "" : ` (skipped: ${postgresMissing})`;

/** A suite with a server of its own. Without PostgreSQL it is skipped, and its name says why. */
export function describePostgres(name: string, body: (server: () => TestPostgres) => void): void {
  describe.skipIf(postgresMissing)(`${name}${skipped}`, () => {
    let server: TestPostgres | undefined;
    beforeAll(async () => {
      server = await startPostgres();
    });
    afterAll(() => server?.stop());
    body(() => server as TestPostgres);
  });
}
