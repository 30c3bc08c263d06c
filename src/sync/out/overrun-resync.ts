/** Turns that may be spent on reading the event socket empty before the resync. */
const QUEUED_TURNS_MAX = 256;

/**
 * Schedules the comparison with the kernel's table after an overrun. The events that were queued at the overrun are
 * read first, because one of them could revive a flow whose end was dropped. One resync serves all overruns until then.
 */
export class OverrunResync {
  readonly #delayMs: number | null;
  readonly #resync: () => void;
  /** Above 0: an overrun is waiting for its resync. */
  #turnsLeft = 0;
  #timer: NodeJS.Timeout | null = null;

  /** `delayMs`: time from an overrun to the resync; null: no resync. */
  constructor({ delayMs, resync }: { delayMs: number | null; resync: () => void }) {
    this.#delayMs = delayMs;
    this.#resync = resync;
  }

  /** The kernel dropped events. */
  overrun(): void {
    if (this.#delayMs !== null) this.#turnsLeft = QUEUED_TURNS_MAX;
  }

  /** A turn of reading is over. `more`: the socket was not read empty. */
  drained(more: boolean): void {
    if (this.#turnsLeft === 0) return;
    this.#turnsLeft = more ? this.#turnsLeft - 1 : 0;
    if (this.#turnsLeft === 0) this.#begin();
  }

  #begin(): void {
    if (this.#delayMs === 0) {
      this.#resync();
      return;
    }
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#resync();
    }, this.#delayMs ?? 0);
  }

  /** Cancels a resync that is due. */
  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
  }
}
