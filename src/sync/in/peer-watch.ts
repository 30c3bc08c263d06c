import type { Logger } from "pino";
import type { ExternalCache } from "../../cache/external.js";
import type { Position } from "../../stream/format/envelope.js";
import type { Heartbeat } from "../../stream/format/heartbeat.js";
import type { PeerPort } from "../ports/peer-stream.js";
import { type PeerEvidence, reasonAgainst } from "./evidence.js";
import type { Follower } from "./follower.js";

/** The counters of a watch; part of the group `reader.<peer>` of `stats`. */
export interface PeerWatchCounters {
  heartbeats: number;
  /** Heartbeats that came too late to say anything. */
  heartbeatsLate: number;
  heartbeatsMalformed: number;
}

/** What a watch asks its peer's follower. */
type Followed = Pick<
  Follower,
  | "node"
  | "applied"
  | "begun"
  | "catchUp"
  | "flows"
  | "flowsAt"
  | "state"
  | "isExact"
  | "refusals"
  | "beginAnew"
  | "resync"
>;

/** A heartbeat, the time of its arrival, and how many flows had changed their owner by then. */
interface Heard {
  readonly heartbeat: Heartbeat;
  readonly atMs: number;
  readonly handovers: number;
}

/** Reasons during the first seconds are not logged. */
const SETTLE_MS = 5000;
/**
 * Heartbeats come once a second, and more often when another node asks for one. A heartbeat so soon after another says
 * what is true now, but leaves no time to read what it names.
 */
const BEAT_MS_MIN = 500;
/** With a longer gap between two heartbeats, there was time enough to read what the earlier one names. */
const BEAT_MS_MAX = 1500;
/** A heartbeat that comes later than others by more was held up on its way. */
const LATE_MS = 500;
/** How long two daemons with one name are remembered after their heartbeats alternated. */
const DOUBLED_MS = 10_000;
/** So many heartbeats in a row name an epoch of which nothing comes, before its stream is read from the last snapshot. */
const UNREAD_BEATS_MAX = 10;

/**
 * Gathers the evidence about one peer and reports why the peer is not in sync. Heartbeats come from the peer's daemon,
 * and all other evidence from its follower. Each change is logged in one line.
 */
export class PeerWatch {
  readonly counters: PeerWatchCounters = { heartbeats: 0, heartbeatsLate: 0, heartbeatsMalformed: 0 };
  readonly #port: Pick<PeerPort, "address" | "hear" | "unreachable">;
  readonly #follower: Followed;
  readonly #external: Pick<ExternalCache, "counters">;
  readonly #cluster: string;
  readonly #self: string;
  /** How long the peer's daemon may be silent, milliseconds. */
  silenceMsMax: number;
  readonly #reads: readonly number[];
  readonly #wallMs: () => number;
  readonly #nowMs: () => number;
  readonly #log: Logger;
  readonly #startedMs: number;
  #last: Heard | null = null;
  #before: Heard | null = null;
  /** Heartbeats in a row that name an epoch before the one that was read, and one behind it. */
  #earlierEpochs = 0;
  #laterEpochs = 0;
  /** The epoch of the last heartbeat, be it late; null before the first. */
  #epoch: number | null = null;
  /** When the epoch last rose, and when it last fell, from one heartbeat to the next. */
  #roseMs = Number.NEGATIVE_INFINITY;
  #fellMs = Number.NEGATIVE_INFINITY;
  #doubledMs = Number.NEGATIVE_INFINITY;
  #offsetMs: number | null = null;
  /** The clock offset of the heartbeat that was fastest on its way; null before the first. */
  #promptMs: number | null = null;
  /** The last heartbeat that came late. */
  #late: { readonly offsetMs: number; readonly atMs: number } | null = null;
  /** The difference that both the heartbeat before the last and the one before that showed. */
  #missing = 0;
  #missingBefore = 0;
  /** The reason that was logged last, without its figures. Null: in sync. Undefined: nothing was logged yet. */
  #logged: string | null | undefined = undefined;
  #unhear: () => void = () => undefined;

  constructor(options: {
    port: Pick<PeerPort, "address" | "hear" | "unreachable">;
    follower: Followed;
    external: Pick<ExternalCache, "counters">;
    cluster: string;
    /** This node's name. */
    self: string;
    /** How long the peer's daemon may be silent, milliseconds. */
    silenceMsMax: number;
    /** The format versions that this node reads. */
    reads: readonly number[];
    wallMs: () => number;
    /** Milliseconds of a monotonic clock. */
    nowMs?: () => number;
    log: Logger;
  }) {
    this.#port = options.port;
    this.#follower = options.follower;
    this.#external = options.external;
    this.#cluster = options.cluster;
    this.#self = options.self;
    this.silenceMsMax = options.silenceMsMax;
    this.#reads = options.reads;
    this.#wallMs = options.wallMs;
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#startedMs = this.#nowMs();
    this.#log = options.log;
  }

