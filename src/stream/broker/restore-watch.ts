/**
 * The first line of a crash of a Go program, on its standard error. A server that got no more memory, within its bound or
 * from the machine, says nothing of the stream that it was reading.
 */
const PANIC = /^(panic|fatal error): (?!.*(?:memory|map pages|newosproc))/;
/** A server reads its streams one after the other. Their names are checked by the configuration of the node. */
const RESTORING = /Starting restore for stream '[^ ']+ > ([A-Za-z0-9_-]+)'/;
const RESTORED = /Restored .* for stream '[^ ']+ > /;

/**
 * Follows what a nats-server prints while it reads its store, and names the stream that it cannot survive. nats-server
 * 2.9.10 trusts the length of a stored message: another bit in it makes the server panic, at each start again.
 */
export class RestoreWatch {
  #restoring: string | null = null;
  #panicked = false;

  /** Takes the next line of a server. */
  take(line: string): void {
    if (PANIC.test(line)) this.#panicked = true;
    const restoring = RESTORING.exec(line)?.[1];
    if (restoring !== undefined) this.#restoring = restoring;
    else if (RESTORED.test(line) && !this.#panicked) this.#restoring = null;
  }

  /** True when the server panicked. */
  get panicked(): boolean {
    return this.#panicked;
  }

  /** The stream that was being read when the server panicked; null when it did not, or was reading none. */
  get fatalStream(): string | null {
    return this.#panicked ? this.#restoring : null;
  }
}
