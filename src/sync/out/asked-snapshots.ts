import type { Logger } from "pino";
import type { Journal } from "./journal.js";

/** How often, and how much of the stream, peers may make a node write snapshots. */
export interface AskedLimits {
  /** Least time from the end of one to the beginning of the next. */
  readonly pauseMs: number;
  /** So much of them may be written at once, and as much again in each day. Above 0 and finite. */
  readonly bytesADay: number;
}

const DAY_MS = 86_400_000;
/** A peer that really misses something gets it after this time, however large the table is. */
const WAIT_MS_MAX = 3_600_000;

/**
 * Writes the snapshots that peers ask for. A request has no content and may come from anybody who reaches the broker,
 * and each snapshot pushes as much of the history out of the stream. So requests share a snapshot, and what exceeds the
 * limits waits. A node whose peers ask only when they missed something never gets there.
 */
export class AskedSnapshots {
  readonly #journal: Pick<Journal, "writeSnapshot" | "counters">;
  readonly #limits: AskedLimits;
  readonly #nowMs: () => number;
  readonly #signal: AbortSignal;
  readonly #log: Logger;
  /** Bytes that may be written now; below 0 after a snapshot that was larger. */
  #bytes: number;
  #bytesAtMs: number;
  #endedMs = Number.NEGATIVE_INFINITY;
  #running = false;
  #timer: NodeJS.Timeout | null = null;

  constructor(options: {
    journal: Pick<Journal, "writeSnapshot" | "counters">;
    limits: AskedLimits;
    /** Milliseconds of a monotonic clock. */
    nowMs: () => number;
    signal: AbortSignal;
    log: Logger;
  }) {
    this.#journal = options.journal;
    this.#limits = options.limits;
    this.#nowMs = options.nowMs;
    this.#signal = options.signal;
    this.#log = options.log;
    this.#bytes = options.limits.bytesADay;
    this.#bytesAtMs = options.nowMs();
    options.signal.addEventListener("abort", () => this.#clear(), { once: true });
  }

  /** A peer asks for a snapshot. The one that follows is for all who ask until it begins. */
  ask(): void {
    this.#journal.counters.snapshotsAsked++;
    if (this.#running || this.#timer !== null || this.#signal.aborted) return;
    const waitMs = this.#waitMs();
    if (waitMs === 0) {
      void this.#write();
      return;
    }
    this.#journal.counters.snapshotsPostponed++;
    if (waitMs > this.#limits.pauseMs) {
      const text = "peers have asked for so many snapshots that the next one has to wait, for the history's sake";
      this.#log.warn({ event: "snapshot.asked-too-often", waitSeconds: Math.ceil(waitMs / 1000) }, text);
    }
    this.#timer = setTimeout(() => {
      this.#timer = null;
      void this.#write();
    }, waitMs);
  }

  /** Until the next snapshot may begin; 0: now. */
  #waitMs(): number {
    const { pauseMs, bytesADay } = this.#limits;
    const nowMs = this.#nowMs();
    const earned = ((nowMs - this.#bytesAtMs) / DAY_MS) * bytesADay;
    this.#bytes = Math.min(bytesADay, this.#bytes + earned);
    this.#bytesAtMs = nowMs;
    const untilPaid = this.#bytes >= 0 ? 0 : Math.min(WAIT_MS_MAX, (-this.#bytes / bytesADay) * DAY_MS);
    return Math.ceil(Math.max(0, this.#endedMs + pauseMs - nowMs, untilPaid));
  }

  async #write(): Promise<void> {
    this.#running = true;
    const { counters } = this.#journal;
    const before = counters.snapshotBytes;
    try {
      await this.#journal.writeSnapshot(this.#signal);
    } finally {
      this.#bytes -= counters.snapshotBytes - before;
      this.#endedMs = this.#nowMs();
      this.#running = false;
    }
  }

  #clear(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
