/** So long may work that comes in pieces keep the event loop: a collection or a wait for a core may come on top of it. */
const TURN_MS = 4;

/** Splits work that may be long into turns of the event loop, so that events, requests and heartbeats come in between. */
export class Turn {
  /** 0 while nothing was done in this turn. */
  #endMs = 0;

  /** True when it is time to `yield`; to be asked between two pieces of the work. */
  get over(): boolean {
    const nowMs = performance.now();
    if (this.#endMs > 0) return nowMs >= this.#endMs;
    this.#endMs = nowMs + TURN_MS;
    // Work that comes bit by bit, as promises resolve, does not tell by itself whether the event loop has turned since.
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
