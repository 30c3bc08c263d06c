/** The bare way to the kernel: requests that were encoded beforehand, many in one send, and nothing between. */
import koffi from "koffi";
import { NETLINK_NETFILTER } from "../../../src/ctnetlink/constants.js";
import { RequestBatch } from "../../../src/ctnetlink/encode.js";
import { RECORD_WORDS } from "../../../src/flow/record.js";
import * as libc from "../../../src/os/libc.js";
import { writeTestFlow } from "../../support/cluster/flows.js";
import { inNamespace } from "../../support/kernel-namespace.js";

const SO_SNDBUFFORCE = 32;
const BUFFER_BYTES = 1 << 20;
const REQUEST_BYTES_MAX = 320;
const NLMSG_ERROR = 2;
const ENCODE = { timeoutSeconds: 86_400, liberal: false };

const recv = koffi.load(null).func("long recv(int fd, void *bytes, size_t length, int flags)") as (
  fd: number,
  bytes: Uint8Array,
  length: number,
  flags: number,
) => number | bigint;

/** Requests of one kind about the flows 0 … count - 1, one behind the other. */
export interface Encoded {
  readonly bytes: Uint8Array;
  /** Where each begins; one more for the end. */
  readonly at: Uint32Array;
}

/** Encodes the same request about `count` flows of a range. */
export function encodeRequests(kind: "create" | "delete", range: number, from: number, count: number): Encoded {
  const batch = new RequestBatch(count * REQUEST_BYTES_MAX + 4096);
  const words = new Uint32Array(RECORD_WORDS);
  const at = new Uint32Array(count + 1);
  for (let index = 0; index < count; index++) {
    writeTestFlow(words, range, from + index, 1 + (from + index));
    const taken = kind === "create" ? batch.create(words, 0, null, ENCODE) : batch.delete(words, 0);
    if (!taken) throw new Error("a batch of the bench is larger than its buffer");
    at[index + 1] = batch.length;
  }
  return { bytes: batch.bytes(0, 1), at };
}

/** A request socket in one network namespace whose calls block. */
export class Requester {
  refused = 0;
  readonly #fd: number;
  readonly #answer = new Uint8Array(64 * 1024);
  readonly #view = new DataView(this.#answer.buffer);

  constructor(namespace: string) {
    this.#fd = inNamespace(namespace, () => libc.socket(libc.AF_NETLINK, libc.SOCK_RAW, NETLINK_NETFILTER));
    if (this.#fd < 0) throw new Error(`netlink socket: errno ${libc.errno()}`);
    libc.setIntOption(this.#fd, libc.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES);
    libc.setIntOption(this.#fd, libc.SOL_SOCKET, libc.SO_RCVBUFFORCE, BUFFER_BYTES);
  }

  /** Sends the requests `first` … `end - 1`, which the kernel has worked through when this returns. */
  send({ bytes, at }: Encoded, first: number, end: number): void {
    if (first === end) return;
    const slice = bytes.subarray(at[first]!, at[end]!);
    const sent = Number(libc.sendto(this.#fd, slice, slice.length, 0, null, 0));
    if (sent !== slice.length) throw new Error(`sent ${sent} of ${slice.length} bytes: errno ${libc.errno()}`);
  }

  /** Reads what the kernel has answered, without waiting. */
  drain(): void {
    for (;;) {
      const length = Number(recv(this.#fd, this.#answer, this.#answer.length, libc.MSG_DONTWAIT));
      if (length <= 0) return;
      for (let at = 0; at + 20 <= length; at += (this.#view.getUint32(at, true) + 3) & ~3) {
        const isError = this.#view.getUint16(at + 4, true) === NLMSG_ERROR;
        if (isError && this.#view.getInt32(at + 16, true) !== 0) this.refused++;
      }
    }
  }

  /** How many were refused since the last call. */
  takeRefused(): number {
    this.drain();
    const { refused } = this;
    this.refused = 0;
    return refused;
  }
}
