import { endianness } from "node:os";
import { ConntrailError } from "../errors.js";
import type { ExpectationJson } from "../flow/expectation.js";
import { type RareAttributes, RECORD_WORDS } from "../flow/record.js";
import type { HookStart } from "./hook-start.js";

/**
 * The protocol between command line and daemon on the control socket. One request per connection.
 *
 *   request   one line of JSON: {"command":"dump","args":{"table":"internal"},"version":1}\n     at most 64 KiB
 *   answer    frames, until E or X
 *
 *   frame     +----------------+--------+-----------------+
 *             | u32 LE length  |   u8   | length bytes    |
 *             | of the payload |  type  | payload         |   at most 1 MiB
 *             +----------------+--------+-----------------+
 *
 *   J  JSON     the report
 *   P  text     progress for a person; empty as a sign of life while there is none
 *   R  records  n flows of 128 bytes, the words of src/flow/record.ts, little endian
 *   A  JSON     [[index in the preceding R frame, rare attributes], …]
 *   C  doubles  the counters of the n flows of the preceding R frame, 32 bytes each: original packets and bytes, reply
 *               packets and bytes, little endian; NaN where the kernel does not count
 *   X  JSON     {"code":…,"message":…}: the request failed; the last frame
 *   E  empty    the request is done; the last frame
 */

/** Changes when daemon and command line of different releases could misunderstand each other. */
export const PROTOCOL_VERSION = 1;

/** The longest request line. */
export const REQUEST_BYTES_MAX = 64 * 1024;

/** The longest payload of a frame. */
export const FRAME_BYTES_MAX = 1024 * 1024;

/** Length and type. */
export const FRAME_HEADER_BYTES = 5;

/** Bytes of one flow in an R frame. */
export const RECORD_BYTES = RECORD_WORDS * 4;

/** The types of frame, by their letter on the wire. */
export const FRAME_TYPES = ["J", "P", "R", "A", "C", "X", "E"] as const;

/** One of FRAME_TYPES. */
export type FrameType = (typeof FRAME_TYPES)[number];

/** A frame from the wire. The reader may keep the payload, which begins at a multiple of 8 in its buffer. */
export interface Frame {
  readonly type: FrameType;
  readonly payload: Uint8Array<ArrayBuffer>;
}

/** Every command with its arguments in a request. */
export interface CommandArgs {
  status: Record<string, never>;
  stats: Record<string, never>;
  /** `replicated`: of the kernel's table only the flows that are replicated, with the kernel's counters. */
  dump: { table: FlowTableName; replicated?: boolean | undefined };
  expectations: { table: FlowTableName; offset: number };
  /** `only`: flows or expectations; left out: both. */
  commit: { only?: RowKind | undefined };
  /** `only` applies to the kernel. */
  flush: { table: FlushTarget; only?: RowKind | undefined };
  /** `wait` false: answered when the work has begun; later failures are in the daemon's log. */
  resync: { source: ResyncSource; wait?: boolean | undefined };
  bulk: { wait?: boolean | undefined };
  purge: Record<string, never>;
  /** What would a takeover by each peer lose now? */
  rehearse: Record<string, never>;
  /** Reads the node's keys and its list of nodes again. */
  rekey: Record<string, never>;
  /** Reads the configuration again, as SIGHUP does. */
  reload: Record<string, never>;
  /** Ends the daemon. There is no answer: the connection closes when the process has ended. */
  stop: Record<string, never>;
  /**
   * `group`: which of several sync groups; left out where there is one. `started`: when keepalived started the hook;
   * if it is left out, hooks count in the order of their arrival.
   */
  hook: { role: HookRole; group?: string | undefined; started?: HookStart | undefined };
}

/** The name of a command. */
export type CommandName = keyof CommandArgs;

/** The commands that are answered with a report. */
export type ReportCommand = Exclude<CommandName, "dump" | "stop">;

/** The report in the J frame of every command; `dump` answers with records instead, `stop` not at all. */
export interface CommandReports {
  status: StatusReport;
  stats: StatsReport;
  dump: never;
  expectations: ExpectationsReport;
  commit: CommitReport;
  flush: FlushReport;
  resync: ResyncReport;
  bulk: BulkReport;
  purge: PurgeReport;
  rehearse: RehearsalReport;
  rekey: RekeyReport;
  reload: ReloadReport;
  stop: never;
  hook: HookReport;
}

