import type { MessageKind } from "../../src/stream/format/subjects.js";
import type { ReaderItem, StreamMessage } from "../../src/stream/reader.js";
import type { PeerStream } from "../../src/sync/ports/peer-stream.js";
import type { MemoryStream } from "./memory-stream.js";

/**
 * One node's connection to another's stream. Messages arrive late and a few at a time, and none arrive while it is cut.
 */
export class SimLink implements PeerStream {
  readonly #stream: MemoryStream;
  /** Number of messages that have arrived. */
  #arrived = 0;
  #up = true;
  /** True until a daemon has read its copy, for which it needs no link. */
  #restoring = true;
  #wake: (() => void)[] = [];
  /** Sequence of the last message that was read, and so is in the node's copy. */
  readTo = 0;

  constructor(stream: MemoryStream) {
    this.#stream = stream;
  }

  get up(): boolean {
    return this.#up;
  }

  set up(up: boolean) {
    this.#up = up;
    this.#look();
  }

  /** The next daemon has read the copy. */
  follow(): void {
    this.#restoring = false;
    this.#look();
  }

  /** Number of messages that have not arrived yet. */
  get waiting(): number {
    return this.#up && !this.#restoring ? this.#stream.messages.length - this.#arrived : 0;
  }

  /** Lets `count` messages arrive. */
  deliver(count: number): void {
    this.#arrived += count;
    this.#look();
  }

  /** The node's daemon is gone. Its copy holds what was read, and everything up to `sequence` at least. */
  drop(sequence: number): void {
    this.readTo = Math.max(this.readTo, sequence);
    this.#arrived = this.readTo;
    this.#restoring = true;
  }

  async readLast(kind: MessageKind, signal: AbortSignal): Promise<StreamMessage | null> {
    signal.addEventListener("abort", () => this.#look(), { once: true });
    while (!this.#up && !this.#restoring && !signal.aborted) await this.#more();
    // The copy holds what has arrived. The peer's broker, which is asked otherwise, holds everything.
    const end = this.#restoring ? this.#arrived : this.#stream.messages.length;
    return this.#stream.messages.findLast((one) => one.kind === kind && one.sequence <= end) ?? null;
  }

  async *read(startSequence: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]> {
    signal.addEventListener("abort", () => this.#look(), { once: true });
    let told: boolean | null = null;
    let next = startSequence;
    while (!signal.aborted) {
      const connected = this.#up || this.#restoring;
      if (told !== connected) {
        told = connected;
        yield [{ type: "state", connected }];
        continue;
      }
      const end = this.#arrived;
      const messages = connected ? this.#stream.messages.slice(next - 1, end) : [];
      if (messages.length === 0) await this.#more();
      else {
        next = end + 1;
        yield messages.map((message) => ({ ...message, pending: end - message.sequence }));
        this.readTo = Math.max(this.readTo, end);
      }
    }
  }

  #look(): void {
    for (const resolve of this.#wake.splice(0)) resolve();
  }

  #more(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }
}