  /** Receives heartbeats from now on, until `stop`. */
  start(): void {
    this.#unhear = this.#port.hear((heartbeat) => this.#hear(heartbeat));
  }

  stop(): void {
    this.#unhear();
  }

  /** The last heartbeat; null before there is one. */
  get heartbeat(): Heartbeat | null {
    return this.#last?.heartbeat ?? null;
  }

  /**
   * The format versions that the peer's daemon reads; null while that is not known. A daemon that has begun an epoch since
   * the last heartbeat may be another build, and then the first mark of its epoch counts.
   */
  get formatsRead(): readonly number[] | null {
    const { heartbeat } = this;
    const { begun, node } = this.#follower;
    if (heartbeat === null || heartbeat.node !== node || heartbeat.cluster !== this.#cluster) return null;
    return begun.epoch > heartbeat.epoch ? begun.reads : heartbeat.reads;
  }

  /** False while the peer is known to write a format version that this node does not read. */
  get writesReadable(): boolean {
    const { heartbeat } = this;
    return heartbeat === null || this.#reads.includes(heartbeat.writes);
  }

  /**
   * How far the peer's clock is ahead of this node's, in milliseconds, including the delay of the link; null while
   * unknown.
   */
  get clockOffsetMs(): number | null {
    return this.#offsetMs;
  }

  /** Whether the peer says that it would lose nothing of this node's if it took over; null: that is not known. */
  get couldTakeOver(): boolean | null {
    return this.heartbeat?.holds?.includes(this.#self) ?? null;
  }

  /** Why the peer is not in sync, in words; null when it is in sync. */
  get reason(): string | null {
    return reasonAgainst(this.#evidence(), { silenceMsMax: this.silenceMsMax, reads: this.#reads });
  }

  /** Logs what has changed. Call it every second. */
  look(): void {
    const { reason } = this;
    const kind = reason === null ? null : reason.replace(/\d+/g, "N");
    if (kind === this.#logged || (reason !== null && this.#nowMs() - this.#startedMs < SETTLE_MS)) return;
    this.#logged = kind;
    const peer = this.#follower.node;
    if (reason === null) this.#log.info({ peer }, "in sync");
    else this.#log.warn({ peer, reason }, "not in sync");
  }

  #hear(heartbeat: Heartbeat | null): void {
    if (heartbeat === null) {
      this.counters.heartbeatsMalformed++;
      return;
    }
    this.counters.heartbeats++;
    const wasReadable = this.writesReadable;
    this.#take(heartbeat);
    // What could not be read is missing, and a snapshot helps now.
    if (!wasReadable && this.writesReadable) this.#follower.catchUp();
  }

  #take(heartbeat: Heartbeat): void {
    const atMs = this.#nowMs();
    this.#noteChange(heartbeat.epoch - (this.#epoch ?? heartbeat.epoch), atMs);
    this.#epoch = heartbeat.epoch;
    const offsetMs = heartbeat.wallMs - this.#wallMs();
    if (this.#isLate(offsetMs, atMs)) {
      this.counters.heartbeatsLate++;
      return;
    }
    this.#offsetMs = offsetMs;
    if (this.#last !== null && atMs - this.#last.atMs < BEAT_MS_MIN) {
      this.#before ??= this.#last;
      this.#last = { ...this.#last, heartbeat };
      return;
    }
    this.#compare();
    this.#checkEpoch(heartbeat);
    // What was due before a silence says nothing about what was published during it.
    const goesOn = this.#last !== null && atMs - this.#last.atMs <= this.silenceMsMax;
    this.#before = goesOn ? this.#last : null;
    this.#last = { heartbeat, atMs, handovers: this.#handovers() };
  }

  /** A restart makes the epoch rise, and a new store may make it fall. Only two daemons make it do both. */
  #noteChange(change: number, atMs: number): void {
    if (change > 0) this.#roseMs = atMs;
    if (change < 0) this.#fellMs = atMs;
    if (change !== 0 && Math.abs(this.#roseMs - this.#fellMs) < DOUBLED_MS) this.#doubledMs = atMs;
  }

  /**
   * A new store and a clock that is behind: the peer's epochs begin anew below the one that was read. One heartbeat may be
   * older than what was read meanwhile, two in a row are not.
   */
  #checkEpoch(heartbeat: Heartbeat): void {
    const { node, epoch } = heartbeat;
    const follower = this.#follower;
    this.#checkLaterEpoch(heartbeat);
    const isEarlier = node === follower.node && epoch < follower.applied.epoch;
    this.#earlierEpochs = isEarlier ? this.#earlierEpochs + 1 : 0;
    if (this.#earlierEpochs < 2) return;
    this.#earlierEpochs = 0;
    this.#log.warn(
      { peer: node, epoch, readEpoch: follower.applied.epoch },
      "the peer's epochs begin anew; reading it anew",
    );
    follower.beginAnew();
  }

  /**
   * The peer's broker has lost messages that this node has read, and others have taken their places: the reader waits
   * behind them, and nothing comes as long as the peer has nothing to publish.
   */
  #checkLaterEpoch({ node, epoch }: Heartbeat): void {
    const follower = this.#follower;
    const { connected, lagEvents } = follower.state;
    const read = follower.applied.epoch;
    const isLater = node === follower.node && epoch > read && read > 0 && connected && lagEvents === 0;
    this.#laterEpochs = isLater ? this.#laterEpochs + 1 : 0;
    if (this.#laterEpochs < UNREAD_BEATS_MAX) return;
    this.#laterEpochs = 0;
    this.#log.warn({ peer: node, epoch }, "the peer's new epoch does not come; reading from its last snapshot");
    follower.resync();
  }

  /**
   * True for a heartbeat that was held up: in a buffer of this node while its daemon stood still, or on a broker that
   * did. It looks new, though the peer may be dead by now. Its clock shows it: it is behind where other heartbeats had
   * it. If two heartbeats one after the other are equally late, a clock was set, or the link has become slower.
   */
  #isLate(offsetMs: number, atMs: number): boolean {
    const promptMs = Math.max(this.#promptMs ?? offsetMs, offsetMs);
    const before = this.#late;
    this.#late = null;
    this.#promptMs = promptMs;
    if (offsetMs >= promptMs - LATE_MS) return false;
    const isLasting =
      before !== null && atMs - before.atMs >= BEAT_MS_MIN && Math.abs(offsetMs - before.offsetMs) < LATE_MS;
    if (isLasting) this.#promptMs = offsetMs;
    else this.#late = { offsetMs, atMs };
    return !isLasting;
  }

  /**
   * Compares the flow count of the last heartbeat with what was held at its position. If all is well, that is applied
   * by now.
   */
  #compare(): void {
    if (this.#last === null) return;
    const { heartbeat, handovers } = this.#last;
    const held = this.#heldAt(heartbeat);
    if (held === null) return;
    const differs = heartbeat.flows - held;
    // A flow that changes its owner is missing until the streams of both owners have been read.
    const moving = this.#handovers() - (this.#before?.handovers ?? handovers);
    this.#missingBefore = this.#missing;
    this.#missing = Math.abs(differs) <= moving ? 0 : differs;
  }

  /** If nothing has come since that position, what is held now counts: a passing error may have been repaired. */
  #heldAt({ epoch, number, flowsAt }: Heartbeat): number | null {
    const { applied, flows } = this.#follower;
    if (applied.epoch === epoch && applied.number === number) return flows;
    return this.#follower.flowsAt({ epoch, number: flowsAt });
  }

  #handovers(): number {
    const { retired, taken, stale, moved } = this.#external.counters;
    return retired + taken + stale + moved;
  }

