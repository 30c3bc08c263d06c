/**
 * The kernel refuses a flow whose reply tuple another entry holds. Packets of the other side that reach this node after
 * the move of the address, and before the commit, make such an entry: it has the flow's reply tuple as its original one
 * and never sees a reply. A connection that chose the same translated port meanwhile makes one too.
 */
import { RequestBatch } from "../../ctnetlink/encode.js";
import {
  HAS_ID,
  HAS_STATUS,
  RECORD_WORDS,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_ZONE,
} from "../../flow/record.js";
import { zoneOrigOf, zoneReplyOf, zoneWord } from "../../flow/record-fields.js";
import { IPS_SEEN_REPLY } from "../../flow/status.js";
import type { CommitKernel } from "../ports/kernel.js";

/** Limit of entries that are looked up in one commit, one after the other. */
const LOOKUPS_MAX = 4096;
/** Words of an address. */
const ADDRESS_WORDS = 4;

/** Removes the entries that keep a commit's flows out of the kernel, if nobody has answered them yet. */
export class ReplyHolders {
  readonly #kernel: CommitKernel;
  readonly #probe = new Uint32Array(RECORD_WORDS);
  #lookups = 0;

  constructor(kernel: CommitKernel) {
    this.#kernel = kernel;
  }

  /**
   * Removes the entry that holds the reply tuple of the flow at `words[base]`. False if it stays: it has seen a reply,
   * or too many were looked up.
   */
  async remove(words: Uint32Array, base: number): Promise<boolean> {
    if (this.#lookups++ >= LOOKUPS_MAX) return false;
    const probe = this.#probe;
    probe[W_PROTO] = words[base + W_PROTO]!;
    probe[W_ZONE] = zoneWord(zoneReplyOf(words, base), zoneOrigOf(words, base));
    probe[W_ORIG_L4] = words[base + W_REPLY_L4]!;
    for (let i = 0; i < ADDRESS_WORDS; i++) {
      probe[W_ORIG_SRC + i] = words[base + W_REPLY_SRC + i]!;
      probe[W_ORIG_DST + i] = words[base + W_REPLY_DST + i]!;
    }
    const holder = await this.#kernel.get(probe, 0);
    if (holder === null) return true;
    const has = HAS_STATUS | HAS_ID;
    if ((holder.words[W_HAS]! & has) !== has || (holder.words[W_STATUS]! & IPS_SEEN_REPLY) !== 0) return false;
    const batch = new RequestBatch(0);
    batch.delete(holder.words, 0, true);
    const { errors } = await this.#kernel.send(batch);
    return errors.length === 0;
  }
}
