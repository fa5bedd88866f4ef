import { expect, it } from "vitest";
import { missingPackages } from "../../tools/check-locks.ts";

it("reports an optional package of one platform that the lock file lacks", () => {
  const lock = {
    packages: {
      "": {},
      "node_modules/tool": {
        optionalDependencies: { "@tool/linux": "1.0.0", "@tool/mac": "1.0.0" },
      },
      "node_modules/@tool/linux": {},
    },
  };
  expect(missingPackages(lock)).toEqual(["tool needs @tool/mac@1.0.0"]);
});
