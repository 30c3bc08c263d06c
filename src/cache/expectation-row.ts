import type { Expectation } from "../flow/expectation.js";

/** Limit of expectations in each table. A few hundred are many. Those above the limit are counted and left out. */
export const EXPECTATIONS_MAX = 4096;

/** One expectation in a table. */
export interface ExpectationRow {
  readonly expectation: Expectation;
  /** Seconds since the Unix epoch: when it was first seen, and when its timeout had the value that the row holds. */
  readonly createdSeconds: number;
  readonly updatedSeconds: number;
}

/** Seconds left until the expectation expires; 0 or less when it has expired. */
export function secondsLeft(row: ExpectationRow, nowSeconds: number): number {
  return row.expectation.timeoutSeconds - Math.max(0, nowSeconds - row.updatedSeconds);
}
