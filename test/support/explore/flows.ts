/** The flows of a scope, as packets make and change them in a kernel: TCP that begins, is established, and closes. */
import { W_MARK, W_PROTOINFO, W_STATUS } from "../../../src/flow/record.js";
import { IPS_ASSURED, IPS_SEEN_REPLY } from "../../../src/flow/status.js";
import { tcpRecord } from "../records.js";
import { keyOf, type SimKernel } from "../sim-kernel.js";

const TCP_SYN_SENT = 1;
const TCP_ESTABLISHED = 3;
const TCP_TIME_WAIT = 7;
const STATES = new Map([
  [TCP_SYN_SENT, "begun"],
  [TCP_ESTABLISHED, "established"],
  [TCP_TIME_WAIT, "closed"],
]);
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

/** Packets close the connection. */
export function close(kernel: SimKernel, flow: number): void {
  kernel.change(KEYS[flow]!, { state: TCP_TIME_WAIT });
}

/** Packets change something else: the event does not name the state. */
export function touch(kernel: SimKernel, flow: number): void {
  kernel.change(KEYS[flow]!, { status: flowWords(kernel, flow)![W_STATUS]! });
}

/** True for a connection that has only begun. */
export function hasOnlyBegun(words: Uint32Array): boolean {
  return stateOf(words, 0) === TCP_SYN_SENT;
}

/** True for a connection that is established. */
export function isEstablished(words: Uint32Array): boolean {
  return stateOf(words, 0) === TCP_ESTABLISHED;
}

function stateOf(words: Uint32Array, base: number): number {
  return words[base + W_PROTOINFO]! & 0xff;
}

/** What the nodes must agree on: which connection it is, and its state. */
export function contentOf(words: Uint32Array, base: number): string {
  const state = STATES.get(stateOf(words, base)) ?? "of no state";
  return `connection ${words[base + W_MARK]}, ${state}${
    (words[base + W_STATUS]! & ANSWERED) === 0 ? "" : ", answered"
  }`;
}
