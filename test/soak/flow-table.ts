/** Tables of flows as the soak compares them, and what a takeover would lose of one: pure. */
import { IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP } from "../../src/flow/protocol.js";
import {
  AF_INET,
  RECORD_WORDS,
  W_ID,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_STATUS,
  W_ZONE,
} from "../../src/flow/record.js";
import { IPS_ASSURED, IPS_DST_NAT, IPS_SEEN_REPLY, IPS_SRC_NAT } from "../../src/flow/status.js";
import { flowText } from "../support/cluster/flow-map.js";

/** What a takeover depends on. */
interface FlowState {
  /** CTA_ID, in a table of the kernel: another connection of the same tuple has another one. */
  readonly id: number;
  readonly status: number;
  readonly mark: number;
  /** State of a TCP connection, else 0. */
  readonly tcpState: number;
}

/** Flows by their tuples of both directions, protocol and zone. */
export type FlowTable = Map<string, FlowState>;

/** A flow that a takeover would lose, or bring back in another state, as text. */
export interface Loss {
  readonly flow: string;
  readonly why: string;
}

/** How a comparison ended. */
export interface Comparison {
  readonly compared: number;
  /** Flows that the external cache lacks and the node's own kernel still has from the time when it was primary. */
  readonly inOwnKernel: number;
  readonly losses: readonly Loss[];
}

const KEY_WORDS = W_ZONE + 1;
const STATUS_COMPARED = IPS_SEEN_REPLY | IPS_ASSURED | IPS_SRC_NAT | IPS_DST_NAT;
const PROTOCOLS = [IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6];
/** 10.77.0.0/24, the dedicated link of the laboratory, which its configuration leaves out. */
const LINK_NETWORK = 0x0a4d00;

/** Adds records to a table. Flows that the configuration leaves out are left out here. */
export function flowTable(words: Uint32Array, into: FlowTable = new Map()): FlowTable {
  const bytes = Buffer.from(words.buffer, words.byteOffset, words.byteLength);
  for (let base = 0; base < words.length; base += RECORD_WORDS) {
    if (!isReplicated(words, base)) continue;
    const isTcp = (words[base + W_PROTO]! & 0xff) === IPPROTO_TCP;
    into.set(bytes.toString("latin1", base * 4, (base + KEY_WORDS) * 4), {
      id: words[base + W_ID]!,
      status: words[base + W_STATUS]! & STATUS_COMPARED,
      mark: words[base + W_MARK]!,
      tcpState: isTcp ? words[base + W_PROTOINFO]! & 0xff : 0,
    });
  }
  return into;
}

function isReplicated(words: Uint32Array, base: number): boolean {
  const proto = words[base + W_PROTO]!;
  if (!PROTOCOLS.includes(proto & 0xff)) return false;
  if (proto >>> 8 !== AF_INET) return true;
  return [W_ORIG_SRC, W_ORIG_DST].every((word) => words[base + word]! >>> 8 !== LINK_NETWORK);
}

/**
 * What a node would lose if it took over. `before` and `after`: the primary's kernel, read before and after the node's
 * external cache (`external`) and kernel (`kernel`) were. A flow counts if both have it, and its state if both have the
 * same one: whatever changed meanwhile is no evidence of a loss.
 */
export function compareTables(tables: {
  readonly before: FlowTable;
  readonly after: FlowTable;
  readonly external: FlowTable;
  readonly kernel: FlowTable;
}): Comparison {
  const losses: Loss[] = [];
  let compared = 0;
  let inOwnKernel = 0;
  for (const [key, old] of tables.before) {
    const now = tables.after.get(key);
    if (now === undefined || now.id !== old.id) continue;
    compared++;
    const held = tables.external.get(key) ?? tables.kernel.get(key);
    if (held === undefined) losses.push({ flow: textOf(key, now), why: "missing" });
    else if (isSame(old, now) && !isSame(held, now)) {
      losses.push({ flow: textOf(key, now), why: `held as ${textOf(key, held)}` });
    } else if (!tables.external.has(key)) inOwnKernel++;
  }
  return { compared, inOwnKernel, losses };
}

function isSame(a: FlowState, b: FlowState): boolean {
  return a.status === b.status && a.mark === b.mark && a.tcpState === b.tcpState;
}

function textOf(key: string, { status, mark, tcpState }: FlowState): string {
  return flowText(key, Buffer.from(Uint32Array.of(status, mark, tcpState).buffer).toString("latin1"));
}
