import type { ExternalCache, ExternalListener } from "../../cache/external.js";
import { FlowTable } from "../../flow/flow-table.js";
import { repliesDiffer } from "../../flow/record-fields.js";

/** Limit of flows that end during a commit and are remembered. */
const ENDS_MAX = 1 << 16;

/**
 * Remembers the peers' flows that end while a commit runs. The commit may have copied such a flow before it ended, and
 * write it into the kernel afterwards. Its entry is then not this node's own.
 */
export class CommitEnds implements ExternalListener {
  readonly #external: ExternalCache;
  /** Null until a flow ends during a commit. */
  #ends: FlowTable | null = null;

  constructor(external: ExternalCache) {
    this.#external = external;
  }

  /** A commit begins. */
  begin(): void {
    this.#ends = null;
    this.#external.listen(this);
  }

  /** The entries of the commit have been read back. */
  end(): void {
    this.#ends = null;
    this.#external.listen(null);
  }

  /**
   * The birth of a flow (a record at base 0) that a peer has ended since the commit began; -1 for every other flow, also
   * for one of that tuple with another translation, which packets have begun here. If packets pass its entry here, the
   * connection continues.
   */
  birth(words: Uint32Array): number {
    const ends = this.#ends;
    const at = ends === null || ends.size === 0 ? -1 : ends.find(words, 0);
    if (ends === null || at < 0) return -1;
    return repliesDiffer(ends.slab(at), ends.base(at), words, 0) ? -1 : ends.birth(at);
  }

  ended(slot: number): void {
    const { table } = this.#external;
    const [slab, base] = [table.slab(slot), table.base(slot)];
    this.#ends ??= new FlowTable(ENDS_MAX);
    if (this.#ends.find(slab, base) >= 0) return;
    const at = this.#ends.insert(slab, base);
    if (at >= 0) this.#ends.setBirth(at, table.birth(slot));
  }

  /** Another connection of that tuple is a flow of its own. */
  changed(slot: number): void {
    const ends = this.#ends;
    if (ends === null || ends.size === 0) return;
    const { table } = this.#external;
    const at = ends.find(table.slab(slot), table.base(slot));
    if (at < 0) return;
    ends.unlink(at);
    ends.free(at);
  }

  retired(): void {}

  forgotten(): void {}
}
