// vi.waitFor gives up after one second, and no option changes that for all tests.
import { vi } from "vitest";

const { waitFor } = vi;
const limits = { timeout: 120_000, interval: 10 };
vi.waitFor = (callback, options) =>
  waitFor(callback, {
    ...limits,
    ...(typeof options === "number" ? { timeout: options } : options),
  });
