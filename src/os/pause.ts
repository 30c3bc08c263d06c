/**
 * Waits `ms` milliseconds. Resolves early, and never rejects, when `signal` is aborted: the caller looks at its signal
 * afterwards. With `ref: false` the wait alone does not keep the process running.
 */
export function pause(ms: number, signal?: AbortSignal, { ref = true }: { ref?: boolean } = {}): Promise<void> {
  if (signal?.aborted === true) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    if (!ref) timer.unref();
    signal?.addEventListener("abort", done, { once: true });
  });
}
