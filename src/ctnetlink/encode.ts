/**
 * Requests to the kernel's conntrack table, many in one buffer, encoded straight from the records of a table.
 *
 *     create   IPCTNL_MSG_CT_NEW, CREATE | EXCL   TUPLE_ORIG, TUPLE_REPLY, ZONE?, STATUS, TIMEOUT, MARK?, PROTOINFO?, NAT_DST?,
 *                                                 NAT_SRC?, HELP?, TUPLE_MASTER?, SEQ_ADJ_*?, SYNPROXY?, LABELS?
 *     update   IPCTNL_MSG_CT_NEW                  TUPLE_ORIG, ZONE?, STATUS?, TIMEOUT?, MARK, PROTOINFO?, SEQ_ADJ_*?, SYNPROXY?, LABELS?
 *     delete   IPCTNL_MSG_CT_DELETE               TUPLE_ORIG, ZONE?, ID?
 *     get      IPCTNL_MSG_CT_GET                  TUPLE_ORIG, ZONE?
 *     dump     IPCTNL_MSG_CT_GET, DUMP            (nothing)
 *     flush    IPCTNL_MSG_CT_DELETE               (nothing)
 *
 * And to its expectations (NFNL_SUBSYS_CTNETLINK_EXP), encoded in expectation.ts.
 */
import type { Expectation } from "../flow/expectation.js";
import {
  HAS_STATUS,
  type RareAttributes,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_STATUS,
} from "../flow/record.js";
import { familyOf, zoneOrigOf, zoneReplyOf } from "../flow/record-fields.js";
import {
  IPS_ASSURED,
  IPS_CONFIRMED,
  IPS_EXPECTED,
  IPS_FIXED_TIMEOUT,
  IPS_HELPER,
  IPS_SEEN_REPLY,
} from "../flow/status.js";
import { AttributeWriter } from "./attributes.js";
import {
  CTA_ID,
  CTA_MARK,
  CTA_STATUS,
  CTA_TIMEOUT,
  CTA_TUPLE_ORIG,
  CTA_TUPLE_REPLY,
  CTA_ZONE,
  IPCTNL_MSG_CT_DELETE,
  IPCTNL_MSG_CT_GET,
  IPCTNL_MSG_CT_NEW,
  IPCTNL_MSG_EXP_DELETE,
  IPCTNL_MSG_EXP_GET,
  IPCTNL_MSG_EXP_NEW,
  NFNL_SUBSYS_CTNETLINK,
  NFNL_SUBSYS_CTNETLINK_EXP,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  NLM_F_REQUEST,
} from "./constants.js";
import { encodeExpectation, encodeExpectationName, encodeExpectationTimeout } from "./expectation.js";
import { encodeProtoinfo } from "./protoinfo.js";
import { encodeRareForCreate, encodeRareForUpdate } from "./rare-attributes.js";
import { encodeNat, encodeReply, encodeTuple } from "./tuple.js";

/** What the caller decides for each flow. */
export interface EncodeOptions {
  /** CTA_TIMEOUT. The kernel creates nothing without one; with 0 the flow is gone at once. */
  timeoutSeconds: number;
  /** Sets IP_CT_TCP_FLAG_BE_LIBERAL on both directions of a TCP flow, whose windows this kernel has not seen. */
  liberal: boolean;
}

/** Room that every message fits into: all attributes at their longest add up to less than 640 bytes. */
const MESSAGE_BYTES_MAX = 768;

/**
 * The status bits that the kernel lets a request set. It ignores the NAT, SEQ_ADJUST, OFFLOAD, TEMPLATE and UNTRACKED
 * bits, which it works out itself, and answers EBUSY when EXPECTED, CONFIRMED or DYING would change
 * (__nf_ct_change_status): a new flow is CONFIRMED and, until its master is attached after the status, not EXPECTED.
 */
const STATUS_SETTABLE = IPS_SEEN_REPLY | IPS_ASSURED | IPS_FIXED_TIMEOUT | IPS_HELPER;

/**
 * Requests in one buffer that is allocated once. Fill it until a method returns false, send `bytes`, then `reset` it.
 * Request number i of a batch has the sequence number `firstSequence + i`, by which answers and errors are matched.
 */
export class RequestBatch {
  /** How many requests it holds. */
  count = 0;
  readonly #out: AttributeWriter;
  readonly #wordsMax: number;
  #message = 0;

  constructor(bytesMax = 256 * 1024) {
    this.#out = new AttributeWriter(Math.max(bytesMax, MESSAGE_BYTES_MAX));
    this.#wordsMax = this.#out.words.length - MESSAGE_BYTES_MAX / 4;
  }

