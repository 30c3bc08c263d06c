/** Mode `inject`: random histories, as test/support/sim/inject-history.ts has them. */
import { describe, it } from "node:test";
import { AheadHistory, InjectHistory } from "../support/sim/inject-history.js";
import { seedsOf } from "../support/sim/seeds.js";

const SEEDS = 60;
const AHEAD_SEEDS = 40;
/** As FAILED, with `commit.ahead`. */
const AHEAD_FAILED = [114];
/** Seeds that failed once. */
const FAILED = [
  66, 108, 140, 154, 163, 253, 282, 329, 348, 353, 356, 367, 399, 401, 419, 448, 466, 497, 505, 509, 512, 513, 570, 577,
  623, 627, 693, 704, 739, 744, 752, 753, 764, 813, 836, 952, 980, 1044, 1107, 1344, 1400, 1412, 1488, 1497, 1552, 1588,
  1646, 1657, 1694, 1723, 1799, 1846, 1881, 1882, 1943, 2078, 2171, 2205, 2307, 2405, 2646, 3458, 3810,
];

describe("peers' flows injected at once, kernels, links and broker simulated", () => {
  for (const seed of seedsOf(SEEDS, FAILED)) {
    it(`every kernel has the same, and each flow one owner (seed ${seed})`, async () => {
      await new InjectHistory(seed).run();
    });
  }
});

describe("peers' flows injected once they have lived for a while, or at a takeover", () => {
  for (const seed of seedsOf(AHEAD_SEEDS, AHEAD_FAILED)) {
    it(`every kernel has the same, and each flow one owner (seed ${seed})`, async () => {
      await new AheadHistory(seed).run();
    });
  }
});
