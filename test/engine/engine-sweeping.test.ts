import { describe, expect, it, onTestFinished } from "vitest";
import { startEngine } from "../helpers/engine.ts";
import { pass, settled } from "../helpers/pass.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const second = 1_000;
const minute = 60 * second;

describe("the sweeper of an engine", () => {
  it("feat:O5 removes ended sessions and leaves live ones alone", async () => {
    const engine = await startEngine({ lifetimes: { idle: "2d", absolute: "90d" } });
    onTestFinished(() => engine.close());
    const gone = await engine.signIn();
    const { id, ...signedIn } = await engine.signIn();
    let { token } = signedIn;
    for (let day = 0; day < 40; day++) {
      engine.clock.advance("1d");
      await settled();
      await pass(engine.clock, 2 * minute, 10 * second);
      const { refreshToken } = await engine.exchange(token);
      token = refreshToken ?? token;
      const kept = (await engine.load(gone.id)).record;
      expect(kept === undefined).toBe(day >= 2);
    }
    expect((await engine.load(id)).record?.revokedAt).toBeNull();
  });

  it("feat:O6 removes signing keys that no living token was signed with", async () => {
    const engine = await startEngine();
    onTestFinished(() => engine.close());
    const { token } = await engine.signIn();
    engine.clock.advance("13d");
    await engine.exchange(token);
    engine.clock.advance("13d");
    await engine.exchange(token);
    engine.clock.advance("5d");
    await engine.exchange(token);
    await engine.settled();
    const slots = async () => (await engine.store.signingKeys()).keys.map(({ slot }) => slot);
    expect(await slots()).toEqual([0, 1]);
    await pass(engine.clock, 70 * minute, 10 * second);
    expect(await slots()).toEqual([0, 1]);
    await pass(engine.clock, 30 * minute, 10 * second);
    expect(await slots()).toEqual([1]);
    expect(await engine.publicKeys()).toHaveLength(1);
  });

  it("may fail while calls succeed, and stops when the engine closes", async () => {
    const { store, failing, take } = watchedStore();
    const engine = await startEngine({ store });
    failing.add("lease");
    await pass(engine.clock, 3 * minute);
    const { token } = await engine.signIn();
    await engine.exchange(token);
    expect(take()).toContain("lease");
    await engine.close();
    take();
    await pass(engine.clock, 10 * minute);
    expect(take()).toEqual([]);
  });
});