  /** How many bytes it holds. */
  get length(): number {
    return this.#out.at * 4;
  }

  /** Empties it. */
  reset(): void {
    this.count = 0;
    this.#out.at = 0;
  }

  /**
   * Requests the creation of the flow at `words[base]`, with the record's tuples, NAT and attributes; EEXIST when one
   * of its tuples is taken. False when the batch is full. The kernel accepts no counters, security context or times;
   * labels only where a rule uses some; ENOENT for an unknown master, EOPNOTSUPP for an unknown helper.
   */
  create(words: Uint32Array, base: number, rare: RareAttributes | null, options: EncodeOptions): boolean {
    if (!this.#begin(IPCTNL_MSG_CT_NEW, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL, familyOf(words, base))) {
      return false;
    }
    const out = this.#out;
    this.#original(words, base);
    const zone = zoneReplyOf(words, base);
    encodeReply(out, CTA_TUPLE_REPLY, words, base, zone === zoneOrigOf(words, base) ? 0 : zone);
    out.putNet32(CTA_STATUS, (words[base + W_STATUS]! & STATUS_SETTABLE) | IPS_CONFIRMED);
    out.putNet32(CTA_TIMEOUT, options.timeoutSeconds);
    if (words[base + W_MARK] !== 0) out.putNet32(CTA_MARK, words[base + W_MARK]!);
    encodeProtoinfo(out, words, base, options.liberal);
    encodeNat(out, words, base);
    if (rare !== null) encodeRareForCreate(out, rare);
    this.#end();
    return true;
  }

