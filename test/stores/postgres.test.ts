import { afterAll, beforeAll, describe, it } from "vitest";
import { describeDurableSessionStore } from "../../src/testing/store-contract.ts";
import { postgresMissing, startPostgres, type TestPostgres } from "../helpers/postgres.ts";
import { createPostgres } from "./postgres-fixture.ts";
import { describePruning } from "./pruning.ts";

describe.skipIf(postgresMissing)(`postgresStore ${postgresMissing ?? ""}`, () => {
  let server: TestPostgres;
  beforeAll(async () => {
    server = await startPostgres();
  }, 60_000);
  afterAll(() => server.stop());

  describeDurableSessionStore({ describe, it }, "postgresStore", () => createPostgres(server));
  describePruning("postgresStore", () => createPostgres(server));
});
