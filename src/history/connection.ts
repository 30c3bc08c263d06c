/**
 * What the history answers with: connections, each once, over their whole lives and all nodes that carried them, and the gaps in
 * which events may be missing. These are types only; scan/projection.ts makes the connections.
 */
import type { FlowQuery } from "../flow/filter.js";
import type { RareAttributes } from "../flow/record.js";

/** One connection, from its first packet to its end, on whichever nodes. */
export interface Connection {
  /** "C" and a base62 hash of birth, zone, protocol and original tuple, so it is the same in every answer on every node. */
  readonly uid: string;
  /** The stamp of the birth in that hash; left out where it is not known. */
  readonly birth?: number;
  /** The last known record (layout: src/flow/record.ts): tuples, protocol, zones, status, mark, protocol state. */
  readonly words: Uint32Array;
  readonly rare: RareAttributes | null;
  /**
   * Milliseconds since the Unix epoch, with a fraction where the kernel timed it (nf_conntrack_timestamp). Null: it began before
   * the oldest event that is kept.
   */
  readonly startMs: number | null;
  /** Null: alive at the end of the range. */
  readonly endMs: number | null;
  /** True where the end is the kernel's own time. The start is too, if only one node carried the connection. */
  readonly timedByKernel: boolean;
  /** `ended`: the kernel reported the end. `lost`: a later snapshot did not list it; `endMs` is the latest possible. `open`: alive. */
  readonly end: "ended" | "lost" | "open";
  /** Null where nf_conntrack_acct did not count. */
  readonly counters: ConnectionCounters | null;
  /**
   * The nodes that carried it, in order; never empty. If the first step begins later than the connection, other nodes carried it
   * before the part of the streams that was read.
   */
  readonly path: readonly PathStep[];
  /** True where events may be missing in the part of the streams from which this record was made. */
  readonly mayMiss: boolean;
}

/** What the kernel of the last node counted. */
export interface ConnectionCounters {
  readonly origPackets: number;
  readonly origBytes: number;
  readonly replyPackets: number;
  readonly replyBytes: number;
}

/** A node that carried a connection, and since when. */
export interface PathStep {
  readonly node: string;
  readonly sinceMs: number;
}

/** A stretch of time in which events of a node may be missing. */
export interface Gap {
  readonly node: string;
  /** Null: from the beginning. */
  readonly fromMs: number | null;
  /** Null: until now. */
  readonly untilMs: number | null;
  /** One line for people. */
  readonly reason: string;
  /** How many events are missing; null where that is not known. */
  readonly events: number | null;
}

/** Which connections are asked for. All conditions must hold. Times are milliseconds since the Unix epoch, both ends included. */
export interface HistoryQuery {
  /** Leaves out connections that ended before; null: none. */
  readonly sinceMs: number | null;
  /** Leaves out connections that began after; null: none. */
  readonly untilMs: number | null;
  readonly filter: FlowQuery;
  /** Connections that one of these nodes carried, or for `at` carried at that time; null: any node. */
  readonly nodes: readonly string[] | null;
  /** How many connections at the most, the newest ones; null: all. */
  readonly limit: number | null;
}

/** The question of `who`: which host had this public address and port. */
export interface WhoQuestion {
  /** An IPv4 or IPv6 address. */
  readonly address: string;
  /** A port; of ICMP the id. */
  readonly port: number;
  /** Layer 4 protocol number; null: any protocol with ports. */
  readonly protocol: number | null;
  /** Connections that were alive within [sinceMs, untilMs]. */
  readonly sinceMs: number;
  readonly untilMs: number;
}

/** How far a scan has come. */
export interface HistoryProgress {
  /** Messages that were read, and their rows. */
  readonly messages: number;
  readonly events: number;
  /** Messages that there are to read; an estimate, at the most so many. */
  readonly messagesTotal: number;
  /** The time up to which the streams have been read; null before the first message. */
  readonly timeMs: number | null;
  /** Messages that were skipped because they are damaged, of a later format version, or not conntrail's. */
  readonly malformed: number;
  /** Left out where the answer needs no archive. */
  readonly archive?: ArchiveProgress;
}

/** How many files of the archive were read, of those that the answer needs. */
export interface ArchiveProgress {
  readonly files: number;
  readonly filesTotal: number;
}

/** An answer while it is being read. */
export interface HistoryAnswer {
  /** Connections in the order of their ends, then those that are alive in the order of their births. Iterate once. */
  readonly connections: AsyncIterable<readonly Connection[]>;
  /** Where events may be missing in the range. Complete only after the last connection. */
  gaps(): readonly Gap[];
  progress(): HistoryProgress;
}

/** A change that `follow` reports: a connection began, moved to another node, changed its state or mark, or ended. */
export interface ConnectionChange {
  readonly type: "new" | "moved" | "updated" | "ended";
  readonly connection: Connection;
}
