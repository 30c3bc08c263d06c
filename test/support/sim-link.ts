import type { Heartbeat } from "../../src/stream/format/heartbeat.js";
import type { MessageKind } from "../../src/stream/format/subjects.js";
import type { ReaderItem, ResetReason, StreamMessage } from "../../src/stream/reader.js";
import type { PeerStream } from "../../src/sync/ports/peer-stream.js";
import type { MemoryStream } from "./memory-stream.js";
import type { SimCopy } from "./sim/copy.js";

/**
 * One node's connection to another's stream. Messages arrive late and a few at a time, and none arrive while it is cut.
 */
export class SimLink implements PeerStream {
  /** Null where a shared broker keeps all streams: the daemon then starts by reading the stream itself. */
  readonly copy: SimCopy | null;
  readonly #stream: MemoryStream;
  readonly #onRead: (message: StreamMessage) => void;
  /** Number of messages that have arrived. */
  #arrived = 0;
  #up = true;
  /** Without a copy: true until a daemon has read what its broker has, for which it needs no link. */
  #restoring: boolean;
  #wake: (() => void)[] = [];
  /** Sequence of the last message that was read. */
  readTo = 0;
  readonly #hearers = new Set<(heartbeat: Heartbeat) => void>();

  /** `onRead`: called with each message that is read. */
  constructor(stream: MemoryStream, copy: SimCopy | null, onRead: (message: StreamMessage) => void) {
    this.#stream = stream;
    this.#onRead = onRead;
    this.copy = copy;
    this.#restoring = copy === null;
  }

  get up(): boolean {
    return this.#up;
  }

  set up(up: boolean) {
    this.#up = up;
    this.#look();
  }

  /** The next daemon has read what its broker has. */
  follow(): void {
    this.#restoring = false;
    this.#look();
  }

  /** Number of messages that have not arrived yet. */
  get waiting(): number {
    return this.#up && !this.#restoring ? this.#stream.messages.length - this.#arrived : 0;
  }

  /** Calls `heard` with each heartbeat of the peer, until the returned function is called. */
  hear(heard: (heartbeat: Heartbeat) => void): () => void {
    this.#hearers.add(heard);
    return () => this.#hearers.delete(heard);
  }

  /** The peer sends a heartbeat. */
  beat(heartbeat: Heartbeat): void {
    if (this.#up) for (const heard of this.#hearers) heard(heartbeat);
  }

  /** Lets `count` messages arrive. */
  deliver(count: number): void {
    this.#arrived += count;
    this.#look();
  }

  /** The end of the peer's stream is gone. A reader hears of that when it looks. */
  shorten(): void {
    const { length } = this.#stream.messages;
    this.#arrived = Math.min(this.#arrived, length);
    if (this.copy === null) this.readTo = Math.min(this.readTo, length);
    this.#look();
  }

  /**
   * The node's daemon is gone, and `gathered` messages that it had not written to the copy. Without a copy, the broker
   * has everything up to `sequence` at least.
   */
  drop(sequence: number, gathered: number): void {
    if (this.copy === null) this.readTo = Math.max(this.readTo, sequence);
    else {
      this.copy.loseTail(gathered);
      this.readTo = this.copy.originSequence;
    }
    this.#arrived = Math.min(this.readTo, this.#stream.messages.length);
    this.#restoring = this.copy === null;
  }

  async readLast(kind: MessageKind, signal: AbortSignal): Promise<StreamMessage | null> {
    signal.addEventListener("abort", () => this.#look(), { once: true });
    while (!this.#up && !this.#restoring && !signal.aborted) await this.#more();
    // A broker has what has arrived. The peer's own broker, which is asked otherwise, holds everything.
    const end = this.#restoring ? this.#arrived : this.#stream.messages.length;
    return this.#stream.messages.findLast((one) => one.kind === kind && one.sequence <= end) ?? null;
  }

  async *read(startSequence: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]> {
    signal.addEventListener("abort", () => this.#look(), { once: true });
    const { recreated } = this.#stream;
    let told: boolean | null = null;
    let next = startSequence;
    let last: StreamMessage | null = null;
    while (!signal.aborted) {
      const connected = this.#up || this.#restoring;
      if (told !== connected) {
        told = connected;
        yield [{ type: "state", connected }];
        continue;
      }
      const reason = connected ? this.#resetReason(recreated, next, last) : null;
      if (reason !== null) {
        this.#arrived = 0;
        yield [{ type: "reset", reason }];
        return;
      }
      const end = Math.min(this.#arrived, this.#stream.messages.length);
      const messages = connected ? this.#stream.messages.slice(next - 1, end) : [];
      if (messages.length === 0) await this.#more();
      else {
        next = end + 1;
        last = messages.at(-1)!;
        for (const message of messages) this.#onRead(message);
        yield messages.map((message) => ({ ...message, pending: end - message.sequence }));
        this.readTo = Math.max(this.readTo, end);
      }
    }
  }

  /** Why a reader cannot go on at `next`; null when it can. */
  #resetReason(recreated: number, next: number, last: StreamMessage | null): ResetReason | null {
    const { messages } = this.#stream;
    if (recreated !== this.#stream.recreated) return "recreated";
    const isShorter = next > messages.length + 1;
    return isShorter || (last !== null && messages[last.sequence - 1] !== last) ? "truncated" : null;
  }

  #look(): void {
    for (const resolve of this.#wake.splice(0)) resolve();
  }

  #more(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }
}