  /**
   * Requests that the flow takes the record's status, mark, protoinfo, labels, sequence adjustments and, unless its
   * timeout is fixed, `options.timeoutSeconds`; ENOENT when there is none. Tuples, NAT, helper and master of a flow
   * cannot change. A flow that was created with a master must be updated with `rare.master` set, for the kernel
   * answers EBUSY when IPS_EXPECTED differs, as it does when SEEN_REPLY or ASSURED would be taken back. By then the
   * timeout is set. ENOSPC for labels where no rule uses any; by then everything else is done.
   */
  update(words: Uint32Array, base: number, rare: RareAttributes | null, options: EncodeOptions): boolean {
    if (!this.#begin(IPCTNL_MSG_CT_NEW, NLM_F_REQUEST, familyOf(words, base))) return false;
    const out = this.#out;
    this.#original(words, base);
    if ((words[base + W_HAS]! & HAS_STATUS) !== 0) {
      const expected = rare?.master === undefined ? 0 : IPS_EXPECTED;
      out.putNet32(CTA_STATUS, (words[base + W_STATUS]! & STATUS_SETTABLE) | IPS_CONFIRMED | expected);
    }
    // For a flow whose timeout is fixed, the kernel refuses the whole request when it names a timeout (EPERM).
    if ((words[base + W_STATUS]! & IPS_FIXED_TIMEOUT) === 0) out.putNet32(CTA_TIMEOUT, options.timeoutSeconds);
    // Also 0: an event without CTA_MARK means mark 0, so the word always holds the owner's mark.
    out.putNet32(CTA_MARK, words[base + W_MARK]!);
    encodeProtoinfo(out, words, base, options.liberal);
    if (rare !== null) encodeRareForUpdate(out, rare);
    this.#end();
    return true;
  }

  /**
   * Requests the removal of the flow with this original tuple and zone; ENOENT when there is none. With `matchId` only
   * if its CTA_ID still is word 23, which therefore must come from this kernel.
   */
  delete(words: Uint32Array, base: number, matchId = false): boolean {
    if (!this.#begin(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST, familyOf(words, base))) return false;
    this.#original(words, base);
    if (matchId) this.#out.putNet32(CTA_ID, words[base + W_ID]!);
    this.#end();
    return true;
  }

  /** Requests the flow with this original tuple and zone; the answer is an IPCTNL_MSG_CT_NEW, or ENOENT. */
  get(words: Uint32Array, base: number): boolean {
    if (!this.#begin(IPCTNL_MSG_CT_GET, NLM_F_REQUEST, familyOf(words, base))) return false;
    this.#original(words, base);
    this.#end();
    return true;
  }

  /** Requests all flows of a family, 0 for both: messages with NLM_F_MULTI, then NLMSG_DONE. */
  dump(family: number): boolean {
    if (!this.#begin(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, family)) return false;
    this.#end();
    return true;
  }

  /**
   * Requests the removal of all flows of a family, 0 for both.
   * The kernel heeds the family only in messages whose nfgenmsg version is not 0 (ctnetlink_del_conntrack).
   */
  flush(family: number): boolean {
    if (!this.#begin(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST, family, family === 0 ? 0 : 1)) return false;
    this.#end();
    return true;
  }

  /**
   * Requests the creation of an expectation, with its helper's own timeout (`expectationTimeout` changes that). EEXIST
   * when its tuple is expected already, EBUSY when it overlaps another, ENOENT for an unknown master, EOPNOTSUPP for a
   * helper that is unknown or a master without one, EINVAL for an unknown class or function.
   */
  createExpectation(expectation: Expectation): boolean {
    const flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
    if (!this.#beginExpectation(IPCTNL_MSG_EXP_NEW, flags, familyOf(expectation.tuple, 0))) return false;
    encodeExpectation(this.#out, expectation);
    this.#end();
    return true;
  }

  /** Requests a new remaining time for an expectation; ENOENT when none has its tuple. */
  expectationTimeout(expectation: Expectation, timeoutSeconds: number): boolean {
    if (!this.#beginExpectation(IPCTNL_MSG_EXP_NEW, NLM_F_REQUEST, familyOf(expectation.tuple, 0))) return false;
    encodeExpectationTimeout(this.#out, expectation, timeoutSeconds);
    this.#end();
    return true;
  }

  /** Requests the removal of an expectation, with `matchId` only if it still has its id; ENOENT when there is none. */
  deleteExpectation(expectation: Expectation, matchId = false): boolean {
    if (!this.#beginExpectation(IPCTNL_MSG_EXP_DELETE, NLM_F_REQUEST, familyOf(expectation.tuple, 0))) return false;
    encodeExpectationName(this.#out, expectation, matchId);
    this.#end();
    return true;
  }

  /** Requests all expectations of a family, 0 for both: messages with NLM_F_MULTI, then NLMSG_DONE. */
  dumpExpectations(family: number): boolean {
    if (!this.#beginExpectation(IPCTNL_MSG_EXP_GET, NLM_F_REQUEST | NLM_F_DUMP, family)) return false;
    this.#end();
    return true;
  }

  /** Requests the removal of all expectations. */
  flushExpectations(): boolean {
    if (!this.#beginExpectation(IPCTNL_MSG_EXP_DELETE, NLM_F_REQUEST, 0)) return false;
    this.#end();
    return true;
  }

  /**
   * The requests, ready to be sent, with sequence numbers from `firstSequence` on. The last one asks for an
   * acknowledgement, which marks the end of the batch; with `ackAll` each one does. The kernel reports failed requests
   * in either case. A view of the batch's own buffer, valid until the next `reset` or request.
   */
  bytes(portId: number, firstSequence: number, ackAll = false): Uint8Array {
    const { words, bytes, at: end } = this.#out;
    let sequence = firstSequence;
    for (let at = 0; at < end; ) {
      const next = at + (words[at]! >>> 2);
      const ack = ackAll || next >= end ? NLM_F_ACK << 16 : 0;
      words[at + 1] = (words[at + 1]! & ~(NLM_F_ACK << 16)) | ack;
      words[at + 2] = sequence++;
      words[at + 3] = portId;
      at = next;
    }
    return bytes.subarray(0, end * 4);
  }

  #begin(type: number, flags: number, family: number, version = 0): boolean {
    const out = this.#out;
    if (out.at > this.#wordsMax) return false;
    this.#message = out.at;
    out.host32(0);
    out.host32((NFNL_SUBSYS_CTNETLINK << 8) | type | (flags << 16));
    out.host32(0);
    out.host32(0);
    out.host32((family & 0xff) | (version << 8));
    return true;
  }

  #beginExpectation(type: number, flags: number, family: number): boolean {
    if (!this.#begin(type, flags, family)) return false;
    this.#out.words[this.#message + 1] = (NFNL_SUBSYS_CTNETLINK_EXP << 8) | type | (flags << 16);
    return true;
  }

  #end(): void {
    this.#out.words[this.#message] = (this.#out.at - this.#message) * 4;
    this.count++;
  }

  /**
   * CTA_TUPLE_ORIG and the zone: CTA_ZONE when both directions are in the same, else CTA_TUPLE_ZONE in the tuple.
   * The kernel keeps one zone id per flow, for one direction or for both, and refuses two.
   */
  #original(words: Uint32Array, base: number): void {
    const zone = zoneOrigOf(words, base);
    const same = zone === zoneReplyOf(words, base);
    encodeTuple(
      this.#out,
      CTA_TUPLE_ORIG,
      words,
      base + W_ORIG_SRC,
      base + W_ORIG_DST,
      words[base + W_ORIG_L4]!,
      words[base + W_PROTO]!,
      same ? 0 : zone,
    );
    if (same && zone !== 0) this.#out.putNet16(CTA_ZONE, zone);
  }
}