/** conntrackd's names for flows and expectations. */
export const ROW_KINDS = ["ct", "expect"] as const;

/** One of ROW_KINDS. */
export type RowKind = (typeof ROW_KINDS)[number];

/** What can be dumped and flushed. */
export const FLOW_TABLES = ["internal", "external", "kernel"] as const;

/** One of FLOW_TABLES. */
export type FlowTableName = (typeof FLOW_TABLES)[number];

/** `caches` is both caches, what `flush` without an argument means. */
export const FLUSH_TARGETS = ["internal", "external", "kernel", "caches"] as const;

/** One of FLUSH_TARGETS. */
export type FlushTarget = (typeof FLUSH_TARGETS)[number];

/** The kernel repairs the internal cache, the peers the external one. */
export const RESYNC_SOURCES = ["kernel", "peers"] as const;

/** One of RESYNC_SOURCES. */
export type ResyncSource = (typeof RESYNC_SOURCES)[number];

/** The roles that keepalived can give this node. */
export const HOOK_ROLES = ["primary", "backup", "fault"] as const;

/** Name of a sync group. */
export const GROUP_NAME = /^[A-Za-z0-9_.-]{1,64}$/;

/** One of HOOK_ROLES. */
export type HookRole = (typeof HOOK_ROLES)[number];

/** What `status --json` prints. Null where there is nothing to measure yet. */
export interface StatusReport {
  readonly node: string;
  readonly cluster: string;
  /** The last role from keepalived since the boot; `unknown` before the first. */
  readonly role: HookRole | "unknown";
  /** New at each start of the daemon. */
  readonly epoch: number;
  /** True when a takeover now would lose nothing that peers have sent, and peers can have all of ours. */
  readonly inSync: boolean;
  /** Why peers cannot have all of this node's flows, in words; null when they can. Each peer has a reason of its own. */
  readonly reason: string | null;
  /** What an operator should know although nothing would be lost now. */
  readonly warnings: readonly string[];
  /** The kernel's count of entries and its limit (nf_conntrack_count, nf_conntrack_max). */
  readonly kernel: { readonly entries: number; readonly max: number };
  readonly internal: { readonly flows: number };
  readonly external: { readonly flows: number };
  readonly format: FormatStatus;
  readonly broker: BrokerStatus;
  readonly publisher: PublisherStatus;
  readonly peers: readonly PeerStatus[];
  /** How much the broker still has of each node's stream; null when it does not answer. */
  readonly streams: readonly StreamStatus[] | null;
  /** Left out where nothing is archived. */
  readonly archive?: ArchiveStatus;
  /** The last hook of each sync group; left out if there was none since the boot. */
  readonly hooks?: readonly HookStatus[];
  /** Left out where there are no keys. */
  readonly keys?: KeysStatus;
}

/** Until when certificates are valid, milliseconds since the Unix epoch. */
export interface KeysStatus {
  /** The node's own. */
  readonly untilMs: number;
  /** The authority's. */
  readonly authorityUntilMs: number;
}

/** The keys that are in use now; null: there are none. */
export interface RekeyReport {
  readonly keys: KeysStatus | null;
}

/** What `reload --json` prints: the keys of the configuration that changed. */
export interface ReloadReport {
  readonly applied: readonly string[];
  /** What a daemon applies only when it starts. It goes on with the earlier values. */
  readonly restart: readonly string[];
  /** Why a part keeps what it had, a line each. */
  readonly failed: readonly string[];
}

/** The outcome of the last hook of a sync group. */
export interface HookStatus {
  /** "": the hook named no group. */
  readonly group: string;
  readonly role: HookRole;
  /** When keepalived called it, milliseconds since the Unix epoch. */
  readonly saidMs: number;
  /** `failed`: no daemon has taken the role; the next one that starts takes it up. */
  readonly state: "taken" | "under way" | "failed";
  /** Why it failed; null: it did not. With `taken`: the daemon took it up later. */
  readonly error: string | null;
}

/** The status that a node knows without asking its broker. */
export type OwnStatus = Omit<StatusReport, "streams" | "archive">;

