import type { MessageKind } from "./format/subjects.js";

/** One message that the broker has not confirmed. */
export interface Unconfirmed {
  kind: MessageKind;
  number: number;
  payload: Uint8Array;
  /** Where it came from, when the stream is a copy. */
  origin: CopyOrigin | null;
}

/** Headers of a message in a copy: its place in the peer's stream, and where the copy's last complete snapshot begins. */
export interface CopyOrigin {
  readonly sequence: number;
  readonly snapshot: number;
}

/**
 * The messages that were handed to the publisher and are not confirmed, oldest first, bounded in number and bytes.
 * The first `sent` of them are on their way; when it is full the oldest makes room.
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

  /** The message at `index`, 0 being the oldest. */
  get(index: number): Unconfirmed | null {
    return index < this.#count ? (this.#slots[this.#at(index)] ?? null) : null;
  }

  /** The oldest one that is not on its way; marks it as sent. */
  sendNext(): Unconfirmed | null {
    const message = this.get(this.#sent);
    if (message === null) return null;
    this.#sent++;
    this.#sentBytes += message.payload.length;
    return message;
  }

  /** Takes the oldest one out. */
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

  /** All of them wait to be sent again. */
  unsend(): void {
    this.#sent = 0;
    this.#sentBytes = 0;
  }

  #at(index: number): number {
    const at = this.#head + index;
    return at < this.#slots.length ? at : at - this.#slots.length;
  }
}
