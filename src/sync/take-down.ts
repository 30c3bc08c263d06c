import type { Logger } from "pino";

/**
 * Ends the parts of something in reverse order of their start. A part that fails to end never keeps the others from
 * ending.
 */
export class TakeDown {
  readonly #steps: (() => Promise<void> | void)[] = [];

  /** Registers the function that ends a part that was started. */
  push(step: () => Promise<void> | void): void {
    this.#steps.push(step);
  }

  /** Ends everything. Each part ends after the one that was started behind it. Failures are logged. */
  async run(log: Logger): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step();
      } catch (error) {
        log.warn({ err: error }, "a part did not end cleanly");
      }
    }
  }
}
