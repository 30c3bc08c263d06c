/** Mode `cache`: random histories, as test/support/sim/cache-history.ts has them. */
import { describe, it } from "node:test";
import { CacheHistory } from "../support/sim/cache-history.js";
import { seedsOf } from "../support/sim/seeds.js";

const SEEDS = 100;
/** Seeds that failed once. */
const FAILED = [102, 135, 204, 237, 300, 479, 551];

describe("addresses that move and whatever can fail, kernels, links and brokers simulated", () => {
  for (const seed of seedsOf(SEEDS, FAILED)) {
    it(`all nodes agree on each flow, none is lost and none comes back (seed ${seed})`, async () => {
      await new CacheHistory(seed).run();
    });
  }
});
