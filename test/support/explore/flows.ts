/** The flows of a scope, as packets make and change them in a kernel: TCP that begins, and is then established. */
import { W_MARK, W_PROTOINFO, W_STATUS } from "../../../src/flow/record.js";
import { IPS_ASSURED, IPS_SEEN_REPLY } from "../../../src/flow/status.js";
import { tcpRecord } from "../records.js";
import { keyOf, type SimKernel } from "../sim-kernel.js";

const TCP_SYN_SENT = 1;
const TCP_ESTABLISHED = 3;
const ANSWERED = IPS_SEEN_REPLY | IPS_ASSURED;
const KEYS = [0, 1, 2, 3].map((flow) => keyOf(tcpRecord(flow), 0));

/** The key of a flow in a kernel. */
export function flowKey(flow: number): string {
  return KEYS[flow]!;
}

/** A flow that begins. Its mark tells two connections of one tuple apart. */
export function flowRecord(flow: number, mark: number): Uint32Array {
  const words = tcpRecord(flow);
  words[W_STATUS] = 0;
  words[W_PROTOINFO] = TCP_SYN_SENT;
  words[W_MARK] = mark;
  return words;
}

/** The kernel's entry; undefined when there is none. */
export function flowWords(kernel: SimKernel, flow: number): Uint32Array | undefined {
  return kernel.flows.get(KEYS[flow]!);
}

/** Packets establish the connection. */
export function establish(kernel: SimKernel, flow: number): void {
  kernel.change(KEYS[flow]!, { state: TCP_ESTABLISHED, status: ANSWERED });
}

/** True for a connection that has only begun. */
export function hasOnlyBegun(words: Uint32Array): boolean {
  return (words[W_PROTOINFO]! & 0xff) === TCP_SYN_SENT;
}

/** What the nodes must agree on: which connection it is, and its state. */
export function contentOf(words: Uint32Array, base: number): string {
  const state = words[base + W_PROTOINFO]! & 0xff;
  return `connection ${words[base + W_MARK]}, ${state === TCP_SYN_SENT ? "begun" : "established"}${
    (words[base + W_STATUS]! & ANSWERED) === 0 ? "" : ", answered"
  }`;
}
