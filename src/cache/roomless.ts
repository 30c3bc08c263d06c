/** More are not told apart: the number is then the least that there are. */
const KEYS_MAX = 65_536;

/**
 * Counts what the kernel has and a cache has no room for: each flow (or expectation) once, by a key, however many events
 * report it. Pure state.
 */
export class Roomless<Key> {
  #keys = new Set<Key>();
  /** What was known when the running dump began; null while none runs. */
  #before: Set<Key> | null = null;

  get count(): number {
    return Math.max(this.#keys.size, this.#before?.size ?? 0);
  }

  /** It found no room. */
  add(key: Key): void {
    if (this.#keys.size < KEYS_MAX) this.#keys.add(key);
  }

  /** It found room, or has ended. */
  delete(key: Key): void {
    this.#keys.delete(key);
    this.#before?.delete(key);
  }

  /** A dump begins: what is still there will be added again. */
  beginDump(): void {
    if (this.#before !== null) this.abandonDump();
    this.#before = this.#keys;
    this.#keys = new Set();
  }

  /** The dump was complete: what it did not list is gone. */
  endDump(): void {
    this.#before = null;
  }

  /** The dump failed half way. */
  abandonDump(): void {
    for (const key of this.#before ?? []) this.add(key);
    this.#before = null;
  }
}
