import type { Expectation } from "../flow/expectation.js";

/** Expectations of each table at the most: some hundreds are many, and what is beyond is counted and left out. */
export const EXPECTATIONS_MAX = 4096;

/** One expectation in a table. */
export interface ExpectationRow {
  readonly expectation: Expectation;
  /** Seconds since the Unix epoch: when it was first seen, and when its timeout was as it stands in it. */
  readonly createdSeconds: number;
  readonly updatedSeconds: number;
}

/** Seconds that are left of the time that it is waited for; 0 or less when it is over. */
export function secondsLeft(row: ExpectationRow, nowSeconds: number): number {
  return row.expectation.timeoutSeconds - Math.max(0, nowSeconds - row.updatedSeconds);
}
