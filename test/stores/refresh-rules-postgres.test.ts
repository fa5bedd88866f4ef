import { describePostgres } from "./describe-postgres.ts";
import { describeRefreshRules } from "./refresh-rules.ts";
import { sharedPostgres } from "./shared-stores.ts";

describePostgres("feat:O4 four servers on one PostgreSQL", (server) =>
  describeRefreshRules(() => sharedPostgres(server())),
);
