/**
 * Sends requests to the kernel's conntrack table and its expectations: dumps, lookups, and batches of create, update
 * and delete.
 *
 * A batch is one sendmsg. The kernel works through it before sendmsg returns. It answers each failed request with
 * NLMSG_ERROR, and the last one (NLM_F_ACK) in any case; answers are matched by sequence number.
 */
import assert from "node:assert/strict";
import { ConntrailError } from "../errors.js";
import type { Expectation } from "../flow/expectation.js";
import { type AF_INET, type AF_INET6, DecodedFlow } from "../flow/record.js";
import { EAGAIN, ENOENT, EPERM, errnoName } from "../os/errno.js";
import { readHost16, readHost32 } from "./attributes.js";
import {
  NETLINK_NETFILTER,
  NLM_F_ACK,
  NLM_F_DUMP_INTR,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSG_HDRLEN,
  NLMSG_NOOP,
  TYPE_CT_NEW,
  TYPE_EXP_NEW,
} from "./constants.js";
import { decodeConntrack, decodeError } from "./decode.js";
import { RequestBatch } from "./encode.js";
import { decodeExpectation } from "./expectation.js";
import { NetlinkSocket } from "./netlink-socket.js";

/** Messages per batch at which creating is fastest; larger batches only block the event loop for longer. */
export const BATCH_MESSAGES = 256;

/** Which flows, and until when. */
export interface DumpOptions {
  /** 0 or left out: both families. */
  family?: 0 | typeof AF_INET | typeof AF_INET6;
  /** Ends the dump: its promise rejects with the signal's reason, and no more flows are visited. */
  signal?: AbortSignal;
}

/** How a dump went. */
export interface DumpResult {
  /** Flows, or expectations, visited. */
  count: number;
  /** Messages or datagrams that could not be decoded and were skipped. */
  malformed: number;
  /** NLM_F_DUMP_INTR: the table changed meanwhile, which may have hidden flows. */
  interrupted: boolean;
}

/** What became of a batch. Requests neither in `errors` nor possibly `unknown` were carried out. */
export interface BatchResult {
  /** Requests in the batch. */
  sent: number;
  /** Requests the kernel refused, in order; `errno` is positive. */
  errors: { index: number; errno: number }[];
  /** Answers that did not fit into the receive buffer: as many more requests may have failed. */
  unknown: number;
}

/** Deadlines and sizes. */
export interface RequestSocketOptions {
  /** How long an answer may take. Default 5000. */
  timeoutMs?: number;
  /**
   * Receive buffer of the batch socket, as SO_RCVBUF reads; each failed request takes 768 bytes of it. Default 4 MiB.
   */
  bufferBytes?: number;
  /** Batches and lookups that may wait for the current one, and dumps likewise. Default 64. */
  queueMax?: number;
}

/**
 * The kernel fills a datagram of a dump up to this size and not beyond. The package reads 32 of them in one turn of
 * the event loop: some 1500 flows, 3 ms. Larger ones (the kernel's limit is 32 KiB) save little: the table walk is the
 * cost.
 */
const DUMP_DATAGRAM_BYTES = 8 << 10;
/** One answer: an error with the header of its request, or one flow. */
const ANSWER_BYTES = 4096;
const DUMP_BUFFER_BYTES = 1 << 20;
/** Sequence numbers start again before they could wrap within a batch. */
const SEQUENCE_MAX = 0xf0000000;

/** A batch on its way. */
interface Exchange {
  first: number;
  count: number;
  /** The message whose acknowledgement ends it: the last of the batch, or a fence behind it when answers were lost. */
  last: number;
  errors: BatchResult["errors"];
  unknown: number;
  visit: ((index: number, flow: DecodedFlow) => void) | null;
  done: (error: ConntrailError | null) => void;
}

/** The type of a dump's messages, and what decodes one: `take` returns 0 or the reason for a failure. */
interface DumpKind {
  readonly type: number;
  readonly request: RequestBatch;
  readonly take: (bytes: Uint8Array, start: number, end: number) => number;
}

/** A dump on its way. `kind` is null once nobody listens any more; the rest must be read all the same. */
interface Dump {
  sequence: number;
  result: DumpResult;
  kind: DumpKind | null;
  settle: (error: unknown) => void;
  finished: () => void;
  timer: NodeJS.Timeout;
}

/** Talks to conntrack in the network namespace of the thread that constructs it. */
export class RequestSocket {
  /** The port id that events caused by this socket's batches carry. */
  readonly portId: number;
  readonly #timeoutMs: number;
  readonly #queueMax: number;
  readonly #socket: NetlinkSocket;
  /** A dump's answers are large and many: they have their own socket, so that batches continue meanwhile. */
  readonly #dumpSocket: NetlinkSocket;
  readonly #flow = new DecodedFlow();
  #exchange: Exchange | null = null;
  #dump: Dump | null = null;
  #sequence = 1;
  #queued = 0;
  #dumpsQueued = 0;
  #sendTail: Promise<unknown> = Promise.resolve();
  #dumpTail: Promise<unknown> = Promise.resolve();

