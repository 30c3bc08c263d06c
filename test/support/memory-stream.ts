import { createEnvelopeReader } from "../../src/stream/format/mark.js";
import type { MessageKind } from "../../src/stream/format/subjects.js";
import type { ReaderItem, StreamMessage } from "../../src/stream/reader.js";
import type { JournalSink } from "../../src/sync/ports/own-stream.js";
import type { PeerStream } from "../../src/sync/ports/peer-stream.js";

/**
 * A node's stream in memory, for tests of what stands on both of its sides. `messages` may be cut, reordered or damaged
 * by a test; a message's sequence is its place in the list plus one.
 */
export class MemoryStream implements JournalSink, PeerStream {
  readonly #envelopeOf = createEnvelopeReader();
  readonly messages: StreamMessage[] = [];
  /** Number of streams of this name before this one. */
  recreated = 0;
  readonly backlog = { bytes: 0 };
  /** While true, `publishAcked` answers null, as a broker that drops. */
  dropsAcked = false;
  #wake: (() => void)[] = [];

  publish(kind: MessageKind, _number: number, payload: Uint8Array): void {
    this.append(kind, Uint8Array.from(payload));
  }

  async publishAcked(kind: MessageKind, _number: number, payload: Uint8Array): Promise<number | null> {
    if (this.dropsAcked) return null;
    this.append(kind, Uint8Array.from(payload));
    return this.messages.length;
  }

  async readLast(kind: MessageKind): Promise<StreamMessage | null> {
    return this.messages.findLast((message) => message.kind === kind) ?? null;
  }

  async *read(startSequence: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]> {
    signal.addEventListener("abort", () => this.wake(), { once: true });
    yield [{ type: "state", connected: true }];
    let next = startSequence;
    while (!signal.aborted) {
      const items = this.messages.slice(next - 1).map((message, index, all) => {
        return { ...message, sequence: next + index, pending: all.length - 1 - index };
      });
      next += items.length;
      if (items.length > 0) yield items;
      else await this.#more();
    }
  }

  /** Lets the readers look again. */
  wake(): void {
    for (const resolve of this.#wake.splice(0)) resolve();
  }

  /** The broker loses the end of the stream, or all of it: then there is another stream of this name. */
  lose(count: number): void {
    if (count >= this.messages.length) this.recreated++;
    this.messages.length = Math.max(0, this.messages.length - count);
    this.wake();
  }

  /** Appends a message whose payload nobody changes any more. */
  append(kind: MessageKind, payload: Uint8Array): void {
    this.messages.push({
      type: "message",
      kind,
      sequence: this.messages.length + 1,
      timeMs: this.#envelopeOf(payload)?.wallMs ?? 0,
      payload,
      pending: 0,
    });
    this.wake();
  }

  #more(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }
}
