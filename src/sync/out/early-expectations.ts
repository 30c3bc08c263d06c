import { type Expectation, expectationKey } from "../../flow/expectation.js";
import type { DecodedFlow } from "../../flow/record.js";
import { sameOriginalTuple } from "./master.js";

/** Most flows are nobody's master: for those nothing is allocated. */
const NONE: readonly Expectation[] = [];

/** Expectations that wait at the most; then the oldest goes. */
const WAITING_MAX = 256;

/**
 * What a flow's first packet makes a helper expect (SIP and TFTP over UDP) the kernel tells before the flow itself. It waits here
 * for its master; that of a master which the filter does not keep makes room for others.
 */
export class EarlyExpectations {
  readonly #waiting: Expectation[] = [];

  /** Nothing is known of its master yet. */
  hold(expectation: Expectation): void {
    if (this.#waiting.length >= WAITING_MAX) this.#waiting.shift();
    this.#waiting.push(expectation);
  }

  /** It has ended before its master came. */
  drop(ended: Expectation): void {
    const key = expectationKey(ended);
    const at = this.#waiting.findIndex((waiting) => expectationKey(waiting) === key);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  /** Those that a new flow is the master of, oldest first; they wait no longer. */
  takeOf({ words, rare }: DecodedFlow): readonly Expectation[] {
    if (this.#waiting.length === 0 || rare?.helper === undefined) return NONE;
    const taken = this.#waiting.filter(({ master }) => sameOriginalTuple(words, 0, master));
    for (const expectation of taken) this.#waiting.splice(this.#waiting.indexOf(expectation), 1);
    return taken;
  }
}
