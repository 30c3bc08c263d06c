import { readHost16, readNet16, readNet32 } from "../../src/ctnetlink/attributes.js";
import {
  CTA_NAT_DST,
  CTA_NAT_PROTO,
  CTA_NAT_SRC,
  CTA_NAT_V4_MINIP,
  CTA_PROTONAT_PORT_MIN,
  IPCTNL_MSG_CT_DELETE,
  IPCTNL_MSG_CT_GET,
  NFGENMSG_LEN,
  NLM_F_CREATE,
  NLMSG_HDRLEN,
} from "../../src/ctnetlink/constants.js";
import { decodeConntrack } from "../../src/ctnetlink/decode.js";
import { EVENT_DESTROY, EVENT_NEW, EVENT_UPDATE, type EventKind } from "../../src/ctnetlink/event-socket.js";
import {
  DecodedFlow,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  W_HAS,
  W_ID,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_ZONE,
} from "../../src/flow/record.js";
import { replyIsMirror } from "../../src/flow/record-fields.js";
import { IPS_CONFIRMED, IPS_DST_NAT, IPS_DYING, IPS_KEPT, IPS_NAT_DONE, IPS_SRC_NAT } from "../../src/flow/status.js";

const ENOENT = 2;
const EBUSY = 16;
const EEXIST = 17;
const TCP = 6;
/** Few, so that several flows share a bucket. */
const BUCKETS = 16;

/** The answer to a request: an errno, or 0 when it was carried out, and the flow that a lookup found. */
export interface Answer {
  readonly errno: number;
  readonly flow: DecodedFlow | null;
}

/** A request taken from its batch. */
export interface Request {
  readonly type: "create" | "update" | "delete" | "get";
  readonly flow: DecodedFlow;
}

/** The changes that packets make to a flow. */
export interface Change {
  readonly status?: number;
  readonly mark?: number;
  readonly state?: number;
  readonly timeoutSeconds?: number;
}

/** A flow with its key and its tuples, as a kernel finds it. */
interface IndexedFlow {
  readonly key: string;
  readonly tuples: readonly string[];
  readonly words: Uint32Array;
}

/** A copy of a kernel's table: the last ID that it gave, and its flows, oldest first. */
export interface KernelImage {
  readonly id: number;
  readonly flows: readonly IndexedFlow[];
}

/** Called for every event, with the port ID of the request that caused it; 0: caused by packets or a timeout. */
export type Listener = (kind: EventKind, flow: DecodedFlow, portId: number) => void;

/**
 * A conntrack table that behaves as the kernel's does. It covers the uniqueness of tuples in both directions, IDs, what
 * a request may change and which errno it gets, timeouts, the fields that an event names, and the order and gaps of a
 * listing. test/kernel/sim-kernel.test.ts compares it with the real one.
 */
export class SimKernel {
  readonly flows = new Map<string, Uint32Array>();
  /** Null: no listener. */
  listener: Listener | null = null;
  /** While true, events are lost, as in an overrun. */
  deaf = false;
  /** Called with the key of a flow that ends by its timeout. */
  onTimeout: ((key: string) => void) | null = null;
  /** From a tuple, in either direction, to the key of its flow. */
  readonly #tuples = new Map<string, string>();
  /** The tuples of a flow, by its key. */
  readonly #tuplesOf = new Map<string, readonly string[]>();
  readonly #expiresMs = new Map<string, number>();
  /** Keys, newest first. */
  readonly #buckets: string[][] = Array.from({ length: BUCKETS }, () => []);
  readonly #nowMs: (() => number) | null;
  #id: number;

  /** `nowMs`: the clock for timeouts; null: no flow times out. */
  constructor(firstId: number, nowMs: (() => number) | null = null) {
    this.#id = firstId;
    this.#nowMs = nowMs;
  }

