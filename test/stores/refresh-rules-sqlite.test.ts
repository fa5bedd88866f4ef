import { describe } from "vitest";
import { describeRefreshRules } from "./refresh-rules.ts";
import { sharedSqlite } from "./shared-stores.ts";

describe("feat:O1, feat:O4 four servers on one SQLite file", () => {
  describeRefreshRules(sharedSqlite);
});
