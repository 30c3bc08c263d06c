import type { Logger } from "pino";
import { errorText } from "../../errors.js";
import type { Clock } from "../../flow/clock.js";
import { pause } from "../../os/pause.js";
import { Turn } from "../../os/turn.js";
import type { Position } from "../../stream/format/envelope.js";
import type { ReaderItem, StreamMessage } from "../../stream/reader.js";
import type { Replica } from "../../stream/replica.js";
import type { CopySource, PeerStream } from "../ports/peer-stream.js";
import type { Applier, Refusals } from "./applier.js";
import { replayCopy, replayShared } from "./restore.js";

/** What `status` says of a peer. */
export interface FollowerState {
  readonly connected: boolean;
  readonly inSync: boolean;
  readonly lagEvents: number;
  readonly lagMs: number;
  /** When the last message came, milliseconds; null when none was heard yet. */
  readonly lastHeardMs: number | null;
  readonly epoch: number | null;
  /** Stream sequence of the last message read; 0 before the first. */
  readonly sequence: number;
  /** What is wrong with the copy on this node, in words; null while it is sound, or where none is kept. */
  readonly copyTrouble: string | null;
}

const RETRY_MS = 200;
/** Places whose flows are remembered: more messages than come between two heartbeats. */
const PLACES_MAX = 4096;
/** Trouble with the copy that is over sooner is ordinary. */
const COPY_PATIENCE_MS = 3000;
/** How often a peer is asked for a snapshot while its state is not held exactly. */
const ASK_INTERVAL_MS = 1000;
const ASK_INTERVAL_MS_MAX = 30_000;
/** Reading waits while so much of the copy is unconfirmed. */
const COPY_BACKLOG_BYTES_MAX = 16 * 1024 * 1024;
const COPY_BACKLOG_MESSAGES_MAX = 8192;
const COPY_WAIT_MS = 5;
/** How long the end waits for the own broker to confirm the copy. */
const COPY_FLUSH_MS = 2000;

/** Somebody who waits for the follower to be so far. */
interface Waiter {
  readonly isTrue: () => boolean;
  readonly resolve: () => void;
}

/**
 * The way in: one peer's stream into the external cache, and a copy of it onto the own broker. It starts behind the copy, else at
 * the begin mark of the peer's last complete snapshot, and applies everything in order. Where numbers are missing, it asks the
 * peer for a snapshot, which heals whatever happened.
 */