/** How much there is of a node's stream, of its copy, or of the stream on a shared broker. */
export interface StreamStatus {
  readonly node: string;
  readonly messages: number;
  readonly bytes: number;
  /** When its oldest message was stored, milliseconds since the Unix epoch; null: it is empty. */
  readonly sinceMs: number | null;
  /** Messages that `broker.max_age` or `broker.max_bytes` has removed. */
  readonly cut: number;
}

/** How far the archive has come. */
export interface ArchiveStatus {
  /**
   * Every connection that ended before this time is in files, milliseconds since the Unix epoch; null: there are none.
   */
  readonly untilMs: number | null;
  /** Whole days that `archive.max_age` has removed since the daemon started. */
  readonly daysCut: number;
}

/** The versions of the stream's format that a node writes and reads. */
export interface FormatStatus {
  /** The version of its messages; null on an observer, which writes none. */
  readonly writes: number | null;
  readonly reads: readonly number[];
  /** Why it writes no higher version, in words; null when it writes the highest that it can. */
  readonly reason: string | null;
}

/** The state of the broker beside this node, or of the shared one; `none`: mode `stats` has none. */
export interface BrokerStatus {
  readonly mode: "embedded" | "external" | "shared" | "none";
  /** `up`, or the trouble in a word or two. */
  readonly state: string;
  readonly url: string;
  readonly version: string | null;
  /** How often the daemon has restarted it. */
  readonly restarts: number;
}

/** The state of this node's own stream. */
export interface PublisherStatus {
  /** `up`; `down` while nothing can be published; `none` on an observer, which has no stream. */
  readonly state: string;
  /** The last batch number that the broker has confirmed. */
  readonly confirmedNumber: number;
  /** Messages that the broker has yet to confirm. */
  readonly unconfirmed: number;
}

/** How far this node has followed a peer. */
export interface PeerStatus {
  readonly node: string;
  readonly address: string;
  /** True for a peer that was discovered; the configuration does not list it. */
  readonly discovered: boolean;
  readonly connected: boolean;
  readonly inSync: boolean;
  /** Why it is not in sync, in words; null when it is. */
  readonly reason: string | null;
  /** What its last heartbeat said; null before the first. */
  readonly role: HookRole | "unknown" | null;
  readonly cluster: string | null;
  readonly formatVersion: number | null;
  /** The format versions that its daemon reads; null while that is not known. */
  readonly formatsRead: readonly number[] | null;
  /** How far its clock is ahead of this node's, milliseconds. */
  readonly clockOffsetMs: number | null;
  /** Whether the peer says that it would lose nothing of this node's if it took over; null: that is not known. */
  readonly couldTakeOver: boolean | null;
  /** Events that the peer has sent and this node has not applied. */
  readonly lagEvents: number | null;
  /** Age of the last event when it was applied. */
  readonly lagMs: number | null;
  /** Milliseconds since anything was heard. */
  readonly lastHeardMs: number | null;
  /** The peer's epoch. */
  readonly epoch: number | null;
  /** Rows of the external cache that this peer owns. */
  readonly flows: number;
}

/**
 * What `stats --json` prints: group, counter, number. Counters only grow, but for those called `active`, `flows`,
 * `…Bytes` of buffers, `last…` and `uptimeSeconds`. Groups are `internal`, `external`, `traffic`, `link`, `messages`, `events`,
 * `publisher`, `reader.<peer>`, `commit`, `expectations`, `control`, `filter` and whatever else the daemon counts.
 * conntrackd's own text needs these:
 *
 *   internal, external   active created createFailed updated updateFailed destroyed destroyFailed
 *   traffic              bytes packets
 *   link                 bytesSent bytesReceived packetsSent packetsReceived sendErrors receiveErrors
 *   messages             malformed lost
 */
export type StatsReport = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** Expectations of a table from an offset on, as many as fit into a frame. */
export interface ExpectationsReport {
  /** All that the table holds. */
  readonly total: number;
  readonly expectations: readonly ExpectationView[];
}

/** One expectation, as `dump --expect --json` prints it. */
export interface ExpectationView extends ExpectationJson {
  /** Seconds since it was first seen; left out for the kernel, which does not report it. */
  readonly activeSeconds?: number;
  /** The node that owns it; only in an external cache. */
  readonly node?: string;
}