  /**
   * The position that must be applied by now: that of the heartbeat before the last, which leaves time to read it. If
   * that one is older, or of an earlier epoch, it proves nothing about what the peer has published since: the last one
   * counts.
   */
  #due(): Position | null {
    const [last, before] = [this.#last, this.#before];
    if (last === null) return null;
    const isRecent =
      before !== null && before.heartbeat.epoch === last.heartbeat.epoch && last.atMs - before.atMs <= BEAT_MS_MAX;
    return isRecent ? before.heartbeat : last.heartbeat;
  }

  #evidence(): PeerEvidence {
    const follower = this.#follower;
    const { connected, copyTrouble, aside } = follower.state;
    const last = this.#last;
    const { refused, reason, noRoom } = follower.refusals;
    const [now, before] = [this.#missing, this.#missingBefore];
    return {
      expected: { node: follower.node, cluster: this.#cluster, address: this.#port.address },
      self: this.#self,
      unreachable: this.#port.unreachable(),
      heartbeat: last?.heartbeat ?? null,
      silentMs: this.#nowMs() - (last?.atMs ?? this.#startedMs),
      doubled: this.#nowMs() - this.#doubledMs < DOUBLED_MS,
      applied: follower.applied,
      due: this.#due(),
      // A broker that answers but does not have this node's stream.
      exact: follower.isExact && connected,
      refused,
      refusal: reason,
      noRoom,
      missing: now * before > 0 ? now : 0,
      copyTrouble,
      aside,
    };
  }
}
