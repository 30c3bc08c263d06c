/**
 * One buffer of fixed slots, allocated once, that takes up to SLOTS datagrams per recvmmsg:
 *
 *   headers   SLOTS × struct mmsghdr (64 bytes), each pointing at its iovec
 *   iovecs    SLOTS × struct iovec (16 bytes), each pointing at its slot
 *   slots     SLOTS × SLOT_STRIDE bytes
 */
import * as libc from "../os/libc.js";

/** Datagrams of one read. */
export const SLOTS = 128;
/** A conntrack message stays below 1 KB; room for long security contexts. */
const SLOT_BYTES = 4096;
/** Not a power of two, so that the slots do not share the sets of the CPU's cache. */
const SLOT_STRIDE = SLOT_BYTES + 64;
const MMSGHDR_BYTES = 64;
const MMSGHDR_FLAGS = 48;
const MMSGHDR_LENGTH = 56;
const IOVEC_BYTES = 16;

/** The memory that the kernel writes into. Its addresses stand in the iovecs, so the owner keeps the object. */
export class ReceiveBuffer {
  readonly bytes = libc.allocateStable(SLOTS * SLOT_STRIDE);
  readonly words = new Uint32Array(this.bytes.buffer);
  readonly #headers = libc.allocateStable(SLOTS * MMSGHDR_BYTES);
  readonly #headerWords = new Uint32Array(this.#headers.buffer);
  readonly #iovecs = libc.allocateStable(SLOTS * IOVEC_BYTES);

  constructor() {
    const headers = new BigUint64Array(this.#headers.buffer);
    const iovecs = new BigUint64Array(this.#iovecs.buffer);
    const bytesAddress = libc.addressOf(this.bytes);
    const iovecsAddress = libc.addressOf(this.#iovecs);
    for (let slot = 0; slot < SLOTS; slot++) {
      iovecs[slot * 2] = bytesAddress + BigInt(slot * SLOT_STRIDE);
      iovecs[slot * 2 + 1] = BigInt(SLOT_BYTES);
      // msg_iov and msg_iovlen: the third and fourth word of struct msghdr.
      headers[slot * 8 + 2] = iovecsAddress + BigInt(slot * IOVEC_BYTES);
      headers[slot * 8 + 3] = 1n;
    }
  }

  /** Reads at most `datagramsMax`, up to SLOTS, without blocking: the number of datagrams, or -1 with errno set. */
  read(fd: number, datagramsMax: number): number {
    return libc.recvmmsg(fd, this.#headers, datagramsMax, libc.MSG_DONTWAIT, null);
  }

  start(slot: number): number {
    return slot * SLOT_STRIDE;
  }

  length(slot: number): number {
    return Math.min(this.#headerWords[(slot * MMSGHDR_BYTES + MMSGHDR_LENGTH) >> 2]!, SLOT_BYTES);
  }

  isTruncated(slot: number): boolean {
    return (this.#headerWords[(slot * MMSGHDR_BYTES + MMSGHDR_FLAGS) >> 2]! & libc.MSG_TRUNC) !== 0;
  }
}
