import type { InternalCache } from "../../cache/internal.js";
import { formatAddress } from "../../flow/address.js";
import type { DecodedFlow } from "../../flow/record.js";
import {
  AF_INET,
  HAS_TIMEOUT,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_SRC,
  W_REPLY_DST,
  W_REPLY_SRC,
  W_TIMEOUT,
} from "../../flow/record.js";
import { familyOf } from "../../flow/record-fields.js";

/** Lists this kernel's table: src/ctnetlink/request-socket.ts. */
export type ListKernel = (visit: (flow: DecodedFlow) => void) => Promise<unknown>;

/** The kernel reports timeouts in whole seconds, so the fall of one may differ from the time passed by this much. */
const ROUNDING_SECONDS = 1;

/** The timeouts of all flows, by slot. Each was read at some time before `atMs`. */
export interface Look {
  readonly atMs: number;
  readonly timeouts: Uint32Array;
}

/**
 * Detects whether this node still carries flows that another node has claimed. Suppose there are two sync groups, and
 * the notify script does not name its group. The primary of one group then claims everything that it has committed. The
 * other node is called to step down, although it still carries its own group. A packet that changes no state causes no
 * event, but it resets the flow's timeout, so the timeouts are compared. Connections of this machine itself prove
 * nothing: every node has some, whatever it carries.
 */
export class PassingTraffic {
  readonly #internal: InternalCache;
  readonly #list: ListKernel;
  readonly #addresses: () => ReadonlySet<string>;

  /**
   * `addresses`: the current addresses of this machine, virtual and broadcast ones included, as inet_ntop prints them.
   */
  constructor(options: { internal: InternalCache; list: ListKernel; addresses: () => ReadonlySet<string> }) {
    this.#internal = options.internal;
    this.#list = options.list;
    this.#addresses = options.addresses;
  }

  /** Reads the timeouts as they are now. `passes` compares them with later ones. */
  async look(): Promise<Look> {
    const { table } = this.#internal;
    const timeouts = new Uint32Array(table.slotsUsed);
    await this.#list(({ words }) => {
      const slot = table.find(words, 0);
      if (slot >= 0 && slot < timeouts.length) timeouts[slot] = words[W_TIMEOUT]!;
    });
    return { atMs: performance.now(), timeouts };
  }

  /**
   * True when there is a forwarded flow that another node has claimed and that either is translated to an address of
   * this machine, or has seen a packet here since `before`. A packet shows in a timeout that did not fall as time passed.
   */
  async passes(before: Look): Promise<boolean> {
    const addresses = this.#addresses();
    const { table } = this.#internal;
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      if (!this.#isClaimed(slot) || this.#isLocal(addresses, slot)) continue;
      if (isTranslatedTo(addresses, table.slab(slot), table.base(slot))) return true;
    }
    const atMs = performance.now();
    const leastSeconds = (atMs - before.atMs) / 1000 - ROUNDING_SECONDS;
    let passes = false;
    await this.#list(({ words }) => {
      if (passes || (words[W_HAS]! & HAS_TIMEOUT) === 0) return;
      const slot = table.find(words, 0);
      if (slot < 0 || !this.#isClaimed(slot) || this.#isLocal(addresses, slot)) return;
      const earlier = before.timeouts[slot] ?? 0;
      passes = earlier > 0 && earlier - words[W_TIMEOUT]! < leastSeconds;
    });
    return passes;
  }

  /** True for a flow that begins or ends at this machine, or that goes to many at once. */
  #isLocal(addresses: ReadonlySet<string>, slot: number): boolean {
    const { table } = this.#internal;
    const [words, base] = [table.slab(slot), table.base(slot)];
    const family = familyOf(words, base);
    if (isMulticast(words[base + W_ORIG_DST]!, family)) return true;
    // The two real ends: what a translation shows to the other end is not one.
    return [W_ORIG_SRC, W_REPLY_SRC].some((end) => addresses.has(formatAddress(words, base + end, family)));
  }

  #isClaimed(slot: number): boolean {
    return this.#internal.isFlow(slot) && this.#internal.isSuperseded(slot);
  }
}

/** By the first word of an address: 224.0.0.0/4 and 255.255.255.255; ff00::/8. */
function isMulticast(first: number, family: number): boolean {
  return family === AF_INET ? first >>> 28 === 0xe || first === 0xffff_ffff : first >>> 24 === 0xff;
}

function isTranslatedTo(addresses: ReadonlySet<string>, words: Uint32Array, base: number): boolean {
  const family = familyOf(words, base);
  const to = (there: number, back: number): boolean => {
    for (let i = 0; i < 4; i++) {
      if (words[base + there + i] !== words[base + back + i]) {
        return addresses.has(formatAddress(words, base + there, family));
      }
    }
    return false;
  };
  return to(W_REPLY_DST, W_ORIG_SRC) || to(W_ORIG_DST, W_REPLY_SRC);
}
