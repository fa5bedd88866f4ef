import { describe, expect, it } from "vitest";
import { memoryStore } from "../../src/stores/memory.ts";
import { describeSessionStore } from "../../src/testing/store-contract.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { stillClock } from "./still-clock.ts";

async function create() {
  const store = memoryStore();
  return { store, clock: stillClock(), close: () => store.close() };
}

describeSessionStore({ describe, it }, "memoryStore", create);