  /** Throws ConntrailError `PERMISSION` or `KERNEL` when the kernel refuses the sockets. */
  constructor(options: RequestSocketOptions = {}) {
    this.#timeoutMs = options.timeoutMs ?? 5000;
    this.#queueMax = options.queueMax ?? 64;
    this.#socket = new NetlinkSocket({
      protocol: NETLINK_NETFILTER,
      bufferBytes: options.bufferBytes ?? 4 << 20,
      datagramBytesMax: ANSWER_BYTES,
      onDatagram: (bytes) => eachMessage(bytes, (type, at, end) => this.#onAnswer(bytes, type, at, end)),
      onTruncated: () => undefined,
    });
    try {
      this.#dumpSocket = new NetlinkSocket({
        protocol: NETLINK_NETFILTER,
        bufferBytes: DUMP_BUFFER_BYTES,
        datagramBytesMax: DUMP_DATAGRAM_BYTES,
        onDatagram: (bytes) => this.#onDumpDatagram(bytes),
        onTruncated: () => this.#countMalformed(),
      });
    } catch (error) {
      this.#socket.close();
      throw error;
    }
    this.#socket.keepAlive(false);
    this.#dumpSocket.keepAlive(false);
    this.portId = this.#socket.portId;
  }

  /**
   * Visits every flow of the table; `flow` is reused: copy what must last. Dumps run one after the other.
   * Throws ConntrailError `PERMISSION`, `KERNEL`, or `TIMEOUT` when the kernel falls silent.
   */
  dump(options: DumpOptions, visit: (flow: DecodedFlow) => void): Promise<DumpResult> {
    const request = new RequestBatch(0);
    assert.ok(request.dump(options.family ?? 0), "a dump fits an empty batch");
    const take = (bytes: Uint8Array, start: number, end: number): number => {
      const failure = decodeConntrack(bytes, start, end, this.#flow);
      if (failure === 0) visit(this.#flow);
      return failure;
    };
    return this.#enqueueDump(options, { type: TYPE_CT_NEW, request, take });
  }

  /** Visits every expectation, as `dump` visits flows. */
  dumpExpectations(options: DumpOptions, visit: (expectation: Expectation) => void): Promise<DumpResult> {
    const request = new RequestBatch(0);
    assert.ok(request.dumpExpectations(options.family ?? 0), "a dump fits an empty batch");
    const take = (bytes: Uint8Array, start: number, end: number): number => {
      const decoded = decodeExpectation(bytes, start, end);
      if (typeof decoded === "number") return decoded;
      visit(decoded);
      return 0;
    };
    return this.#enqueueDump(options, { type: TYPE_EXP_NEW, request, take });
  }

  #enqueueDump(options: DumpOptions, kind: DumpKind): Promise<DumpResult> {
    assert.ok(this.#dumpsQueued <= this.#queueMax, "more dumps wait than the request socket's queue holds");
    this.#dumpsQueued++;
    const turn = this.#dumpTail;
    return new Promise<DumpResult>((resolve, reject) => {
      this.#dumpTail = turn
        .then(() => this.#runDump(options, kind, resolve, reject))
        .then(() => void this.#dumpsQueued--);
    });
  }

  /**
   * Sends all requests of the batch, up to 1 MiB, at once. The batch must not be touched until this resolves.
   * Refused requests are values; throws ConntrailError `TIMEOUT` when the acknowledgement does not come.
   */
  async send(batch: RequestBatch): Promise<BatchResult> {
    const exchange = await this.#enqueue(batch);
    return { sent: batch.count, errors: exchange.errors, unknown: exchange.unknown };
  }

  /** The flow with the original tuple of the record at `words[base]`, or null when the kernel has none. */
  async get(words: Uint32Array, base: number): Promise<DecodedFlow | null> {
    const batch = new RequestBatch(0);
    assert.ok(batch.get(words, base), "a lookup fits an empty batch");
    let found: DecodedFlow | null = null;
    const { errors } = await this.getAll(batch, (_index, flow) => {
      found = flow;
    });
    const error = errors[0];
    if (error !== undefined && error.errno !== ENOENT) throw refused("lookup", error.errno);
    return found;
  }

  /**
   * Sends a batch of lookups, as `send` does. `visit` gets each flow that the kernel has, with the index of its
   * request; ENOENT in the result is a flow that it lacks.
   */
  async getAll(batch: RequestBatch, visit: (index: number, flow: DecodedFlow) => void): Promise<BatchResult> {
    const exchange = await this.#enqueue(batch, visit);
    return { sent: batch.count, errors: exchange.errors, unknown: exchange.unknown };
  }

  /** Removes every flow from the table. */
  async flush(): Promise<void> {
    const batch = new RequestBatch(0);
    assert.ok(batch.flush(0), "a flush fits an empty batch");
    const exchange = await this.#enqueue(batch);
    const error = exchange.errors[0];
    if (error !== undefined) throw refused("flush", error.errno);
  }

  /** Closes both sockets; current requests end with an error. */
  close(): void {
    const closed = new ConntrailError("KERNEL", "the conntrack request socket was closed");
    this.#socket.close();
    this.#dumpSocket.close();
    this.#exchange?.done(closed);
    this.#endDump(closed);
  }

  #enqueue(batch: RequestBatch, visit: Exchange["visit"] = null): Promise<Exchange> {
    assert.ok(this.#queued <= this.#queueMax, "more batches wait than the request socket's queue holds");
    this.#queued++;
    const exchange = this.#sendTail.then(() => this.#runExchange(batch, visit));
    const release = (): void => void this.#queued--;
    this.#sendTail = exchange.then(release, release);
    return exchange;
  }

  #runExchange(batch: RequestBatch, visit: Exchange["visit"]): Promise<Exchange> {
    return new Promise((resolve, reject) => {
      const first = this.#takeSequence(batch.count);
      const exchange: Exchange = {
        first,
        count: batch.count,
        last: first + batch.count - 1,
        errors: [],
        unknown: 0,
        visit,
        done: (error) => {
          clearTimeout(timer);
          this.#exchange = null;
          this.#socket.keepAlive(false);
          if (error === null) resolve(exchange);
          else reject(error);
        },
      };
      const timer = setTimeout(() => {
        const what = `no answer to ${batch.count} conntrack requests within ${this.#timeoutMs} ms`;
        exchange.done(new ConntrailError("TIMEOUT", `${what}; compare with a dump before going on`));
      }, this.#timeoutMs);
      this.#exchange = exchange;
      if (!this.#socket.isOpen) {
        exchange.done(new ConntrailError("KERNEL", "the conntrack request socket is closed"));
      } else if (batch.count === 0) {
        exchange.done(null);
      } else {
        this.#socket.keepAlive(true);
        this.#socket.send(batch.bytes(this.portId, first), (error) => this.#sent(exchange, error));
      }
    });
  }

  /**
   * By now all answers are read, in the receive buffer, or lost. If some are lost, a fence shows when the rest is
   * read.
   */
  #sent(exchange: Exchange, error: ConntrailError | null): void {
    if (this.#exchange !== exchange) return;
    if (error !== null) {
      exchange.done(error);
      return;
    }
    const drops = this.#socket.takeDrops();
    if (drops === 0) return;
    exchange.unknown = Math.min(exchange.count, exchange.unknown + drops);
    this.#sendFence(exchange);
  }

  /** Sends an empty request with an acknowledgement; again until the buffer has room for its answer. */
  #sendFence(exchange: Exchange): void {
    exchange.last = this.#takeSequence(1);
    this.#socket.send(fenceRequest(exchange.last, this.portId), (error) => {
      if (this.#exchange !== exchange) return;
      if (error !== null) exchange.done(error);
      else if (this.#socket.takeDrops() > 0) setImmediate(() => this.#refence(exchange));
    });
  }

  #refence(exchange: Exchange): void {
    if (this.#exchange === exchange) this.#sendFence(exchange);
  }

  #onAnswer(bytes: Uint8Array, type: number, at: number, end: number): void {
    const exchange = this.#exchange;
    if (exchange === null) return;
    const sequence = readHost32(bytes, at + 8);
    const index = sequence - exchange.first;
    if (type === NLMSG_ERROR) {
      const errno = decodeError(bytes, at + NLMSG_HDRLEN, end);
      if (errno !== 0 && index >= 0 && index < exchange.count) exchange.errors.push({ index, errno });
      if (sequence !== exchange.last) return;
      exchange.unknown = Math.min(exchange.count, exchange.unknown + this.#socket.takeDrops());
      exchange.done(null);
    } else if (type === TYPE_CT_NEW && index >= 0 && index < exchange.count) {
      const flow = new DecodedFlow();
      if (decodeConntrack(bytes, at + NLMSG_HDRLEN, end, flow) === 0) exchange.visit?.(index, flow);
      else
        exchange.done(new ConntrailError("MALFORMED", "the kernel's answer to a conntrack lookup cannot be decoded"));
    }
  }

  /** Always resolves, when the kernel has sent its last message of this dump. */
  #runDump(
    options: DumpOptions,
    kind: DumpKind,
    resolve: (result: DumpResult) => void,
    reject: (error: unknown) => void,
  ): Promise<void> {
    return new Promise((finished) => {
      const { signal } = options;
      const sequence = this.#takeSequence(1);
      const result: DumpResult = { count: 0, malformed: 0, interrupted: false };
      const onAbort = (): void => dump.settle(signal?.reason);
      const dump: Dump = {
        sequence,
        result,
        kind,
        settle: (error) => {
          dump.kind = null;
          signal?.removeEventListener("abort", onAbort);
          if (error === null) resolve(result);
          else reject(error);
        },
        finished,
        timer: setTimeout(() => this.#endDump(dumpTimeout(this.#timeoutMs)), this.#timeoutMs),
      };
      this.#dump = dump;
      if (signal?.aborted === true || !this.#dumpSocket.isOpen) {
        this.#endDump(signal?.reason ?? new ConntrailError("KERNEL", "the conntrack request socket is closed"));
        return;
      }
      signal?.addEventListener("abort", onAbort);
      this.#dumpSocket.keepAlive(true);
      const sent = (error: ConntrailError | null): void => {
        if (error !== null && this.#dump === dump) this.#endDump(error);
      };
      // The kernel searches for the first flows before sendmsg returns: if it has few, through a whole table that
      // others may fill.
      this.#dumpSocket.send(kind.request.bytes(this.#dumpSocket.portId, sequence), sent, true);
    });
  }

  #onDumpDatagram(bytes: Uint8Array): void {
    this.#dump?.timer.refresh();
    const whole = eachMessage(bytes, (type, at, end) => this.#onDumpMessage(bytes, type, at, end));
    if (!whole) this.#countMalformed();
  }

  #onDumpMessage(bytes: Uint8Array, type: number, at: number, end: number): void {
    const dump = this.#dump;
    if (dump === null || readHost32(bytes, at + 8) !== dump.sequence) return;
    if ((readHost16(bytes, at + 6) & NLM_F_DUMP_INTR) !== 0) dump.result.interrupted = true;
    if (type === TYPE_CT_NEW || type === TYPE_EXP_NEW) {
      if (dump.kind === null || dump.kind.type !== type) return;
      try {
        if (dump.kind.take(bytes, at + NLMSG_HDRLEN, end) === 0) dump.result.count++;
        else dump.result.malformed++;
      } catch (error) {
        dump.settle(error);
      }
    } else if (type === NLMSG_DONE || type === NLMSG_ERROR) {
      const errno = decodeError(bytes, at + NLMSG_HDRLEN, end);
      this.#endDump(errno === 0 ? null : refused("dump", errno));
    }
  }

  #countMalformed(): void {
    if (this.#dump !== null) this.#dump.result.malformed++;
  }

  #endDump(error: unknown): void {
    const dump = this.#dump;
    if (dump === null) return;
    this.#dump = null;
    clearTimeout(dump.timer);
    this.#dumpSocket.keepAlive(false);
    if (dump.kind !== null) dump.settle(error);
    dump.finished();
  }

  #takeSequence(count: number): number {
    if (this.#sequence + count > SEQUENCE_MAX) this.#sequence = 1;
    const first = this.#sequence;
    this.#sequence += count;
    return first;
  }
}

/** Calls `visit` with the bounds of each message of a datagram; false when a length does not fit. */
function eachMessage(bytes: Uint8Array, visit: (type: number, at: number, end: number) => void): boolean {
  let at = 0;
  while (at < bytes.length) {
    const length = at + NLMSG_HDRLEN <= bytes.length ? readHost32(bytes, at) : 0;
    if (length < NLMSG_HDRLEN || length > bytes.length - at) return false;
    visit(readHost16(bytes, at + 4), at, at + length);
    at += (length + 3) & ~3;
  }
  return true;
}

/** An empty request that the kernel only acknowledges. */
function fenceRequest(sequence: number, portId: number): Uint8Array {
  const bytes = new Uint8Array(NLMSG_HDRLEN);
  new Uint32Array(bytes.buffer, 0, 1)[0] = NLMSG_HDRLEN;
  new Uint16Array(bytes.buffer, 4, 2).set([NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK]);
  new Uint32Array(bytes.buffer, 8, 2).set([sequence, portId]);
  return bytes;
}

function dumpTimeout(timeoutMs: number): ConntrailError {
  return new ConntrailError("TIMEOUT", `the kernel sent nothing of a conntrack dump for ${timeoutMs} ms; try again`);
}

function refused(what: string, errno: number): ConntrailError {
  if (errno === EPERM) {
    return new ConntrailError("PERMISSION", `conntrack ${what}: not permitted; run as root or with CAP_NET_ADMIN`);
  }
  if (errno === EAGAIN) return new ConntrailError("KERNEL", `conntrack ${what}: the kernel is busy; try again`);
  const hint = "is the module there? modprobe nf_conntrack_netlink";
  return new ConntrailError("KERNEL", `conntrack ${what}: the kernel refused it with ${errnoName(errno)}; ${hint}`);
}
