/** Pages of 16 KiB: each array costs the collector some work, whatever its size. */
const PAGE_BITS = 12;
const PAGE_MASK = (1 << PAGE_BITS) - 1;
/** 16 million flow ids where they are dense, as all nodes number them. In all 64 MiB, also for ids that lie far apart. */
const PAGES_MAX = 4096;

/**
 * Maps a peer's flow ids to slots, in pages that are allocated when first used. Flow ids are the peer's own slot
 * numbers, so they are dense. An id above FLOW_ID_MAX comes from no table of ours and is ignored.
 */
export class SlotMap {
  /** Entries are slot + 1; 0 is none. */
  #pages: (Uint32Array | undefined)[] = [];
  #size = 0;
  #pagesUsed = 0;

  /** Flow ids that have a slot. */
  get size(): number {
    return this.#size;
  }

  /** Every flow id that has a slot is below this. */
  get length(): number {
    return this.#pages.length << PAGE_BITS;
  }

  /** The slot of a flow id; -1 for none. */
  get(flowId: number): number {
    const page = this.#pages[flowId >>> PAGE_BITS];
    return page === undefined ? -1 : page[flowId & PAGE_MASK]! - 1;
  }

  /** False, and nothing is kept, when there is no room for a flow id so far from the others. */
  set(flowId: number, slot: number): boolean {
    if (flowId > FLOW_ID_MAX) return false;
    const at = flowId >>> PAGE_BITS;
    while (this.#pages.length <= at) this.#pages.push(undefined);
    let page = this.#pages[at];
    if (page === undefined) {
      if (this.#pagesUsed >= PAGES_MAX) return false;
      this.#pagesUsed++;
      page = new Uint32Array(1 << PAGE_BITS);
      this.#pages[at] = page;
    }
    if (page[flowId & PAGE_MASK] === 0) this.#size++;
    page[flowId & PAGE_MASK] = slot + 1;
    return true;
  }

  delete(flowId: number): void {
    const page = this.#pages[flowId >>> PAGE_BITS];
    if (page === undefined || page[flowId & PAGE_MASK] === 0) return;
    page[flowId & PAGE_MASK] = 0;
    this.#size--;
  }

  /**
   * Visits the flow ids of [from, to) that stand for a slot, in ascending order; what it costs depends on how many there
   * are, not on how wide the range is. `visit` may delete the flow id that it is given.
   */
  visitRange(from: number, to: number, visit: (flowId: number, slot: number) => void): void {
    const end = Math.min(to, this.length);
    for (let at = from >>> PAGE_BITS; at < this.#pages.length && at << PAGE_BITS < end; at++) {
      const page = this.#pages[at];
      if (page === undefined) continue;
      const first = at << PAGE_BITS;
      const last = Math.min(end, first + page.length);
      for (let flowId = Math.max(from, first); flowId < last; flowId++) {
        const entry = page[flowId & PAGE_MASK]!;
        if (entry !== 0) visit(flowId, entry - 1);
      }
    }
  }

  clear(): void {
    this.#pages = [];
    this.#pagesUsed = 0;
    this.#size = 0;
  }
}

/** 64 million flows on one node. */
export const FLOW_ID_MAX = 2 ** 26 - 1;
