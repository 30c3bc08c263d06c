const PAGE_BITS = 12;
const PAGE_MASK = (1 << PAGE_BITS) - 1;

/**
 * Maps a peer's flow ids to slots, in pages that are allocated when first used. Flow ids are the peer's own slot
 * numbers, so they are dense. An id above FLOW_ID_MAX comes from no table of ours and is ignored.
 */
export class SlotMap {
  /** Entries are slot + 1; 0 is none. */
  #pages: (Uint32Array | undefined)[] = [];
  #size = 0;

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

  set(flowId: number, slot: number): void {
    if (flowId > FLOW_ID_MAX) return;
    const at = flowId >>> PAGE_BITS;
    while (this.#pages.length <= at) this.#pages.push(undefined);
    let page = this.#pages[at];
    if (page === undefined) {
      page = new Uint32Array(1 << PAGE_BITS);
      this.#pages[at] = page;
    }
    if (page[flowId & PAGE_MASK] === 0) this.#size++;
    page[flowId & PAGE_MASK] = slot + 1;
  }

  delete(flowId: number): void {
    const page = this.#pages[flowId >>> PAGE_BITS];
    if (page === undefined || page[flowId & PAGE_MASK] === 0) return;
    page[flowId & PAGE_MASK] = 0;
    this.#size--;
  }

  clear(): void {
    this.#pages = [];
    this.#size = 0;
  }
}

/** 64 million flows on one node. */
export const FLOW_ID_MAX = 2 ** 26 - 1;
