/**
 * A flow as 32 words (128 bytes) of a Uint32Array. Tables keep millions of these in slabs, the netlink decoder
 * writes them, the batch codec reads them: this layout is what kernel edge, tables and streams have in common.
 *
 *   word   content
 *   0-3    original source address, network order read as big-endian words; IPv4 uses word 0, the others are 0
 *   4-7    original destination address
 *   8-11   reply source address
 *   12-15  reply destination address
 *   16     original layer 4: source port << 16 | destination port (TCP, UDP, UDPLite, SCTP, DCCP),
 *          ICMP id << 16 | type << 8 | code, GRE source key << 16 | destination key, else 0
 *   17     reply layer 4, likewise
 *   18     address family << 8 | layer 4 protocol number
 *   19     zone of the original direction << 16 | zone of the reply direction
 *   20     status, IPS_* bits
 *   21     timeout in seconds, as of word 27
 *   22     mark
 *   23     CTA_ID in an internal cache; the owner's flow id in an external cache
 *   24     TCP: state | window scale original << 8 | window scale reply << 16; SCTP: state; DCCP: state | role << 8
 *   25     TCP: flags original | mask original << 8 | flags reply << 16 | mask reply << 24;
 *          SCTP: verification tag original; DCCP: handshake sequence, high word
 *   26     SCTP: verification tag reply; DCCP: handshake sequence, low word
 *   27     when the row was last written, seconds since the Unix epoch
 *   28     when the flow was first seen, seconds since the Unix epoch
 *   29     HAS_* bits in the low half: which attributes were there; the high half belongs to the table
 *   30-31  belong to the table that holds the row
 *
 * IPS_*, states and flags: linux/netfilter/nf_conntrack_common.h, nf_conntrack_tcp.h.
 */
export const RECORD_WORDS = 32;

/** How many values a word has: what the upper word of a 64-bit number counts for. */
export const WORD_VALUES = 2 ** 32;

export const W_ORIG_SRC = 0;
export const W_ORIG_DST = 4;
export const W_REPLY_SRC = 8;
export const W_REPLY_DST = 12;
export const W_ORIG_L4 = 16;
export const W_REPLY_L4 = 17;
export const W_PROTO = 18;
export const W_ZONE = 19;
export const W_STATUS = 20;
export const W_TIMEOUT = 21;
export const W_MARK = 22;
export const W_ID = 23;
export const W_PROTOINFO = 24;
export const W_PROTOINFO_B = 25;
export const W_PROTOINFO_C = 26;
export const W_UPDATED = 27;
export const W_CREATED = 28;
export const W_HAS = 29;
export const W_TABLE_A = 30;
export const W_TABLE_B = 31;

export const HAS_STATUS = 0x0001;
export const HAS_TIMEOUT = 0x0002;
export const HAS_MARK = 0x0004;
export const HAS_ID = 0x0008;
export const HAS_PROTOINFO = 0x0010;
export const HAS_COUNTERS = 0x0020;
export const HAS_TIMES = 0x0040;
export const HAS_RARE = 0x0080;
export const HAS_REPLY = 0x0100;
export const HAS_MASK = 0xffff;

export const AF_INET = 2;
export const AF_INET6 = 10;

/**
 * Attributes that few flows carry. Kept beside the record, by slot, never in it.
 * Sources: enum ctattr_type, ctattr_help, ctattr_seqadj, ctattr_synproxy in nfnetlink_conntrack.h.
 */
export interface RareAttributes {
  /** CTA_HELP_NAME. */
  helper?: string;
  /** CTA_LABELS, 16 bytes as the kernel gives them. */
  labels?: Uint8Array;
  /** CTA_SECCTX_NAME, the security context as text. */
  secctx?: string;
  /** CTA_SEQ_ADJ_ORIG. */
  seqadjOrig?: SequenceAdjustment;
  /** CTA_SEQ_ADJ_REPLY. */
  seqadjReply?: SequenceAdjustment;
  /** CTA_SYNPROXY. */
  synproxy?: { isn: number; its: number; tsoff: number };
  /**
   * CTA_TUPLE_MASTER: the original tuple of the flow that expected this one, in record layout (words 0-7, 16, 18, 19).
   */
  master?: Uint32Array;
}

/** CTA_SEQADJ_*: what a helper's changes of length add to the sequence numbers of one direction. */
export interface SequenceAdjustment {
  correctionPos: number;
  offsetBefore: number;
  offsetAfter: number;
}

/**
 * One conntrack message in decoded form, reused from message to message: the decoder overwrites it whole.
 * `counters` (original packets, original bytes, reply packets, reply bytes) are valid when HAS_COUNTERS is set,
 * `timesMicros` (start, stop; microseconds since the Unix epoch; stop 0 while the flow lives) when HAS_TIMES is.
 */
export class DecodedFlow {
  readonly words = new Uint32Array(RECORD_WORDS);
  readonly counters = new Float64Array(4);
  readonly timesMicros = new Float64Array(2);
  rare: RareAttributes | null = null;

  /** Empties it for the next message. */
  reset(): void {
    this.words.fill(0);
    this.rare = null;
  }
}

/**
 * The kernel's counters and times of a flow that ended, as in DecodedFlow. `has`: which are valid, HAS_COUNTERS and
 * HAS_TIMES.
 */
export interface FlowEnd {
  readonly has: number;
  readonly counters: Float64Array;
  readonly timesMicros: Float64Array;
}