export class Follower {
  readonly #counters = {
    messages: 0,
    bytes: 0,
    resets: 0,
    reconnects: 0,
    /** Snapshots asked of the peer. */
    asked: 0,
    /** Times that copying had to begin anew because the own broker was away for too long. */
    copyLost: 0,
  };
  readonly #stream: PeerStream;
  readonly #copy: CopySource | null;
  readonly #applier: Applier;
  readonly #whole: boolean;
  readonly #ask: () => boolean;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #waiters = new Set<Waiter>();
  readonly #turn = new Turn();
  #replica: Replica | null = null;
  /** Start at the last complete snapshot of the peer, wherever the copy ends. */
  #fromSnapshot = false;
  /** Reading began at the last complete snapshot, and nothing has come yet. */
  #atSnapshot = false;
  /** The snapshot that the last mark names is gone: begin at what is there. */
  #fromFirst = false;
  #connected = false;
  #sequence = 0;
  /** Where the stream ended when reading began: until then this node cannot say that it is in sync. */
  #target = 0;
  #started = false;
  /** From here on no daemon of this node has read the stream before. */
  #newsFrom = Number.POSITIVE_INFINITY;
  /** Sequence of the last message that is applied. */
  #at = 0;
  #pending = 0;
  #lastHeardMs: number | null = null;
  #newestMs = 0;
  #askedMs = Number.NEGATIVE_INFINITY;
  #askWaitMs = ASK_INTERVAL_MS;
  #restart = new AbortController();
  /** The copy was damaged, and takes all that the peer's stream still holds. */
  #refilling = false;
  /** Flows held at the last places of the stream, by batch number. */
  readonly #placeEpochs = new Float64Array(PLACES_MAX);
  readonly #placeNumbers = new Float64Array(PLACES_MAX);
  readonly #placeFlows = new Float64Array(PLACES_MAX);

  constructor(options: {
    stream: PeerStream;
    /** Null where streams are not copied (a shared cluster keeps them). */
    copy: CopySource | null;
    applier: Applier;
    /** A copy that is begun takes all that the peer's stream still holds, not only what is needed from its last snapshot on. */
    whole: boolean;
    /** Asks the peer for a snapshot; false when it cannot be reached. */
    ask: () => boolean;
    clock: Clock;
    log: Logger;
  }) {
    this.#stream = options.stream;
    this.#copy = options.copy;
    this.#applier = options.applier;
    this.#whole = options.whole;
    this.#ask = options.ask;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  get node(): string {
    return this.#applier.node;
  }

  /** The group `reader.<peer>` of `stats`. */
  get counters() {
    return { ...this.#counters, ...this.#applier.counters };
  }

  /** Flows of the peer in the external cache. */
  get flows(): number {
    return this.#applier.flows;
  }

  get state(): FollowerState {
    const behind = this.#pending > 0 || this.#at < this.#target;
    const { epoch } = this.#applier.position;
    return {
      connected: this.#connected,
      inSync: this.#connected && this.#applier.exact && !behind,
      lagEvents: this.#pending,
      lagMs: behind ? Math.max(0, this.#clock.wallMs() - this.#applier.wallMs) : 0,
      lastHeardMs: this.#lastHeardMs,
      epoch: epoch === 0 ? null : epoch,
      sequence: this.#sequence,
      copyTrouble: this.#copyTrouble(),
    };
  }

  /** The place to which the peer's stream is applied. */
  get applied(): Position {
    return this.#applier.position;
  }

  /** True while the peer's exact table is held, as of `applied`. */
  get isExact(): boolean {
    return this.#applier.exact;
  }

  /** What was not taken since the last complete snapshot. */
  get refusals(): Refusals {
    return this.#applier.refusals;
  }

  /** How many flows of the peer were held at a place of its stream; null when it was not reached, or long ago. */
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

  #copyTrouble(): string | null {
    if (this.#copy === null) return null;
    if (this.#replica === null) return "its copy on this node cannot be written: the own broker is away";
    if (this.#refilling && this.#at < this.#target) return "its copy on this node was damaged, and is being made anew";
    const { trouble } = this.#replica;
    const isOld = trouble !== null && performance.now() - trouble.sinceMs > COPY_PATIENCE_MS;
    return isOld ? `its copy on this node cannot be written: ${trouble.text}` : null;
  }

  /** Rebuilds the peer's table from the copy on the own broker, or the shared one's stream, as far as that goes. Before `run`. */
  async restore(signal: AbortSignal): Promise<void> {
    try {
      if (this.#copy === null) {
        this.#at = await replayShared(this.#stream, this.#applier, this.#log, signal);
        return;
      }
      const tail = await this.#copy.inspect();
      if (tail.damaged)
        this.#log.error({ peer: this.node, tail }, "the copy of the peer's stream is damaged: reading what there is");
      await replayCopy(this.#copy.stream, tail, this.#applier, this.#log, signal);
    } catch (error) {
      this.#log.warn({ peer: this.node, error: errorText(error) }, "the copy of the peer's stream cannot be read");
    }
  }

  /** Reads the stream until the signal; resets and lost connections are ordinary. */
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
    if (this.#replica !== null) await this.#replica.flush(COPY_FLUSH_MS);
    this.#replica?.close();
  }

  /** Forgets where it is and reads again from the peer's last complete snapshot (`resync peers`). */
  resync(): void {
    this.#fromSnapshot = true;
    this.#started = false;
    this.#applier.restart();
    this.#restart.abort();
  }

  /** Resolves with true when the peer's state is held exactly, with false when the signal came first. */
  async exact(signal: AbortSignal): Promise<boolean> {
    await this.#until(() => this.#applier.exact, signal);
    return this.#applier.exact;
  }

  /** Resolves when all that the peer's stream held when reading began is applied, or with the signal. */
  caughtUp(signal: AbortSignal): Promise<void> {
    return this.#until(() => this.#started && this.#at >= this.#target, signal);
  }

  async #until(isTrue: () => boolean, signal: AbortSignal): Promise<void> {
    if (signal.aborted || isTrue()) return;
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

  /** Something was read: those go on who waited for that. */
  #wake(): void {
    for (const { isTrue, resolve } of this.#waiters) if (isTrue()) resolve();
  }

  /** Asks for what is missing, at once (`hook backup`). */
  catchUp(): void {
    this.#askedMs = Number.NEGATIVE_INFINITY;
    this.#heal();
  }

  /** The own broker is back: copying goes on where the copy ends. */
  resumeCopy(): void {
    if (this.#copy !== null && this.#replica === null) this.#restart.abort();
  }

  async #openCopy(copy: CopySource): Promise<Replica> {
    return copy.open(() => {
      this.#counters.copyLost++;
      this.#replica?.close();
      this.#replica = null;
      this.#restart.abort();
    });
  }

  async #startSequence(signal: AbortSignal): Promise<number> {
    this.#started = false;
    const last = await this.#stream.readLast("mark", signal);
    const lastEvent = await this.#stream.readLast("ev", signal);
    // Not before the peer answers: a damaged copy is made anew here, and until then it may be all that there is of the peer.
    if (this.#copy !== null && this.#replica === null && !signal.aborted) {
      this.#replica = await this.#openCopy(this.#copy).catch(() => null);
      this.#refilling = this.#replica?.emptied === true;
      if (this.#refilling) this.#fromFirst = true;
    }
    this.#newestMs = Math.max(last?.timeMs ?? 0, lastEvent?.timeMs ?? 0);
    const copied = this.#copy === null ? this.#at : (this.#replica?.originSequence ?? 0);
    const fromSnapshot = this.#fromSnapshot || copied === 0;
    const fromFirst = this.#fromFirst || (this.#whole && copied === 0);
    const start = fromFirst ? 1 : fromSnapshot ? this.#snapshotStart(last) : copied + 1;
    this.#newsFrom = fromFirst || fromSnapshot ? Math.max(last?.sequence ?? 0, lastEvent?.sequence ?? 0) + 1 : start;
    this.#fromSnapshot = false;
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

  /** What has come at a time may be a million flows. What the signal leaves undone is read again. */
  async #take(items: readonly ReaderItem[], signal: AbortSignal): Promise<void> {
    for (const item of items) {
      if (this.#turn.over) await this.#turn.yield();
      if (signal.aborted) return;
      switch (item.type) {
        case "state":
          if (item.connected && !this.#connected) this.#counters.reconnects++;
          this.#connected = item.connected;
          break;
        case "reset":
          this.#counters.resets++;
          // Once from the last snapshot; when that is gone as well, from what there is.
          this.#fromFirst = this.#atSnapshot;
          this.#fromSnapshot = true;
          this.#log.warn({ peer: this.node, reason: item.reason }, "the peer's stream was reset; reading it anew");
          break;
        case "message":
          this.#message(item);
          break;
        case "skipped":
          break;
      }
    }
    this.#heal();
    this.#wake();
  }

  #message(message: StreamMessage): void {
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
    this.#replica?.append(message);
    if (message.sequence >= this.#newsFrom) this.#applier.goOn();
    // What was stored before we came is as old as the peer's broker says; its clock need not be ours.
    const ageMs = Math.max(0, this.#newestMs - message.timeMs);
    this.#applier.apply(message, nowMs - ageMs);
    this.#notePlace();
  }

  /** Numbers are missing, or there was no snapshot: the peer writes one when asked. */
  #heal(): void {
    const nowMs = performance.now();
    const lacks = !this.#applier.exact || this.#applier.refusals.refused > 0;
    if (!lacks) this.#askWaitMs = ASK_INTERVAL_MS;
    if (!lacks || this.#applier.inSnapshot || !this.#connected || this.#pending > 0) return;
    // What is missing may be in what has not been read yet.
    if (!this.#started || this.#at < this.#target) return;
    if (nowMs - this.#askedMs < this.#askWaitMs) return;
    this.#askedMs = nowMs;
    // A snapshot costs the peer its whole table: what it does not heal is not asked for again and again.
    this.#askWaitMs = Math.min(2 * this.#askWaitMs, ASK_INTERVAL_MS_MAX);
    if (this.#ask()) this.#counters.asked++;
  }

  async #copyDrained(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const { bytes, messages } = this.#replica?.backlog ?? { bytes: 0, messages: 0 };
      if (bytes <= COPY_BACKLOG_BYTES_MAX && messages <= COPY_BACKLOG_MESSAGES_MAX) return;
      await pause(COPY_WAIT_MS, signal);
    }
  }
}