/** What `commit --json` prints. */
export interface CommitReport {
  /** Entries created in the kernel. */
  readonly committed: number;
  /** Entries that the kernel already had and that were updated. */
  readonly updated: number;
  /**
   * Entries left out on purpose: closing connections whose tuple is another connection here; in mode `inject`, those
   * of peers.
   */
  readonly skipped: number;
  /** Entries that the kernel refused, by reason (`ENOENT`, `EOPNOTSUPP`, …). */
  readonly failed: Readonly<Record<string, number>>;
  /** Entries removed from this kernel, because the node that carried them last has seen their end. */
  readonly stale: number;
  /** Entries of `committed` and `updated` written without their master or helper, which this kernel lacks. */
  readonly withoutMaster?: number;
  readonly withoutHelper?: number;
  /** Entries of `committed` for which an entry without a reply, which held their reply tuple, was removed. */
  readonly repaired?: number;
  /** Flows that this kernel had before the commit, because it was given them when peers published them. */
  readonly ahead?: number;
  /** True while this node still claims those flows: the counts are those of the beginning. */
  readonly underWay?: true;
  /** Expectations; left out where there were none. */
  readonly expectations?: ExpectationCommit;
  readonly durationMs: number;
}

/** The outcome of a commit for expectations. */
export interface ExpectationCommit {
  readonly committed: number;
  /** Expectations that the kernel refused, by reason (`ENOENT`: it lacks the master). */
  readonly failed: Readonly<Record<string, number>>;
}

/** What `flush --json` prints: how many entries each table lost, null for a table that was not asked for. */
export interface FlushReport {
  readonly internal: number | null;
  readonly external: number | null;
  readonly kernel: number | null;
}

/** What `resync --json` prints. */
export interface ResyncReport {
  readonly source: ResyncSource;
  /** Entries read. */
  readonly flows: number;
  /** Entries that differed and were corrected. */
  readonly changed: number;
  readonly durationMs: number;
}

/** What `bulk --json` prints: how much of the internal cache was sent. */
export interface BulkReport {
  readonly flows: number;
  readonly durationMs: number;
}

/** What `purge --json` prints: in how many seconds the purge takes place. */
export interface PurgeReport {
  readonly afterSeconds: number;
}

/** What `rehearse --json` prints. */
export interface RehearsalReport {
  readonly node: string;
  /** Flows of this kernel that this node carries and replicates, and those that its filter leaves out. */
  readonly flows: number;
  readonly filtered: number;
  /** True when a takeover by one of the peers would lose something, or that is not known. */
  readonly loses: boolean;
  readonly peers: readonly PeerRehearsal[];
  readonly durationMs: number;
}

/** What a takeover by a peer would lose. */
export interface PeerRehearsal {
  readonly node: string;
  /** Why the rest is not known, in words; null: it is. */
  readonly error: string | null;
  /** Flows that it was asked for. */
  readonly checked: number;
  /** Flows that it does not have. */
  readonly missing: number;
  /** Flows that it has in another state, or translated differently. */
  readonly differing: number;
  /** Flows whose helper its kernel lacks: they would go in without it. */
  readonly withoutHelper: number;
  /** Flows for which its kernel has no room (nf_conntrack_max). */
  readonly overLimit: number;
  /** Some flows of each kind, as `conntrack -L` prints them. */
  readonly examples: Readonly<Record<"missing" | "differing" | "withoutHelper", readonly string[]>>;
}

/** What `hook --json` prints. */
export interface HookReport {
  readonly role: HookRole;
  readonly previous: HookRole | "unknown";
  /** The commit that becoming primary made. */
  readonly commit: CommitReport | null;
  /** True if nothing was done, because keepalived started a later hook of the group; `previous` is that one's role. */
  readonly ignored?: boolean;
  readonly durationMs: number;
}

/** The content of an X frame. `code` is one of ErrorCode in src/errors.ts. */
export interface ErrorReport {
  readonly code: string;
  readonly message: string;
}

/** The frame as one piece. Throws ConntrailError MALFORMED when the payload is over the limit. */
export function encodeFrame(type: FrameType, payload: Uint8Array | string = ""): Buffer {
  const bytes = typeof payload === "string" ? Buffer.from(payload, "utf8") : payload;
  if (bytes.length > FRAME_BYTES_MAX) {
    throw new ConntrailError("MALFORMED", `answer of ${bytes.length} bytes, allowed is at most ${FRAME_BYTES_MAX}`);
  }
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + bytes.length);
  frame.writeUInt32LE(bytes.length, 0);
  frame.writeUInt8(type.charCodeAt(0), 4);
  frame.set(bytes, FRAME_HEADER_BYTES);
  return frame;
}