  /** A copy of the table, without timeouts. */
  save(): KernelImage {
    const flows: IndexedFlow[] = [];
    for (const [key, words] of this.flows) flows.push({ key, tuples: this.#tuplesOf.get(key)!, words: words.slice() });
    return { id: this.#id, flows };
  }

  /** Replaces the table by a copy. Nobody hears of it. */
  load({ id, flows }: KernelImage): void {
    this.#id = id;
    this.flows.clear();
    this.#tuples.clear();
    this.#tuplesOf.clear();
    this.#expiresMs.clear();
    for (const bucket of this.#buckets) if (bucket.length > 0) bucket.length = 0;
    for (const { key, tuples, words } of flows) this.#add(words.slice(), key, tuples);
  }

  /** Packets create a flow; false when one of its tuples is taken. */
  create(words: Uint32Array): boolean {
    return this.#create(words, IPS_NAT_DONE, 0);
  }

  /** Packets change the status of a flow. */
  update(key: string, status: number): boolean {
    return this.change(key, { status });
  }

  /** Packets change a flow; false when it does not exist. A change of the timeout alone causes no event. */
  change(key: string, change: Change): boolean {
    const words = this.#live(key);
    if (words === undefined) return false;
    const { status = words[W_STATUS]!, mark = words[W_MARK]!, state } = change;
    const protoinfo = state === undefined ? words[W_PROTOINFO]! : (words[W_PROTOINFO]! & ~0xff) | state;
    let has = HAS_STATUS | HAS_TIMEOUT | HAS_ID | HAS_REPLY;
    if (mark !== 0 || mark !== words[W_MARK]) has |= HAS_MARK;
    if (protoinfo !== words[W_PROTOINFO]) has |= HAS_PROTOINFO;
    const silent = change.status === undefined && change.mark === undefined && state === undefined;
    words[W_STATUS] = status | (words[W_STATUS]! & IPS_KEPT) | IPS_NAT_DONE;
    words[W_MARK] = mark;
    words[W_PROTOINFO] = protoinfo;
    this.#prolong(key, words, change.timeoutSeconds ?? words[W_TIMEOUT]!);
    if (!silent) this.#event(EVENT_UPDATE, words, has, 0);
    return true;
  }

  /** A flow ends, by its timeout or by a removal. */
  destroy(key: string): boolean {
    if (this.#live(key) === undefined) return false;
    this.#end(key, 0);
    return true;
  }

  /** Carries out a request. */
  request({ type, flow }: Request, portId: number): Answer {
    const { words } = flow;
    const key = this.#find(tupleOf(words, W_ORIG_SRC, W_ORIG_DST, W_ORIG_L4));
    if (type === "create") {
      const created = key === null && this.#create(words, replyIsMirror(words, 0) ? 0 : IPS_NAT_DONE, portId);
      return answer(created ? 0 : EEXIST);
    }
    if (key === null) return answer(ENOENT);
    const held = this.flows.get(key)!;
    if (type === "get") return { errno: 0, flow: this.#shown(key) };
    if (type === "delete") this.#end(key, portId);
    else return answer(this.#change(key, held, words, portId));
    return answer(0);
  }

  /**
   * The kernel comes across a flow, as it does sooner or later, and ends it if its timeout is over. True when it did.
   */
  expire(key: string): boolean {
    return this.flows.has(key) && this.#live(key) === undefined;
  }

  /**
   * Lists the table as the kernel does: bucket by bucket, in parts of the requested size. It remembers the flow at
   * which a part ended. If that flow is gone, the bucket is listed again from its beginning.
   */
  *list(): Generator<DecodedFlow[], void, number> {
    let room = yield [];
    let part: DecodedFlow[] = [];
    for (const bucket of this.#buckets) {
      for (let at = 0; at < bucket.length; at++) {
        if (this.#live(bucket[at]!) === undefined) {
          at--;
          continue;
        }
        if (part.length >= room) {
          const last = this.flows.get(bucket[at]!);
          const key = bucket[at]!;
          room = yield part;
          part = [];
          at = bucket.indexOf(key);
          if (at < 0 || this.flows.get(key) !== last || this.#live(key) === undefined) {
            at = -1;
            continue;
          }
        }
        part.push(this.#shown(bucket[at]!));
      }
    }
    yield part;
  }

  #create(words: Uint32Array, status: number, portId: number): boolean {
    const tuples = tuplesOf(words);
    if (tuples.some((tuple) => this.#find(tuple) !== null)) return false;
    const own = words.slice();
    own[W_ID] = ++this.#id;
    own[W_STATUS]! |= status | IPS_CONFIRMED | translations(words);
    own[W_HAS] = HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_ID | HAS_REPLY;
    if ((words[W_PROTO]! & 0xff) === TCP) own[W_HAS]! |= HAS_PROTOINFO;
    this.#add(own, keyOf(own, 0), tuples);
    this.#event(EVENT_NEW, own, own[W_HAS]!, portId);
    return true;
  }

  #add(own: Uint32Array, key: string, tuples: readonly string[]): void {
    this.flows.set(key, own);
    this.#tuplesOf.set(key, tuples);
    for (const tuple of tuples) this.#tuples.set(tuple, key);
    this.#buckets[bucketOf(key)]!.unshift(key);
    this.#prolong(key, own, own[W_TIMEOUT]!);
  }

  /** The kernel sets the timeout before it refuses the status. */
  #change(key: string, held: Uint32Array, words: Uint32Array, portId: number): number {
    const has = words[W_HAS]!;
    if ((has & HAS_TIMEOUT) !== 0) this.#prolong(key, held, words[W_TIMEOUT]!);
    if ((has & HAS_STATUS) !== 0) {
      if ((held[W_STATUS]! & ~words[W_STATUS]! & IPS_KEPT) !== 0) return EBUSY;
      held[W_STATUS]! |= words[W_STATUS]!;
    }
    if ((has & HAS_PROTOINFO) !== 0) {
      held[W_PROTOINFO] = words[W_PROTOINFO]!;
      held[W_PROTOINFO_B] = words[W_PROTOINFO_B]!;
    }
    if ((has & HAS_MARK) !== 0) held[W_MARK] = words[W_MARK]!;
    this.#event(EVENT_UPDATE, held, held[W_HAS]!, portId);
    return 0;
  }

  #prolong(key: string, words: Uint32Array, seconds: number): void {
    words[W_TIMEOUT] = seconds;
    this.#expiresMs.set(key, (this.#nowMs?.() ?? 0) + seconds * 1000);
  }

  #find(tuple: string): string | null {
    const key = this.#tuples.get(tuple);
    return key === undefined || this.#live(key) === undefined ? null : key;
  }

  /** Any access to a flow whose timeout is over ends it. */
  #live(key: string): Uint32Array | undefined {
    const words = this.flows.get(key);
    if (words === undefined || this.#nowMs === null || this.#expiresMs.get(key)! > this.#nowMs()) return words;
    this.#end(key, 0);
    this.onTimeout?.(key);
    return undefined;
  }

  #end(key: string, portId: number): void {
    const words = this.flows.get(key)!;
    this.flows.delete(key);
    this.#expiresMs.delete(key);
    for (const tuple of this.#tuplesOf.get(key)!) this.#tuples.delete(tuple);
    this.#tuplesOf.delete(key);
    const bucket = this.#buckets[bucketOf(key)]!;
    bucket.splice(bucket.indexOf(key), 1);
    words[W_STATUS]! |= IPS_DYING;
    const has = words[W_HAS]! & (words[W_MARK] === 0 ? ~HAS_MARK : ~0);
    this.#event(EVENT_DESTROY, words, has, portId);
  }

  /** The flow as a listing or a lookup shows it. */
  #shown(key: string): DecodedFlow {
    const words = this.flows.get(key)!;
    const flow = decoded(words, words[W_HAS]!);
    flow.words[W_TIMEOUT] = Math.max(0, Math.floor((this.#expiresMs.get(key)! - (this.#nowMs?.() ?? 0)) / 1000));
    return flow;
  }

  #event(kind: EventKind, words: Uint32Array, has: number, portId: number): void {
    if (!this.deaf) this.listener?.(kind, decoded(words, has), portId);
  }
}

/** The requests of a batch, in order; `bytes` as they are sent to the kernel. */
export function requestsOf(bytes: Uint8Array): Request[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const requests: Request[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + view.getUint32(at, true);
    const type = view.getUint16(at + 4, true) & 0xff;
    const creates = (view.getUint16(at + 6, true) & NLM_F_CREATE) !== 0;
    const flow = new DecodedFlow();
    if (decodeConntrack(bytes, at + NLMSG_HDRLEN, end, flow) !== 0) throw new Error("undecodable request");
    translate(bytes, at + NLMSG_HDRLEN + NFGENMSG_LEN, end, flow.words);
    const change = creates ? "create" : "update";
    requests.push({
      type: type === IPCTNL_MSG_CT_DELETE ? "delete" : type === IPCTNL_MSG_CT_GET ? "get" : change,
      flow,
    });
    at = (end + 3) & ~3;
  }
  return requests;
}

/** The key of a flow in a SimKernel: its original source and layer 4. */
export function keyOf(words: Uint32Array, base: number): string {
  return `${words[base + W_ORIG_SRC]}:${words[base + W_ORIG_L4]}`;
}

/** Status of a flow, without the bits that each kernel sets itself. */
export function statusOf(words: Uint32Array, base: number): number {
  return words[base + W_STATUS]! & ~IPS_NAT_DONE;
}

/** A request names the reply tuple untranslated and, beside it, the translation. IPv4 only. */
function translate(bytes: Uint8Array, from: number, end: number, words: Uint32Array): void {
  eachAttribute(bytes, from, end, (type, at, stop) => {
    if (type !== CTA_NAT_DST && type !== CTA_NAT_SRC) return;
    eachAttribute(bytes, at, stop, (part, start, partEnd) => {
      if (part === CTA_NAT_V4_MINIP) words[type === CTA_NAT_DST ? W_REPLY_SRC : W_REPLY_DST] = readNet32(bytes, start);
      if (part !== CTA_NAT_PROTO) return;
      eachAttribute(bytes, start, partEnd, (port, portAt) => {
        if (port !== CTA_PROTONAT_PORT_MIN) return;
        const [shift, kept] = type === CTA_NAT_DST ? [16, 0xffff] : [0, 0xffff0000];
        words[W_REPLY_L4] = ((words[W_REPLY_L4]! & kept) | (readNet16(bytes, portAt) << shift)) >>> 0;
      });
    });
  });
}

function eachAttribute(
  bytes: Uint8Array,
  from: number,
  end: number,
  visit: (type: number, at: number, end: number) => void,
): void {
  for (let at = from; at + 4 <= end; ) {
    const stop = at + readHost16(bytes, at);
    visit(readHost16(bytes, at + 2) & 0x3fff, at + 4, stop);
    at = (stop + 3) & ~3;
  }
}

function answer(errno: number): Answer {
  return { errno, flow: null };
}

function decoded(words: Uint32Array, has: number): DecodedFlow {
  const flow = new DecodedFlow();
  flow.words.set(words);
  flow.words[W_HAS] = has;
  if ((has & HAS_TIMEOUT) === 0) flow.words[W_TIMEOUT] = 0;
  if ((has & HAS_PROTOINFO) === 0) flow.words.fill(0, W_PROTOINFO, W_PROTOINFO + 3);
  return flow;
}

function translations(words: Uint32Array): number {
  const [orig, reply] = [words[W_ORIG_L4]!, words[W_REPLY_L4]!];
  const isSource = words[W_REPLY_DST] !== words[W_ORIG_SRC] || (reply & 0xffff) !== orig >>> 16;
  const isDestination = words[W_REPLY_SRC] !== words[W_ORIG_DST] || reply >>> 16 !== (orig & 0xffff);
  return (isSource ? IPS_SRC_NAT : 0) | (isDestination ? IPS_DST_NAT : 0);
}

function tuplesOf(words: Uint32Array): [string, string] {
  return [tupleOf(words, W_ORIG_SRC, W_ORIG_DST, W_ORIG_L4), tupleOf(words, W_REPLY_SRC, W_REPLY_DST, W_REPLY_L4)];
}

function tupleOf(words: Uint32Array, source: number, destination: number, l4: number): string {
  return `${words[W_PROTO]} ${words[W_ZONE]} ${words[source]} ${words[destination]} ${words[l4]}`;
}

function bucketOf(key: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193);
  return (hash >>> 8) % BUCKETS;
}
