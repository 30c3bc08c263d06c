import type { MessageKind } from "./format/subjects.js";

/** A message that the broker has not confirmed. */
export interface Unconfirmed {
  kind: MessageKind;
  number: number;
  payload: Uint8Array;
  /** Its place in the stream that is copied; null for an own stream. */
  origin: CopyOrigin | null;
}

/**
 * For the headers of a message in a copy: its sequence in the peer's stream, and where the copy's last complete
 * snapshot begins.
 */
export interface CopyOrigin {
  readonly sequence: number;
  readonly snapshot: number;
}

/**
 * The published messages that are not confirmed yet, oldest first, bounded in number and bytes. The first `sent` of
 * them are on their way. When the ring is full, its owner drops the oldest.
 */
export class UnconfirmedRing {
  readonly #slots: (Unconfirmed | null)[];
  readonly #bytesMax: number;
  #head = 0;
  #count = 0;
  #bytes = 0;
  #sent = 0;
  #sentBytes = 0;

  constructor(messagesMax: number, bytesMax: number) {
    this.#slots = new Array<Unconfirmed | null>(messagesMax).fill(null);
    this.#bytesMax = bytesMax;
  }

  get count(): number {
    return this.#count;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get sent(): number {
    return this.#sent;
  }

  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** True when `bytes` more do not fit. An empty ring takes any one message. */
  isFullFor(bytes: number): boolean {
    return this.#count > 0 && (this.#count === this.#slots.length || this.#bytes + bytes > this.#bytesMax);
  }

  push(message: Unconfirmed): void {
    this.#slots[this.#at(this.#count)] = message;
    this.#count++;
    this.#bytes += message.payload.length;
  }

  /** The message at `index`; 0 is the oldest. */
  get(index: number): Unconfirmed | null {
    return index < this.#count ? (this.#slots[this.#at(index)] ?? null) : null;
  }

  /** The oldest message that is not on its way; marks it as sent. */
  sendNext(): Unconfirmed | null {
    const message = this.get(this.#sent);
    if (message === null) return null;
    this.#sent++;
    this.#sentBytes += message.payload.length;
    return message;
  }

  /** Removes the oldest message. */
  shift(): Unconfirmed | null {
    const message = this.get(0);
    if (message === null) return null;
    this.#slots[this.#head] = null;
    this.#head = this.#at(1);
    this.#count--;
    this.#bytes -= message.payload.length;
    if (this.#sent > 0) {
      this.#sent--;
      this.#sentBytes -= message.payload.length;
    }
    return message;
  }

  /** Marks all messages as unsent, so that they are sent again. */
  unsend(): void {
    this.#sent = 0;
    this.#sentBytes = 0;
  }

  #at(index: number): number {
    const at = this.#head + index;
    return at < this.#slots.length ? at : at - this.#slots.length;
  }
}
