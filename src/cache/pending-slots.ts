/** The slots of pending rows, oldest first. A row is in the list once, so the slots of the table bound it. */
export class PendingSlots {
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

  /** Removes the first `count` slots. */
  drop(count: number): void {
    this.#slots.copyWithin(0, count, this.#count);
    this.#count -= count;
  }
}
