import type { Logger } from "pino";
import { errorText } from "../../errors.js";
import type { Clock } from "../../flow/clock.js";
import { Backoff } from "../../os/backoff.js";
import { pause } from "../../os/pause.js";
import { Turn } from "../../os/turn.js";
import type { Position } from "../../stream/format/envelope.js";
import type { PublisherTrouble } from "../../stream/publisher-options.js";
import type { ReaderItem, StreamMessage } from "../../stream/reader.js";
import type { CopyTail } from "../../stream/replica.js";
import type { CopySource, PeerStream } from "../ports/peer-stream.js";
import type { Applier, BegunEpoch, Refusals } from "./applier.js";
import { newCopyCounters, PeerCopy } from "./peer-copy.js";
import { Quarantine } from "./quarantine.js";
import { replayCopy, replayShared } from "./restore.js";

/** A peer's stream as `status` reports it. */
export interface FollowerState {
  readonly connected: boolean;
  readonly lagEvents: number;
  readonly lagMs: number;
  /** When the last message came, milliseconds; null before the first. */
  readonly lastHeardMs: number | null;
  readonly epoch: number | null;
  /** Stream sequence of the last message that was read; 0 before the first. */
  readonly sequence: number;
  /** What is wrong with the copy on this node, in words; null while it is sound, or where none is kept. */
  readonly copyTrouble: string | null;
  /** Why the stream is not read for a while, in words; null while it is read. */
  readonly aside: string | null;
}

const RETRY_MS = 200;
/** Positions whose flow counts are remembered: more than the messages between two heartbeats. */
const PLACES_MAX = 4096;
/** A copy that cannot be looked at when the node starts is tried again for this long. */
const INSPECT_MS_MAX = 10_000;
const INSPECT_PAUSE_MS_MAX = 2000;
/** How often a peer is asked for a snapshot while its table is not held exactly. */
const ASK_INTERVAL_MS = 1000;
const ASK_INTERVAL_MS_MAX = 30_000;
/** Reading pauses while this many bytes of the copy are unconfirmed. */
const COPY_BACKLOG_BYTES_MAX = 16 * 1024 * 1024;
const COPY_BACKLOG_MESSAGES_MAX = 8192;
const COPY_WAIT_MS = 5;

/** A caller that waits for the follower to reach a certain point. */
interface Waiter {
  readonly isTrue: () => boolean;
  readonly resolve: () => void;
}

/**
 * Applies one peer's stream to the external cache, and copies it to the own broker. It starts after the end of the
 * copy, or else at the begin mark of the peer's last complete snapshot, and applies everything in order. Where batch
 * numbers are missing, it asks the peer for a snapshot, which repairs any loss.
 */
