import { describe, it } from "vitest";
import { describeDurableSessionStore } from "../../src/testing/store-contract/index.ts";
import { describePostgres } from "./describe-postgres.ts";
import { createPostgres } from "./postgres-fixture.ts";
import { describePruning } from "./pruning.ts";

describePostgres("feat:O3 PostgreSQL", (server) => {
  describeDurableSessionStore({ describe, it }, "postgresStore", () => createPostgres(server()));
  describePruning("postgresStore", () => createPostgres(server()));
});
