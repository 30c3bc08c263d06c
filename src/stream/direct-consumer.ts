import type { NatsConnection } from "nats";
import { pause } from "../os/pause.js";
import { API_TIMEOUT_MS } from "./connection.js";
import { directGet, type StoredMessage } from "./own-stream.js";
import type { ConsumerFailure, StreamConsumer } from "./pull-consumer.js";

/** What is read directly, from where, and for whom. */
export interface DirectConsumerOptions {
  client: NatsConnection;
  /** The stream's node, as the broker calls it. */
  name: string;
  /** Stream sequence to begin with. */
  startSequence: number;
  /** The last sequence that the stream had when it was looked at. */
  lastSequence: number;
  /** For how long what is new is read directly too; 0: the first that comes ends it. */
  handoverMs: number;
  /** How much there is room for. */
  room: () => { messages: number; bytes: number };
  /** Gets each message once and in order. False makes the consumer fail. Must not throw. */
  onMessage: (message: StoredMessage, pending: number) => boolean;
  /** Called once. Must not throw. */
  onFailure: (failure: ConsumerFailure) => void;
}

/** Requests for single messages that are under way at a time. */
const REQUESTS_MAX = 64;
/** How often the end of the stream is looked at. */
const LOOK_MS = 500;

/**
 * Reads a stream on a shared broker by requests for single messages, which any server answers that holds it: where the
 * node's daemon is silent, for the stream outlives it, and where consumers bring nothing, as after the loss of the server
 * that one was on. When something new comes after `handoverMs`, that is reported as the failure `handovers`, and the owner
 * makes another consumer.
 */
export class DirectConsumer implements StreamConsumer {
  readonly #options: DirectConsumerOptions;
  readonly #stop = new AbortController();
  /** Ends the wait for room. */
  #wake: (() => void) | null = null;
  #next: number;

  constructor(options: DirectConsumerOptions) {
    this.#options = options;
    this.#next = options.startSequence;
  }

  async start(): Promise<void> {
    void this.#run().catch(() => this.#fail("refusals"));
  }

  pull(): void {
    this.#wake?.();
  }

  deafen(): void {
    this.#stop.abort();
    this.#wake?.();
  }

  async delete(): Promise<void> {
    this.deafen();
  }

  async #run(): Promise<void> {
    const { lastSequence, handoverMs } = this.#options;
    const handoverAtMs = performance.now() + handoverMs;
    while (!this.#stop.signal.aborted && this.#next <= lastSequence) {
      // Removed by age or size, or the server that was asked lags behind.
      if (!(await this.#readOn(lastSequence))) return this.#fail("sequenceHoles");
    }
    while (!this.#stop.signal.aborted) {
      await pause(LOOK_MS, this.#stop.signal, { ref: false });
      if (this.#stop.signal.aborted) return;
      if (performance.now() < handoverAtMs) while (await this.#readOn(Number.POSITIVE_INFINITY));
      else if ((await this.#get(this.#next)) !== null) return this.#fail("handovers");
    }
  }

  /** Reads as many messages as there is room for, at least one, up to `last`. False when one is not there, or is refused. */
  async #readOn(last: number): Promise<boolean> {
    const room = await this.#room();
    const end = Math.min(this.#next + Math.min(room, REQUESTS_MAX), last + 1);
    const wanted = Array.from({ length: end - this.#next }, (_, index) => this.#get(this.#next + index));
    for (const message of await Promise.all(wanted)) {
      if (this.#stop.signal.aborted || message === null) return false;
      const pending = Math.max(0, this.#options.lastSequence - message.sequence);
      if (!this.#options.onMessage(message, pending)) return false;
      this.#next = message.sequence + 1;
    }
    return true;
  }

  /** Waits until there is room for a message. */
  async #room(): Promise<number> {
    for (;;) {
      const { messages, bytes } = this.#options.room();
      if (this.#stop.signal.aborted) return 0;
      if (messages >= 1 && bytes > 0) return Math.floor(messages);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #get(sequence: number): Promise<StoredMessage | null> {
    return directGet(this.#options.client, this.#options.name, sequence, API_TIMEOUT_MS);
  }

  #fail(failure: ConsumerFailure): void {
    if (this.#stop.signal.aborted) return;
    this.deafen();
    this.#options.onFailure(failure);
  }
}
