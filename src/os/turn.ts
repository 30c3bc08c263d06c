/** How long work in pieces may hold the event loop. A collection or a wait for a core may come on top. */
const TURN_MS = 4;

/**
 * Splits work that may be long into turns of the event loop, so that events, requests and heartbeats come in between.
 */
export class Turn {
  /** 0 while nothing was done in this turn. */
  #endMs = 0;

  /** True when it is time to `yield`. Ask it between two pieces of the work. */
  get over(): boolean {
    const nowMs = performance.now();
    if (this.#endMs > 0) return nowMs >= this.#endMs;
    this.#endMs = nowMs + TURN_MS;
    // Work that advances as promises resolve cannot see by itself whether the event loop has turned meanwhile.
    setImmediate(() => {
      this.#endMs = 0;
    });
    return false;
  }

  /** Lets the event loop turn once. */
  yield(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }
}
