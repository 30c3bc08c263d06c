import type { Logger } from "pino";

/** What takes the parts of something down again, last first. */
export class TakeDown {
  readonly #steps: (() => Promise<void> | void)[] = [];

  /** A part was started: this ends it. */
  push(step: () => Promise<void> | void): void {
    this.#steps.push(step);
  }

  /** Takes everything down, each part when the one after it is down. What fails is logged, and does not keep the others up. */
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
