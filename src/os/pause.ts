import { setTimeout as delay } from "node:timers/promises";

/**
 * Waits `ms` milliseconds. Resolves early, and never rejects, when `signal` is aborted: the caller looks at its signal
 * afterwards. With `ref: false` the wait alone does not keep the process running.
 */
export async function pause(ms: number, signal?: AbortSignal, { ref = true }: { ref?: boolean } = {}): Promise<void> {
  await delay(ms, undefined, signal === undefined ? { ref } : { ref, signal }).catch(() => undefined);
}
