/** A node's copy of a peer's stream, on its own broker: what test/integration/replica.test.ts shows of the real one. */
import { isAfter, type Position } from "../../../src/stream/format/envelope.js";
import { createEnvelopeReader, MarkCodec } from "../../../src/stream/format/mark.js";
import type { StreamMessage } from "../../../src/stream/reader.js";
import type { CopyTail, Replica } from "../../../src/stream/replica.js";
import type { CopySource, PeerStream } from "../../../src/sync/ports/peer-stream.js";

/** A message of the copy, with its sequence in the peer's stream. */
interface Copied {
  readonly message: StreamMessage;
  readonly originSequence: number;
  readonly position: Position;
}

const NOTHING = { bytes: 0, messages: 0 };

/** The copy outlasts the daemon, except for the messages that it has gathered and not written yet. */
export class SimCopy implements CopySource {
  readonly #envelopeOf = createEnvelopeReader();
  readonly #marks = new MarkCodec();
  readonly #messages: Copied[] = [];
  readonly #canWrite: () => boolean;

  /** `canWrite`: false while the disk is full. */
  constructor(canWrite: () => boolean) {
    this.#canWrite = canWrite;
  }

  /** Sequence of the last message in the peer's stream; 0 when the copy is empty. */
  get originSequence(): number {
    return this.#messages.at(-1)?.originSequence ?? 0;
  }

  /** The daemon is gone, and so are the last messages. */
  loseTail(count: number): void {
    this.#messages.length = Math.max(0, this.#messages.length - count);
  }

  async inspect(): Promise<CopyTail> {
    const last = this.#messages.at(-1);
    return {
      epoch: last?.position.epoch ?? 0,
      snapshotSequence: this.#snapshotSequence(),
      lastSequence: this.#messages.length,
      damaged: false,
    };
  }

  async open(lost: (isDamaged: boolean) => void, anew: boolean): Promise<Replica> {
    if (!this.#canWrite()) throw new Error("no space left on the device");
    if (anew) this.#messages.length = 0;
    let isLost = false;
    const copy = this;
    const replica = {
      get originSequence(): number {
        return copy.originSequence;
      },
      emptied: anew,
      backlog: NOTHING,
      trouble: null,
      append: (message: StreamMessage): void => {
        if (isLost) return;
        if (this.#canWrite()) this.#append(message);
        else {
          isLost = true;
          queueMicrotask(() => lost(false));
        }
      },
      write: () => undefined,
      flush: async () => true,
      empty: async () => {
        this.#messages.length = 0;
      },
      close: () => undefined,
    };
    return replica as unknown as Replica;
  }

  readonly stream: PeerStream = {
    readLast: async (kind) => this.#messages.findLast(({ message }) => message.kind === kind)?.message ?? null,
    read: (start) => this.#read(start),
  };

  async *#read(start: number): AsyncIterable<readonly StreamMessage[]> {
    yield this.#messages.slice(start - 1).map(({ message }) => message);
  }

  /** A message whose position is not behind the last one's is in the copy already. */
  #append(message: StreamMessage): void {
    const envelope = this.#envelopeOf(message.payload);
    if (envelope === null) return;
    const position = { epoch: envelope.epoch, number: envelope.number };
    if (!isAfter(position, this.#messages.at(-1)?.position ?? { epoch: 0, number: 0 })) return;
    const sequence = this.#messages.length + 1;
    this.#messages.push({ message: { ...message, sequence, pending: 0 }, originSequence: message.sequence, position });
  }

  /** Where the last complete snapshot begins in the copy; 0 for none. A snapshot with a hole is none. */
  #snapshotSequence(): number {
    let [id, begin, complete] = [0, 0, 0];
    let before: Position = { epoch: 0, number: 0 };
    for (const { message, position } of this.#messages) {
      if (position.epoch !== before.epoch || position.number !== before.number + 1) id = 0;
      before = position;
      const mark = message.kind === "mark" ? this.#marks.decode(message.payload)?.mark : undefined;
      if (mark?.type === "snapshot-begin") [id, begin] = [mark.id, message.sequence];
      else if (mark?.type === "snapshot-end" && mark.id === id) complete = begin;
    }
    return complete;
  }
}