export class Follower {
  readonly #counters = {
    messages: 0,
    bytes: 0,
    resets: 0,
    reconnects: 0,
    /** Snapshots requested from the peer. */
    asked: 0,
  };
  readonly #stream: PeerStream;
  readonly #copySource: CopySource | null;
  readonly #copy: PeerCopy | null;
  readonly #applier: Applier;
  readonly #whole: boolean;
  readonly #ask: () => boolean;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #waiters = new Set<Waiter>();
  readonly #quarantine: Quarantine;
  readonly #turn = new Turn();
  /** True: start at the peer's last complete snapshot, wherever the copy ends. */
  #fromSnapshot = false;
  /** True while reading has begun at the last complete snapshot and nothing has come yet. */
  #atSnapshot = false;
  /** True when the snapshot that the last mark names is gone: start at the first message that is left. */
  #fromFirst = false;
  /** True: the copy is to be emptied before reading begins. */
  #anew = false;
  #connected = false;
  #sequence = 0;
  /** Where the stream ended when reading began. Until that is applied, the peer does not count as in sync. */
  #target = 0;
  #started = false;
  /** No daemon of this node has read the stream from this sequence on before. */
  #newsFrom = Number.POSITIVE_INFINITY;
  /** Stream sequence of the last message that was applied. */
  #at = 0;
  #pending = 0;
  #lastHeardMs: number | null = null;
  #newestMs = 0;
  #askedMs = Number.NEGATIVE_INFINITY;
  #askWaitMs = ASK_INTERVAL_MS;
  #restart = new AbortController();
  /** True: the copy lacks a message in its middle. It is made anew once the peer answers. */
  #copyHasHole = false;
  /** True while the copy, which was damaged, takes all that the peer's stream still holds. */
  #refilling = false;
  /** How many flows were held at the last positions of the stream, by batch number. */
  readonly #placeEpochs = new Float64Array(PLACES_MAX);
  readonly #placeNumbers = new Float64Array(PLACES_MAX);
  readonly #placeFlows = new Float64Array(PLACES_MAX);

  constructor(options: {
    stream: PeerStream;
    /** Null where streams are not copied, because a shared cluster keeps them. */
    copy: CopySource | null;
    applier: Applier;
    /** A new copy takes all that the peer's stream still holds, instead of starting at the peer's last snapshot. */
    whole: boolean;
    /** Asks the peer for a snapshot; false when the peer cannot be reached, or writes what this node does not read. */
    ask: () => boolean;
    clock: Clock;
    /** Milliseconds of a monotonic clock, for the quarantine. */
    nowMs?: () => number;
    log: Logger;
  }) {
    this.#quarantine = new Quarantine(options.nowMs ?? (() => performance.now()));
    this.#stream = options.stream;
    this.#copySource = options.copy;
    this.#applier = options.applier;
    this.#whole = options.whole;
    this.#ask = options.ask;
    this.#clock = options.clock;
    this.#log = options.log;
    const again = (isDamaged: boolean): void => {
      this.#copyHasHole ||= isDamaged;
      this.#restart.abort();
    };
    const { copy: source, log } = options;
    this.#copy = source === null ? null : new PeerCopy({ node: this.node, source, again, log });
  }

  get node(): string {
    return this.#applier.node;
  }

  /** The group `reader.<peer>` of `stats`. */
  get counters() {
    const { count: quarantined } = this.#quarantine;
    return {
      ...this.#counters,
      quarantined,
      ...(this.#copy?.counters ?? newCopyCounters()),
      ...this.#applier.counters,
    };
  }

  /** Number of the peer's flows in the external cache. */
  get flows(): number {
    return this.#applier.flows;
  }

  get state(): FollowerState {
    const behind = this.#pending > 0 || this.#at < this.#target;
    const { epoch } = this.#applier.position;
    return {
      connected: this.#connected,
      lagEvents: this.#pending,
      lagMs: behind ? Math.max(0, this.#clock.wallMs() - this.#applier.wallMs) : 0,
      lastHeardMs: this.#lastHeardMs,
      epoch: epoch === 0 ? null : epoch,
      sequence: this.#sequence,
      copyTrouble: this.#copyTrouble(),
      aside: this.#asideText(),
    };
  }

  /** The position up to which the peer's stream is applied. */
  get applied(): Position {
    return this.#applier.position;
  }

  /** True while the peer's exact table is held, as of `applied`. */
  get isExact(): boolean {
    return this.#applier.exact;
  }

  /** What was refused or found no room since the last complete snapshot. */
  get refusals(): Refusals {
    return this.#applier.refusals;
  }

  /** The peer's last epoch whose first mark was read. */
  get begun(): BegunEpoch {
    return this.#applier.begun;
  }

  /**
   * How many of the peer's flows were held at a position of its stream; null when it was not reached, or too long ago.
   */
  flowsAt({ epoch, number }: Position): number | null {
    const at = number % PLACES_MAX;
    return this.#placeEpochs[at] === epoch && this.#placeNumbers[at] === number ? (this.#placeFlows[at] ?? null) : null;
  }

  #notePlace(): void {
    const { epoch, number } = this.#applier.position;
    const at = number % PLACES_MAX;
    this.#placeEpochs[at] = epoch;
    this.#placeNumbers[at] = number;
    this.#placeFlows[at] = this.#applier.flows;
  }

  #asideText(): string | null {
    const { leftMs } = this.#quarantine;
    if (leftMs === 0) return null;
    const reason = this.#applier.refusals.reason || "they take too long to apply";
    return `put aside for ${Math.ceil(leftMs / 1000)} s, too many of its messages are bad: ${reason}`;
  }

  #copyTrouble(): string | null {
    if (this.#copy === null) return null;
    const isRefilling = this.#refilling && this.#at < this.#target;
    if (isRefilling || (this.#copyHasHole && !this.#copy.isOpen)) {
      return "its copy on this node was damaged, and is being made anew";
    }
    return this.#copy.trouble;
  }

  /** Why the own broker does not store what it is sent for the copy; null while it does, or where none is open. */
  get copyRefusal(): PublisherTrouble | null {
    return this.#copy?.refusal ?? null;
  }

  /**
   * Rebuilds the peer's table as far as possible: from the copy on the own broker, or from the stream on a shared one.
   * Call it before `run`.
   */
  async restore(shared: AbortSignal): Promise<void> {
    // Peers wait side by side: each listens to a signal of its own.
    const signal = AbortSignal.any([shared]);
    try {
      if (this.#copySource === null) {
        this.#at = await replayShared(this.#stream, this.#applier, this.#log, signal);
        return;
      }
      const tail = await this.#inspect(this.#copySource, signal);
      if (tail.damaged)
        this.#log.error({ peer: this.node, tail }, "the copy of the peer's stream is damaged: reading what there is");
      // A server that reads such a store anew may drop all that is behind the hole.
      this.#copyHasHole = !(await replayCopy(this.#copySource.stream, tail, this.#applier, this.#log, signal));
    } catch (error) {
      this.#log.warn({ peer: this.node, error: errorText(error) }, "the copy of the peer's stream cannot be read");
    } finally {
      this.#applier.answer();
    }
  }

  /** An own broker that is slow once must not cost the flows of a peer that is dead. */
  async #inspect(source: CopySource, signal: AbortSignal): Promise<CopyTail> {
    const backoff = new Backoff({ minMs: RETRY_MS, maxMs: INSPECT_PAUSE_MS_MAX });
    const deadlineMs = performance.now() + INSPECT_MS_MAX;
    for (;;) {
      try {
        return await source.inspect();
      } catch (error) {
        if (signal.aborted || performance.now() > deadlineMs) throw error;
        await pause(backoff.nextMs(), signal);
      }
    }
  }

  /** Reads the stream until the signal. Resets and lost connections are ordinary and handled here. */
  async run(signal: AbortSignal): Promise<void> {
    const healing = setInterval(() => this.#heal(), ASK_INTERVAL_MS);
    while (!signal.aborted) {
      this.#restart = new AbortController();
      const either = AbortSignal.any([signal, this.#restart.signal]);
      try {
        const start = await this.#startSequence(either);
        for await (const items of this.#stream.read(start, either)) {
          await this.#take(items, either);
          await this.#copyDrained(either);
        }
      } catch (error) {
        if (!either.aborted) this.#log.warn({ err: error, peer: this.node }, "reading the peer's stream failed; again");
      }
      if (!either.aborted) await pause(RETRY_MS, either);
    }
    clearInterval(healing);
    this.#connected = false;
    await this.#copy?.close();
  }

  /**
   * Discards the position, and reads again from the peer's last complete snapshot (`resync peers`), also of a peer that was
   * put aside.
   */
  resync(): void {
    this.#quarantine.release();
    this.#fromSnapshot = true;
    this.#started = false;
    this.#applier.restart();
    this.#restart.abort();
  }

  /**
   * The peer's epochs begin anew, below the one that was read. Discards all that was read, also in the copy, and reads
   * from the peer's last complete snapshot.
   */
  beginAnew(): void {
    this.#anew = true;
    // One that the peer writes now comes after whatever was wrong in its stream.
    if (this.#ask()) this.#counters.asked++;
    this.resync();
    this.#applier.forget();
  }

  /** Resolves with true when the peer's table is held exactly, or with false when the signal comes first. */
  async exact(signal: AbortSignal): Promise<boolean> {
    await this.#until(() => this.#applier.exact, signal);
    return this.#applier.exact;
  }

  /** Resolves when everything that the peer's stream held at the start of reading is applied, or with the signal. */
  caughtUp(signal: AbortSignal): Promise<void> {
    return this.#until(() => this.#started && this.#at >= this.#target, signal);
  }

  async #until(isTrue: () => boolean, shared: AbortSignal): Promise<void> {
    if (shared.aborted || isTrue()) return;
    const signal = AbortSignal.any([shared]);
    await new Promise<void>((resolve) => {
      const waiter = { isTrue, resolve: () => done() };
      const done = (): void => {
        this.#waiters.delete(waiter);
        signal.removeEventListener("abort", done);
        resolve();
      };
      this.#waiters.add(waiter);
      signal.addEventListener("abort", done, { once: true });
    });
  }

  /** Something was read: waiters that have reached their point continue. */
  #wake(): void {
    for (const { isTrue, resolve } of this.#waiters) if (isTrue()) resolve();
  }

  /** Asks at once for what is missing (`hook backup`, and when the peer writes what this node reads again). */
  catchUp(): void {
    this.#askedMs = Number.NEGATIVE_INFINITY;
    this.#askWaitMs = ASK_INTERVAL_MS;
    this.#heal();
  }

  /** The own broker is connected again: copying resumes where the copy ends. */
  resumeCopy(): void {
    this.#copy?.resume();
  }

  async #startSequence(signal: AbortSignal): Promise<number> {
    this.#started = false;
    const last = await this.#stream.readLast("mark", signal);
    const lastEvent = await this.#stream.readLast("ev", signal);
    // Only once the peer answers: a damaged copy is replaced here, and until then it may be all that is left of the
    // peer.
    if (this.#copy !== null && !this.#copy.isOpen && !signal.aborted) {
      this.#refilling = await this.#copy.open(this.#copyHasHole);
      if (this.#copy.isOpen) this.#copyHasHole = false;
      if (this.#refilling) this.#fromFirst = true;
    }
    if (this.#anew && !signal.aborted) this.#anew = (await this.#copy?.empty()) === false;
    this.#newestMs = Math.max(last?.timeMs ?? 0, lastEvent?.timeMs ?? 0);
    // Without a copy, reading goes on where it was.
    const copied = this.#copy?.isOpen ? this.#copy.originSequence : this.#at;
    const fromSnapshot = this.#fromSnapshot || copied === 0;
    const fromFirst = this.#fromFirst || (this.#whole && copied === 0);
    const start = fromFirst ? 1 : fromSnapshot ? this.#snapshotStart(last) : copied + 1;
    this.#newsFrom = fromFirst || fromSnapshot ? Math.max(last?.sequence ?? 0, lastEvent?.sequence ?? 0) + 1 : start;
    this.#fromSnapshot = false;
    if (start > Math.max(this.#at, copied) + 1) this.#applier.skip();
    this.#atSnapshot = fromSnapshot && !fromFirst;
    this.#at = start - 1;
    this.#started = !signal.aborted;
    this.#target = Math.max(last?.sequence ?? 0, lastEvent?.sequence ?? 0);
    this.#log.debug({ peer: this.node, start }, "following the peer");
    this.#wake();
    return start;
  }

  #snapshotStart(last: StreamMessage | null): number {
    return Math.max(1, last === null ? 1 : this.#applier.snapshotSequenceOf(last.payload));
  }

  /**
   * A million flows may come at once, so this yields now and then. What the signal leaves undone is read again later.
   */
  async #take(items: readonly ReaderItem[], signal: AbortSignal): Promise<void> {
    for (const item of items) {
      if (this.#turn.over) await this.#turn.yield();
      if (signal.aborted) return;
      switch (item.type) {
        case "state":
          if (item.connected && !this.#connected) this.#counters.reconnects++;
          this.#connected = item.connected;
          if (!item.connected) this.#copy?.write();
          break;
        case "reset":
          this.#counters.resets++;
          // First from the last snapshot. When that is gone as well, from the first message that is left.
          this.#fromFirst = this.#atSnapshot;
          this.#fromSnapshot = true;
          // What comes in place of messages that are gone is news, even if the peer's epochs begin anew below them.
          if (item.reason !== "trimmed") this.#applier.forget();
          this.#log.warn({ peer: this.node, reason: item.reason }, "the peer's stream was reset; reading it anew");
          break;
        case "message":
          if (this.#message(item)) await this.#stayAside(signal);
          break;
        case "skipped":
          break;
      }
    }
    this.#heal();
    this.#wake();
  }

  /** The peer has used up its budget. Nothing of its stream is read meanwhile: the reader's window fills, and it stops. */
  async #stayAside(signal: AbortSignal): Promise<void> {
    this.#log.error({ peer: this.node, reason: this.#asideText() }, "the peer is put aside");
    await pause(this.#quarantine.leftMs, signal);
    this.#log.info({ peer: this.node }, "the peer's stream is read again");
  }

  /** True when the peer is to be put aside. */
  #message(message: StreamMessage): boolean {
    const nowMs = this.#clock.wallMs();
    this.#connected = true;
    this.#fromFirst = false;
    this.#atSnapshot = false;
    this.#sequence = message.sequence;
    this.#at = message.sequence;
    this.#pending = message.pending;
    this.#lastHeardMs = nowMs;
    this.#counters.messages++;
    this.#counters.bytes += message.payload.length;
    this.#copy?.append(message);
    if (message.sequence >= this.#newsFrom) this.#applier.goOn();
    // The age of a message that was stored earlier is taken from the peer's broker, because its clock may differ from
    // ours.
    const ageMs = Math.max(0, this.#newestMs - message.timeMs);
    const { offences } = this.#applier;
    const startedMs = performance.now();
    this.#applier.apply(message, nowMs - ageMs);
    this.#notePlace();
    return this.#quarantine.applied(this.#applier.offences > offences, performance.now() - startedMs);
  }

  /** Batch numbers are missing, there was no snapshot, or rows found no room: the peer writes a snapshot when asked. */
  #heal(): void {
    const nowMs = performance.now();
    const { refused, noRoom } = this.#applier.refusals;
    const isWrong = !this.#applier.exact || refused > 0;
    if (!isWrong && noRoom === 0) this.#askWaitMs = ASK_INTERVAL_MS;
    // While there is no room, a snapshot brings nothing.
    const lacks = isWrong || (noRoom > 0 && this.#applier.hasRoom);
    if (!lacks || this.#applier.inSnapshot || !this.#connected || this.#pending > 0) return;
    // What is missing may be among the messages that are still unread.
    if (!this.#started || this.#at < this.#target) return;
    if (nowMs - this.#askedMs < this.#askWaitMs) return;
    this.#askedMs = nowMs;
    if (!this.#ask()) return;
    this.#counters.asked++;
    // A snapshot costs the peer its whole table. If one does not help, the next request waits longer.
    this.#askWaitMs = Math.min(2 * this.#askWaitMs, ASK_INTERVAL_MS_MAX);
  }

  async #copyDrained(signal: AbortSignal): Promise<void> {
    while (this.#copy !== null && !signal.aborted) {
      const { bytes, messages } = this.#copy.backlog;
      if (bytes <= COPY_BACKLOG_BYTES_MAX && messages <= COPY_BACKLOG_MESSAGES_MAX) return;
      await pause(COPY_WAIT_MS, signal);
    }
  }
}
