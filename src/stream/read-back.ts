import type { JetStreamManager, NatsConnection } from "nats";
import { errorText } from "../errors.js";
import { jetStreamOf } from "./connection.js";
import { streamName } from "./format/subjects.js";
import { emptyStream, findStream, hasKept, lacksMessage, readTip, type StreamTip } from "./own-stream.js";
import type { PublisherCounters, PublisherOptions } from "./publisher-options.js";

/** A message that the stream has confirmed: its place there, and its number. */
export interface Confirmed {
  readonly sequence: number;
  readonly number: number;
}

/** Older messages that are read back in a row. With one row in 30 s, that is 368,000 messages in a day. */
const OLDER_MAX = 128;

type ReadBackOptions = Pick<PublisherOptions, "node" | "epoch" | "readNumber" | "older" | "onDamaged" | "log">;

/**
 * Reads back what a stream has confirmed. A stream that counts a confirmed message and does not give it back is damaged:
 * it is emptied, because nobody could read what it confirms behind the damage.
 */
export class ReadBack {
  readonly #options: ReadBackOptions;
  readonly #counters: PublisherCounters;
  /** The confirmed message that was not there. */
  #lacking: Confirmed | null = null;
  /** True from the emptying of the stream until publishing has resumed: only then is the loss reported. */
  #emptied = false;

  /** The next of the older messages to read. */
  #olderAt: number;
  #readsOlder = false;

  constructor(options: ReadBackOptions, counters: PublisherCounters) {
    this.#options = options;
    this.#counters = counters;
    this.#olderAt = options.older?.from ?? 0;
  }

  /** Whether the stream still has a confirmed message, or removed it by age or size; null if unknown. Never rejects. */
  async check(client: NatsConnection, confirmed: Confirmed): Promise<boolean | null> {
    try {
      const kept = await this.#hasKept(await jetStreamOf(client), confirmed);
      this.#counters.readBacks++;
      return kept;
    } catch (error) {
      this.#options.log.debug({ error: errorText(error) }, "the last confirmed message could not be asked for");
      return null;
    }
  }

  /** Reads the next of the older messages back. Resolves with one that is not there; null for none. Never rejects. */
  async checkOlder(client: NatsConnection): Promise<number | null> {
    if (this.#readsOlder) return null;
    this.#readsOlder = true;
    try {
      return await this.#findHole(await jetStreamOf(client));
    } catch (error) {
      this.#options.log.debug({ error: errorText(error) }, "older messages could not be asked for");
      return null;
    } finally {
      this.#readsOlder = false;
    }
  }

  async #findHole(jsm: JetStreamManager): Promise<number | null> {
    const { node } = this.#options;
    const state = (await findStream(jsm, streamName(node)))?.state;
    if (state === undefined) return null;
    const { first_seq: first, last_seq: last } = state;
    if (this.#olderAt < first || this.#olderAt > last) this.#olderAt = first;
    const end = Math.min(this.#olderAt + OLDER_MAX, last + 1);
    for (; this.#olderAt < end; this.#olderAt++) {
      this.#counters.readBacksOlder++;
      if (await lacksMessage(jsm, node, this.#olderAt)) return this.#olderAt;
    }
    return null;
  }

  /** A check has failed: `tip` looks again, and empties the stream if it counts the message. */
  failed(confirmed: Confirmed): void {
    this.#counters.readBacksFailed++;
    this.#lacking = confirmed;
    this.#options.log.error({ ...confirmed }, "the stream does not have what it confirmed");
  }

  /** Publishing has resumed at the last tip. */
  resumed(): void {
    this.#lacking = null;
    this.#emptied = false;
  }

  /** Where the stream ends. One that is damaged is emptied first. Rejects when there is no stream, or no answer. */
  async tip(jsm: JetStreamManager): Promise<StreamTip> {
    const { node, log, onDamaged } = this.#options;
    const tip = await readTip(jsm, node);
    if (tip === null) throw new Error("the stream is gone again");
    if (tip.last === null && !tip.damaged) return { ...tip, damaged: this.#emptied };
    if (!tip.damaged && !this.#emptied && !(await this.#isTorn(jsm, tip))) return tip;
    if (!this.#emptied) this.#counters.damaged++;
    log.error({ stream: node, lastSequence: tip.lastSequence }, "the store of the stream is damaged, it is made anew");
    this.#emptied = true;
    await emptyStream(jsm, node);
    const emptied = await readTip(jsm, node);
    if (emptied === null || emptied.damaged) throw new Error("the damaged stream cannot be made anew");
    onDamaged?.();
    return { ...emptied, damaged: true };
  }

  /** A stream that ends before the message was cut off or made anew: that is no damage. */
  async #isTorn(jsm: JetStreamManager, tip: StreamTip): Promise<boolean> {
    const lacking = this.#lacking;
    return lacking !== null && tip.lastSequence >= lacking.sequence && !(await this.#hasKept(jsm, lacking));
  }

  #hasKept(jsm: JetStreamManager, { sequence, number }: Confirmed): Promise<boolean> {
    const { node, epoch, readNumber } = this.#options;
    return hasKept(jsm, node, sequence, (message) => {
      const found = readNumber(message);
      return found?.epoch === epoch && found.number === number;
    });
  }
}
