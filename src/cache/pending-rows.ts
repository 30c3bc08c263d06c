/** Slots of rows that peers have yet to be told of, oldest first. Bounded by the slots of their table: a row is queued once. */
export class PendingRows {
  #slots = new Uint32Array(1024);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** The slot at `index`. */
  at(index: number): number {
    return this.#slots[index]!;
  }

  push(slot: number): void {
    if (this.#count === this.#slots.length) {
      const larger = new Uint32Array(this.#slots.length * 2);
      larger.set(this.#slots);
      this.#slots = larger;
    }
    this.#slots[this.#count++] = slot;
  }

  /** The first `count` go. */
  drop(count: number): void {
    this.#slots.copyWithin(0, count, this.#count);
    this.#count -= count;
  }
}
