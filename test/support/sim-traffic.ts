/** Simulated packets: what they do to the flows of a machine, as the kernel's TCP and UDP trackers would. */
import { W_MARK, W_PROTO, W_PROTOINFO, W_REPLY_DST, W_REPLY_L4, W_STATUS, W_TIMEOUT } from "../../src/flow/record.js";
import { IPS_ASSURED, IPS_SEEN_REPLY } from "../../src/flow/status.js";
import { type Random, tcpRecord } from "./records.js";
import type { Machine } from "./sim/machine.js";
import { keyOf } from "./sim-kernel.js";

const UDP = 17;
const TCP_SYN_SENT = 1;
const TCP_ESTABLISHED = 3;
const TCP_LAST_ACK = 6;
const TCP_CLOSE = 8;
/** nf_conntrack_tcp_timeout_* by state, with a shorter one for open connections, so that some time out. */
const TCP_TIMEOUTS = [0, 120, 60, 300, 120, 60, 30, 120, 10];
const UDP_TIMEOUT = 30;
const UDP_STREAM_TIMEOUT = 120;
const MARKS = 3;

/** The state of a flow in a kernel, as far as the nodes must agree on it. */
export interface State {
  readonly reply: string;
  readonly status: number;
  readonly state: number;
  readonly mark: number;
}

/** The state of a record. */
export function stateOf(words: Uint32Array, base: number): State {
  return {
    reply: `${words[base + W_REPLY_DST]} ${words[base + W_REPLY_L4]}`,
    status: words[base + W_STATUS]! & (IPS_SEEN_REPLY | IPS_ASSURED),
    state: words[base + W_PROTOINFO]! & 0xff,
    mark: words[base + W_MARK]!,
  };
}

/** What packets or an administrator do to a flow; "nothing" when it does not exist. */
export type Deed = "begins" | "changes" | "refreshed" | "ends" | "nothing";

/**
 * One of a set of flows; every fourth is UDP. `translation` 0: none. The translated ports are the node's own, because
 * two flows with one port cannot both be injected.
 */
export function record(index: number, machine: { readonly index: number }, translation: number): Uint32Array {
  const words = tcpRecord(index);
  words[W_STATUS] = 0;
  words[W_PROTOINFO] = TCP_SYN_SENT;
  words[W_TIMEOUT] = TCP_TIMEOUTS[TCP_SYN_SENT]!;
  if (index % 4 === 3) {
    words[W_PROTO] = (words[W_PROTO]! & ~0xff) | UDP;
    words.fill(0, W_PROTOINFO, W_PROTOINFO + 3);
    words[W_TIMEOUT] = UDP_TIMEOUT;
  }
  if (translation > 0) {
    words[W_REPLY_DST] = 0xcb007100 + machine.index;
    words[W_REPLY_L4] = ((443 << 16) | (20_000 + index * 4 + translation)) >>> 0;
  }
  return words;
}

/** Packets of a flow pass through a machine, or someone removes the flow there. */
export function pass(machine: Machine, index: number, random: Random): Deed {
  const { kernel } = machine;
  const key = keyOf(tcpRecord(index), 0);
  kernel.expire(key);
  const held = kernel.flows.get(key);
  if (held === undefined) {
    const translation = Math.max(0, random.below(4) - 1);
    return kernel.create(record(index, machine, translation)) ? "begins" : "nothing";
  }
  const isTcp = (held[W_PROTO]! & 0xff) !== UDP;
  const state = held[W_PROTOINFO]! & 0xff;
  const choice = random.below(10);
  if (choice < 4) return advance(machine, index, key, isTcp ? state : -1, held[W_STATUS]!, random);
  if (choice < 6) {
    const mark = random.below(MARKS);
    if (mark === held[W_MARK]) return "nothing";
    kernel.change(key, { mark });
    return "changes";
  }
  if (choice < 7) {
    kernel.change(key, {});
    return "refreshed";
  }
  if (choice === 7) return "nothing";
  kernel.destroy(key);
  return "ends";
}

function advance(machine: Machine, index: number, key: string, state: number, status: number, random: Random): Deed {
  const { kernel } = machine;
  const answered = status | IPS_SEEN_REPLY;
  if (state < 0) {
    if ((status & IPS_ASSURED) !== 0) return "nothing";
    const next = (status & IPS_SEEN_REPLY) === 0 ? answered : answered | IPS_ASSURED;
    kernel.change(key, { status: next, timeoutSeconds: UDP_STREAM_TIMEOUT });
    return "changes";
  }
  if (state > TCP_LAST_ACK && random.oneIn(2)) {
    // A new connection replaces one that is over.
    kernel.destroy(key);
    kernel.create(record(index, machine, random.below(3)));
    return "begins";
  }
  if (state >= TCP_CLOSE) return "nothing";
  // A reset, or the next state.
  const next = random.oneIn(8) ? TCP_CLOSE : state + 1;
  const opened = next >= TCP_ESTABLISHED && next < TCP_CLOSE ? answered | IPS_ASSURED : answered;
  kernel.change(key, { state: next, status: opened, timeoutSeconds: TCP_TIMEOUTS[next]! });
  return "changes";
}
