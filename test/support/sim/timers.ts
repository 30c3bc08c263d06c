/** Timers of a simulation: they fire when the simulation lets time pass, in the order in which they are due. */

interface Timer {
  readonly work: () => void;
  /** Milliseconds from one call to the next; null: there is only one. */
  readonly everyMs: number | null;
  dueMs: number;
  isSet: boolean;
  unref(): Timer;
}

const REAL = { setTimeout, setInterval, clearTimeout, clearInterval };
const realNow = performance.now;

/** Replaces the process's timers and its monotonic clock, until `restore`. */
export class SimTimers {
  #nowMs = 0;
  /** By their time, and those that are due together by the order in which they were set. */
  readonly #timers: Timer[] = [];

  constructor() {
    const set =
      (repeats: boolean) =>
      (work: () => void, ms = 0): Timer =>
        this.#add(work, Math.max(ms, repeats ? 1 : 0), repeats);
    const clear = (timer?: Timer | null): void => {
      if (timer !== undefined && timer !== null) timer.isSet = false;
    };
    const timers = {
      setTimeout: set(false),
      setInterval: set(true),
      clearTimeout: clear,
      clearInterval: clear,
    };
    Object.assign(globalThis, timers);
    performance.now = () => this.#nowMs;
  }

  /** Milliseconds since the beginning. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** Lets time pass. Each timer fires at its time. */
  pass(ms: number): void {
    const endMs = this.#nowMs + ms;
    for (let next = this.#timers[0]; next !== undefined && next.dueMs <= endMs; next = this.#timers[0]) {
      this.#timers.shift();
      if (!next.isSet) continue;
      this.#nowMs = Math.max(this.#nowMs, next.dueMs);
      if (next.everyMs !== null) this.#insert(next, next.dueMs + next.everyMs);
      next.work();
    }
    this.#nowMs = endMs;
  }

  /** The process has its own timers and clock again. */
  restore(): void {
    Object.assign(globalThis, REAL);
    performance.now = realNow;
  }

  #add(work: () => void, ms: number, repeats: boolean): Timer {
    const timer: Timer = { work, everyMs: repeats ? ms : null, dueMs: 0, isSet: true, unref: () => timer };
    this.#insert(timer, this.#nowMs + ms);
    return timer;
  }

  #insert(timer: Timer, dueMs: number): void {
    timer.dueMs = dueMs;
    let at = this.#timers.length;
    while (at > 0 && this.#timers[at - 1]!.dueMs > dueMs) at--;
    this.#timers.splice(at, 0, timer);
  }
}