/** Reassembles frames from pieces of any size. Holds at most one frame. */
export class FrameDecoder {
  readonly #header = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
  #headerBytes = 0;
  #type: FrameType = "E";
  #payload: Uint8Array<ArrayBuffer> | null = null;
  #payloadBytes = 0;

  /** True when the bytes so far end with a complete frame. */
  get atBoundary(): boolean {
    return this.#headerBytes === 0;
  }

  /** The frames that `chunk` completes. Throws ConntrailError MALFORMED for a frame that is too long or unknown. */
  *push(chunk: Uint8Array): Generator<Frame, void, undefined> {
    let offset = 0;
    while (offset < chunk.length || this.#payload?.length === this.#payloadBytes) {
      if (this.#payload === null) {
        const part = chunk.subarray(offset, offset + FRAME_HEADER_BYTES - this.#headerBytes);
        this.#header.set(part, this.#headerBytes);
        this.#headerBytes += part.length;
        offset += part.length;
        if (this.#headerBytes === FRAME_HEADER_BYTES) this.#startPayload();
        continue;
      }
      const part = chunk.subarray(offset, offset + this.#payload.length - this.#payloadBytes);
      this.#payload.set(part, this.#payloadBytes);
      this.#payloadBytes += part.length;
      offset += part.length;
      if (this.#payloadBytes < this.#payload.length) continue;
      const frame = { type: this.#type, payload: this.#payload };
      this.#payload = null;
      this.#headerBytes = 0;
      yield frame;
    }
  }

  #startPayload(): void {
    const length = this.#header.readUInt32LE(0);
    const letter = String.fromCharCode(this.#header.readUInt8(4));
    const type = FRAME_TYPES.find((known) => known === letter);
    if (length > FRAME_BYTES_MAX || type === undefined) {
      throw new ConntrailError("MALFORMED", `frame of type ${JSON.stringify(letter)} and ${length} bytes`);
    }
    this.#type = type;
    this.#payload = new Uint8Array(length);
    this.#payloadBytes = 0;
  }
}

/** The payload of a J, A or X frame. Throws ConntrailError MALFORMED when it is not JSON. */
export function decodeJson(payload: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString("utf8"));
  } catch (error) {
    throw new ConntrailError("MALFORMED", "frame that should hold JSON does not", { cause: error });
  }
}

/**
 * The words of the flows in an R frame, in this machine's byte order. Throws ConntrailError MALFORMED for half a flow.
 */
export function decodeRecords(payload: Uint8Array<ArrayBuffer>): Uint32Array {
  if (payload.length % RECORD_BYTES !== 0) {
    throw new ConntrailError("MALFORMED", `record frame of ${payload.length} bytes, not a multiple of ${RECORD_BYTES}`);
  }
  toLittleEndian(payload);
  return new Uint32Array(payload.buffer, payload.byteOffset, payload.length / 4);
}

/** Converts words between this machine's byte order and little endian, in place; x86 and ARM need no conversion. */
export function toLittleEndian(bytes: Uint8Array): void {
  if (endianness() === "BE") Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).swap32();
}

/** Rare attributes as JSON: as in RareAttributes, `labels` in hexadecimal, `master` as the list of its 32 words. */
export interface RareJson extends Omit<RareAttributes, "labels" | "master"> {
  labels?: string;
  master?: readonly number[];
}

/** Rare attributes as JSON, for an A frame. */
export function encodeRare(rare: RareAttributes): RareJson {
  const { labels, master, ...same } = rare;
  const json: RareJson = { ...same };
  if (labels !== undefined) json.labels = Buffer.from(labels).toString("hex");
  if (master !== undefined) json.master = [...master];
  return json;
}

/** The inverse of `encodeRare`. */
export function decodeRare(json: RareJson): RareAttributes {
  const { labels, master, ...same } = json;
  const rare: RareAttributes = { ...same };
  if (labels !== undefined) rare.labels = new Uint8Array(Buffer.from(labels, "hex"));
  if (master !== undefined) rare.master = Uint32Array.from(master);
  return rare;
}
