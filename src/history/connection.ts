/**
 * What the history answers with: connections, each once, over its whole life and all the nodes that carried it; and the
 * places where the streams may have missed something. Types alone; `projection.ts` makes them.
 */
import type { FlowQuery } from "../flow/filter.js";
import type { RareAttributes } from "../flow/record.js";

/** One connection, from its first packet on whichever node to its end. */
export interface Connection {
  /** "C" and base62 of a hash of birth, zone, protocol and original tuple: the same however and wherever it is asked for. */
  readonly uid: string;
  /** The stamp that went into that hash; left out where it is not known. */
  readonly birth?: number;
  /** The record as last known (layout of src/flow/record.ts): tuples, protocol, zones, status, mark, protocol state. */
  readonly words: Uint32Array;
  readonly rare: RareAttributes | null;
  /**
   * Milliseconds since the Unix epoch; with a fraction where the kernel timed it (nf_conntrack_timestamp). Null: it began
   * before what is kept.
   */
  readonly startMs: number | null;
  /** Null: alive at the end of the range. */
  readonly endMs: number | null;
  /** True where the end (and on a connection of one node the start) is the kernel's own time. */
  readonly timedByKernel: boolean;
  /** `ended`: the kernel said so. `lost`: it was gone when the table was stated anew; the time is the latest possible. `open`: alive. */
  readonly end: "ended" | "lost" | "open";
  /** Null where nf_conntrack_acct did not count. */
  readonly counters: ConnectionCounters | null;
  /**
   * The nodes that carried it, in order, each with since when. Never empty. Where the first step begins later than the connection,
   * others carried it before the part of the streams that was read.
   */
  readonly path: readonly PathStep[];
  /** True where events may be missing in the part of the streams that this record rests on. */
  readonly mayMiss: boolean;
}

/** What the last node's kernel counted. */
export interface ConnectionCounters {
  readonly origPackets: number;
  readonly origBytes: number;
  readonly replyPackets: number;
  readonly replyBytes: number;
}

/** A node that carried a connection, from a time on. */
export interface PathStep {
  readonly node: string;
  readonly sinceMs: number;
}

/** A place where events of a node may be missing. */
export interface Gap {
  readonly node: string;
  /** Null: from the beginning. */
  readonly fromMs: number | null;
  /** Null: until now. */
  readonly untilMs: number | null;
  /** One line for people. */
  readonly reason: string;
  /** How many events, where that is known. */
  readonly events: number | null;
}

/** Which connections. All that is given must hold; times are milliseconds since the Unix epoch, both ends included. */
export interface HistoryQuery {
  /** Connections that ended before do not count; null: from the beginning of what is kept. */
  readonly sinceMs: number | null;
  /** Connections that began after do not count; null: until now. */
  readonly untilMs: number | null;
  readonly filter: FlowQuery;
  /** Connections that one of these nodes carried (`at`: carries at that time); null: any. */
  readonly nodes: readonly string[] | null;
  /** The newest so many; null: all. */
  readonly limit: number | null;
}

/** `who`: whose was this public address and port. */
export interface WhoQuestion {
  /** IPv4 or IPv6 as text. */
  readonly address: string;
  /** Port; for ICMP the query id. */
  readonly port: number;
  /** Layer 4 protocol number; null: any that has ports. */
  readonly protocol: number | null;
  /** Life that overlaps [sinceMs, untilMs]; both the same for one moment. */
  readonly sinceMs: number;
  readonly untilMs: number;
}

/** How far a scan is. */
export interface HistoryProgress {
  /** Messages and rows read. */
  readonly messages: number;
  readonly events: number;
  /** Messages there are to read, as well as known before. */
  readonly messagesTotal: number;
  /** The time that the scan has come to; null before it began. */
  readonly timeMs: number | null;
  /** Messages skipped because they were damaged or not ours. */
  readonly malformed: number;
  /** The archive's files that the answer needs, and how many of them were read; left out where none is. */
  readonly archive?: ArchiveProgress;
}

/** How much of an archive was read. */
export interface ArchiveProgress {
  readonly files: number;
  readonly filesTotal: number;
}

/** A running answer. */
export interface HistoryAnswer {
  /** In the order in which they ended, those still alive last, in the order in which they began. Iterate once. */
  readonly connections: AsyncIterable<readonly Connection[]>;
  /** What may be missing in the range, as far as it was read: ask after the last connection. */
  gaps(): readonly Gap[];
  progress(): HistoryProgress;
}

/** What `follow` tells: a connection began, moved to another node, changed its state or mark, or ended. */
export interface ConnectionChange {
  readonly type: "new" | "moved" | "updated" | "ended";
  readonly connection: Connection;
}
