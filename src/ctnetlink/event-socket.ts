/**
 * The kernel's conntrack events: a netlink socket that is subscribed to NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY,
 * and on request to the same groups of expectations. Both share one socket, so an expectation never overtakes its
 * master.
 *
 * Up to SLOTS datagrams are read per recvmmsg and decoded in place (ReceiveBuffer).
 *
 * A thread of the pool waits in poll(2), with an eventfd beside the socket, so that close() and process exit end the
 * wait at once. The main thread reads, and never blocks.
 */
import { ConntrailError } from "../errors.js";
import type { Expectation } from "../flow/expectation.js";
import type { FilterRules } from "../flow/filter.js";
import { DecodedFlow } from "../flow/record.js";
import { EAFNOSUPPORT, EAGAIN, EINTR, ENOBUFS, ENOENT, EPERM, EPROTONOSUPPORT, errnoName } from "../os/errno.js";
import * as libc from "../os/libc.js";
import {
  NETLINK_NETFILTER,
  NFNLGRP_CONNTRACK_DESTROY,
  NFNLGRP_CONNTRACK_EXP_DESTROY,
  NFNLGRP_CONNTRACK_EXP_NEW,
  NFNLGRP_CONNTRACK_EXP_UPDATE,
  NFNLGRP_CONNTRACK_NEW,
  NFNLGRP_CONNTRACK_UPDATE,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLMSG_HDRLEN,
  TYPE_CT_DELETE,
  TYPE_CT_NEW,
  TYPE_EXP_DELETE,
  TYPE_EXP_NEW,
} from "./constants.js";
import { decodeConntrack } from "./decode.js";
import { decodeExpectation } from "./expectation.js";
import { SocketFilter, type SocketFilterState } from "./socket-filter.js";

export const EVENT_NEW = 0;
export const EVENT_UPDATE = 1;
export const EVENT_DESTROY = 2;
export type EventKind = typeof EVENT_NEW | typeof EVENT_UPDATE | typeof EVENT_DESTROY;

/** `onMalformed` code of a datagram that was longer than a slot. The decoder's own codes are positive. */
export const MALFORMED_TRUNCATED = -1;
/** `onMalformed` code of a netlink header whose length does not fit its datagram. */
export const MALFORMED_HEADER = -2;

/** Where events go. Called on the main thread only, and never after close(). */
export interface EventSink {
  /**
   * One event. `flow` is reused: copy what must last. `portId` is the netlink port whose request caused the event; 0
   * for packets and timeouts.
   */
  onEvent(kind: EventKind, flow: DecodedFlow, portId: number): void;
  /** One event of an expectation, if the socket is subscribed to them. The sink may keep the object. */
  onExpectation?(kind: EventKind, expectation: Expectation, portId: number): void;
  /** A message was skipped: a code of `decodeError`, MALFORMED_TRUNCATED or MALFORMED_HEADER. */
  onMalformed(code: number): void;
  /** The kernel dropped events (ENOBUFS): dump and compare. Messages queued before that are still delivered. */
  onOverrun(): void;
  /** A turn of reading is over. It brought `eventsSinceLast` events; `more`: the socket may hold more. */
  onDrained(eventsSinceLast: number, more: boolean): void;
}

/** Sizes and pace. */
export interface EventSocketOptions {
  /** Initial receive buffer, as SO_RCVBUF reads: the kernel charges about 1.3 KB per event. Default 2 MiB. */
  bufferBytes?: number;
  /** Where `growBuffer` stops. Default 8 MiB. */
  bufferBytesMax?: number;
  /** NETLINK_BROADCAST_ERROR and NETLINK_NO_ENOBUFS: the kernel repeats destroy events that found no room. */
  reliable?: boolean;
  /** Subscribes to expectations too: NFNLGRP_CONNTRACK_EXP_NEW, _UPDATE and _DESTROY. Default false. */
  expectations?: boolean;
  /** How long the socket buffer may gather under load before it is read; 0: it is always read at once. Default 10. */
  gatherMs?: number;
  /** The rate from which on it gathers; for the full time from two and a half times that on. Default 500. */
  gatherEventsPerSecond?: number;
  /** Datagrams read in one turn of the event loop. Default 1024. */
  turnDatagramsMax?: number;
  /** Which events the kernel queues; see `setFilter`. Default: all. */
  filter?: FilterRules;
  /** A monotonic clock in milliseconds. */
  now?: () => number;
}

/** What an event socket has counted since it was opened, all at zero. */
export function newEventCounters() {
  return {
    /** Of flows and of expectations. */
    eventsReceived: 0,
    datagrams: 0,
    overruns: 0,
    malformed: 0,
    unknownType: 0,
    /** Failures of recvmmsg other than ENOBUFS; each is reported as an overrun too. */
    receiveErrors: 0,
    /** The receive buffer as SO_RCVBUF reads now. */
    bufferBytes: 0,
    /** Times the waiting thread came back with something to read. */
    wakeups: 0,
    /** Length of the filter program in the kernel; 0: there is none. */
    filterInstructions: 0,
    /** Kinds of rules (protocols, addresses, states) that it was to hold and does not. */
    filterLeftOut: 0,
  };
}

/** The counters of an event socket. */
export type EventCounters = ReturnType<typeof newEventCounters>;

const SOCKADDR_NL_BYTES = 12;

/** Bounds the wait of a thread whose eventfd could not be signalled. */
const POLL_TIMEOUT_MS = 1000;
const POLL_RETRY_MS = 10;
/** The rate is that of a window of at least this time and so many events, or of the longest time with fewer. */
const RATE_WINDOW_MS = 10;
const RATE_WINDOW_EVENTS = 5;
const RATE_WINDOW_MS_MAX = 100;
/** The rate of the full gathering time, relative to that from which on there is any. */
const RATE_FULL = 2.5;
/** What the kernel charges the buffer for one event (sk_buff truesize). */
const EVENT_TRUESIZE = 1280;

/** Datagrams of one read. */
const SLOTS = 128;
/** A conntrack message stays below 1 KB; room for long security contexts. */
const SLOT_BYTES = 4096;
/** Not a power of two, so that the slots do not share the sets of the CPU's cache. */
const SLOT_STRIDE = SLOT_BYTES + 64;
const MMSGHDR_BYTES = 64;
const MMSGHDR_FLAGS = 48;
const MMSGHDR_LENGTH = 56;
const IOVEC_BYTES = 16;

const FLOW_GROUPS = [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE, NFNLGRP_CONNTRACK_DESTROY];
const EXPECTATION_GROUPS = [NFNLGRP_CONNTRACK_EXP_NEW, NFNLGRP_CONNTRACK_EXP_UPDATE, NFNLGRP_CONNTRACK_EXP_DESTROY];

/** Reads conntrack events from the kernel from `listen` until close(). */
export class EventSocket {
  /** The netlink port the kernel gave this socket. */
  readonly portId: number;
  /** Null before `listen`. */
  #sink: EventSink | null = null;
  readonly #fd: number;
  readonly #filter: SocketFilter;
  readonly #groups: readonly number[];
  #rules: FilterRules;
  #mutedPort = 0;
  readonly #receive = new ReceiveBuffer();
  readonly #flow = new DecodedFlow();
  readonly #counters = newEventCounters();
  readonly #bufferBytesMax: number;
  readonly #turnDatagramsMax: number;
  readonly #pace: Pace;
  readonly #waiter: Waiter;
  #timer: NodeJS.Timeout | null = null;
  #closed: Promise<void> | null = null;

  /**
   * Opens in this thread's network namespace.
   * Throws ConntrailError `PERMISSION` without CAP_NET_ADMIN, `KERNEL` when the kernel has no nfnetlink or conntrack.
   */
  constructor(options: EventSocketOptions = {}) {
    this.#bufferBytesMax = options.bufferBytesMax ?? 8 << 20;
    this.#turnDatagramsMax = options.turnDatagramsMax ?? 1024;
    this.#pace = new Pace(
      options.gatherMs ?? 10,
      (options.gatherEventsPerSecond ?? 500) / 1000,
      options.now ?? (() => performance.now()),
    );
    this.#fd = openSocket();
    this.#filter = new SocketFilter(this.#fd);
    this.#rules = options.filter ?? {};
    this.#groups = options.expectations === true ? [...FLOW_GROUPS, ...EXPECTATION_GROUPS] : FLOW_GROUPS;
    let filter: SocketFilterState;
    try {
      setBuffer(this.#fd, Math.min(options.bufferBytes ?? 2 << 20, this.#bufferBytesMax));
      if (options.reliable === true) {
        setOption(this.#fd, libc.NETLINK_BROADCAST_ERROR, 1);
        setOption(this.#fd, libc.NETLINK_NO_ENOBUFS, 1);
      }
      this.portId = bindSocket(this.#fd);
      filter = this.#filter.attach(this.#rules);
      this.#waiter = new Waiter(this.#fd, () => this.#wake());
    } catch (error) {
      libc.close(this.#fd);
      throw error;
    }
    this.#counters.bufferBytes = readBuffer(this.#fd);
    this.#countFilter(filter);
  }

  /**
   * Subscribes, once: every event from now on comes to the sink, in a later turn of the event loop. Throws as the constructor does.
   */
  listen(sink: EventSink): void {
    for (const group of this.#groups) setOption(this.#fd, libc.NETLINK_ADD_MEMBERSHIP, group);
    this.#sink = sink;
    this.#waiter.wait();
  }

  /** The live counters. */
  get counters(): Readonly<EventCounters> {
    return this.#counters;
  }

  /**
   * From now on the kernel queues only what the rules keep, and what it cannot judge; {} for all events. Rules that do
   * not fit are left out: the result and the counters show which.
   */
  setFilter(rules: FilterRules): SocketFilterState {
    this.#rules = rules;
    return this.#attach();
  }

  /**
   * From now on the kernel drops the events of flows that requests of this netlink port make or change, and keeps
   * those of flows that they end; 0: it keeps all. Older events may still come, and all of them when the program does
   * not fit.
   */
  mute(portId: number): void {
    this.#mutedPort = portId;
    this.#attach();
  }

  /**
   * While off, no events come of flows that begin; older ones may still. If nobody else listens the kernel does not
   * even make them, which saves a third of the cost of creating a flow.
   */
  hearNew(on: boolean): void {
    if (this.#closed !== null || this.#sink === null) return;
    setOption(this.#fd, on ? libc.NETLINK_ADD_MEMBERSHIP : libc.NETLINK_DROP_MEMBERSHIP, NFNLGRP_CONNTRACK_NEW);
  }

  /** Whether events of expectations come from now on; older ones may still. */
  hearExpectations(on: boolean): void {
    if (this.#closed !== null || this.#sink === null) return;
    const option = on ? libc.NETLINK_ADD_MEMBERSHIP : libc.NETLINK_DROP_MEMBERSHIP;
    for (const group of EXPECTATION_GROUPS) setOption(this.#fd, option, group);
  }

  /** Reads now what is queued, up to the bound of a turn; true when the bound ended it and more may be waiting. */
  readNow(): boolean {
    if (this.#closed !== null || this.#sink === null) return false;
    const before = this.#counters.eventsReceived;
    const more = this.#readTurn();
    if (this.#closed === null) this.#sink.onDrained(this.#counters.eventsReceived - before, more);
    return more;
  }

  #attach(): SocketFilterState {
    if (this.#closed !== null) return { instructions: 0, leftOut: [] };
    const state = this.#filter.attach(this.#rules, this.#mutedPort);
    this.#countFilter(state);
    return state;
  }

  #countFilter({ instructions, leftOut }: SocketFilterState): void {
    this.#counters.filterInstructions = instructions;
    this.#counters.filterLeftOut = leftOut.length;
  }

  /** Doubles the receive buffer, up to `bufferBytesMax`. False when it did not grow. */
  growBuffer(): boolean {
    const before = this.#counters.bufferBytes;
    if (this.#closed !== null || before >= this.#bufferBytesMax) return false;
    setBuffer(this.#fd, Math.min(before * 2, this.#bufferBytesMax));
    this.#counters.bufferBytes = readBuffer(this.#fd);
    return this.#counters.bufferBytes > before;
  }

  /** Stops reading at once; resolves when the waiting thread has ended and the descriptors are closed. */
  close(): Promise<void> {
    if (this.#closed === null) {
      if (this.#timer !== null) clearTimeout(this.#timer);
      this.#closed = this.#waiter.end().then(() => void libc.close(this.#fd));
    }
    return this.#closed;
  }

  #wake(): void {
    if (this.#closed !== null) return;
    this.#counters.wakeups++;
    this.#drain();
  }

  /** One turn: reads up to the bound, then yields to the event loop, gathers or waits. */
  #drain(): void {
    const eventsBefore = this.#counters.eventsReceived;
    const more = this.readNow();
    const events = this.#counters.eventsReceived - eventsBefore;
    if (this.#closed !== null) return;
    const gatherMs = this.#pace.after(events, this.#counters.bufferBytes);
    if (more) {
      setImmediate(() => this.#drain());
    } else if (gatherMs > 0) {
      this.#timer = setTimeout(() => this.#drain(), gatherMs);
    } else {
      this.#waiter.wait();
    }
  }

  /** True when the bound ended the turn and more may be waiting. */
  #readTurn(): boolean {
    let budget = this.#turnDatagramsMax;
    while (budget > 0) {
      const wanted = Math.min(budget, SLOTS);
      const count = this.#receive.read(this.#fd, wanted);
      if (count < 0) {
        const errno = libc.errno();
        if (errno === EAGAIN) return false;
        budget--;
        if (errno !== EINTR) this.#receiveFailed(errno);
      } else {
        budget -= count;
        this.#counters.datagrams += count;
        for (let slot = 0; slot < count; slot++) this.#decodeSlot(slot);
      }
      if (this.#closed !== null) return false;
      // After a short count the queue is empty, or an error is pending, which wakes the next poll.
      if (count >= 0 && count < wanted) return false;
    }
    return true;
  }

  /** Whatever failed, events may be missing: the owner must compare with a dump. */
  #receiveFailed(errno: number): void {
    if (errno === ENOBUFS) this.#counters.overruns++;
    else this.#counters.receiveErrors++;
    this.#sink?.onOverrun();
  }

  #decodeSlot(slot: number): void {
    const receive = this.#receive;
    if (receive.isTruncated(slot)) {
      this.#malformed(MALFORMED_TRUNCATED);
      return;
    }
    let at = receive.start(slot);
    const end = at + receive.length(slot);
    while (at < end) {
      const length = at + NLMSG_HDRLEN <= end ? receive.words[at >> 2]! : 0;
      if (length < NLMSG_HDRLEN || length > end - at) {
        this.#malformed(MALFORMED_HEADER);
        return;
      }
      this.#decodeMessage(at, at + length);
      at += (length + 3) & ~3;
    }
  }

  #decodeMessage(at: number, end: number): void {
    if (this.#closed !== null) return;
    const { words } = this.#receive;
    const typeAndFlags = words[(at + 4) >> 2]!;
    const type = LITTLE_ENDIAN ? typeAndFlags & 0xffff : typeAndFlags >>> 16;
    const flags = LITTLE_ENDIAN ? typeAndFlags >>> 16 : typeAndFlags & 0xffff;
    if (type !== TYPE_CT_NEW && type !== TYPE_CT_DELETE) {
      this.#decodeExpectation(type, flags, at, end);
      return;
    }
    const failure = decodeConntrack(this.#receive.bytes, at + NLMSG_HDRLEN, end, this.#flow);
    if (failure !== 0) {
      this.#malformed(failure);
      return;
    }
    this.#counters.eventsReceived++;
    this.#sink?.onEvent(eventKind(type, flags), this.#flow, words[(at + 12) >> 2]!);
  }

  #decodeExpectation(type: number, flags: number, at: number, end: number): void {
    if (type !== TYPE_EXP_NEW && type !== TYPE_EXP_DELETE) {
      this.#counters.unknownType++;
      return;
    }
    const decoded = decodeExpectation(this.#receive.bytes, at + NLMSG_HDRLEN, end);
    if (typeof decoded === "number") {
      this.#malformed(decoded);
      return;
    }
    this.#counters.eventsReceived++;
    this.#sink?.onExpectation?.(eventKind(type, flags), decoded, this.#receive.words[(at + 12) >> 2]!);
  }

  #malformed(code: number): void {
    this.#counters.malformed++;
    this.#sink?.onMalformed(code);
  }
}

/** Netlink headers are in host order. */
const LITTLE_ENDIAN = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

function eventKind(type: number, flags: number): EventKind {
  if (type === TYPE_CT_DELETE || type === TYPE_EXP_DELETE) return EVENT_DESTROY;
  return (flags & (NLM_F_CREATE | NLM_F_EXCL)) === 0 ? EVENT_UPDATE : EVENT_NEW;
}

/**
 * One buffer of fixed slots, allocated once, that takes up to SLOTS datagrams per recvmmsg:
 *
 *   headers   SLOTS × struct mmsghdr (64 bytes), each pointing at its iovec
 *   iovecs    SLOTS × struct iovec (16 bytes), each pointing at its slot
 *   slots     SLOTS × SLOT_STRIDE bytes
 *
 * The kernel writes into it by the addresses in the iovecs, so the owner keeps the object.
 */
class ReceiveBuffer {
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

/**
 * How long to let the socket's buffer gather. A wake-up costs as much as tens of events, so it is taken at once after
 * quiet and postponed as the rate grows, but never for so long that a quarter of the buffer could fill meanwhile.
 */
class Pace {
  readonly #gatherMsMax: number;
  /** Events per millisecond below which each wake-up is taken at once. */
  readonly #quiet: number;
  readonly #nowMs: () => number;
  #windowStartMs: number;
  #windowEvents = 0;
  #eventsPerMs = 0;

  constructor(gatherMsMax: number, quiet: number, nowMs: () => number) {
    this.#gatherMsMax = gatherMsMax;
    this.#quiet = quiet;
    this.#nowMs = nowMs;
    this.#windowStartMs = nowMs();
  }

  /** Milliseconds to gather after a turn that brought `events`; 0 means wait for the next event at once. */
  after(events: number, bufferBytes: number): number {
    const nowMs = this.#nowMs();
    const elapsedMs = nowMs - this.#windowStartMs;
    this.#windowEvents += events;
    const isFull = elapsedMs >= RATE_WINDOW_MS && this.#windowEvents >= RATE_WINDOW_EVENTS;
    if (isFull || elapsedMs >= RATE_WINDOW_MS_MAX) {
      this.#eventsPerMs = this.#windowEvents / elapsedMs;
      this.#windowStartMs = nowMs;
      this.#windowEvents = 0;
    }
    if (this.#eventsPerMs < this.#quiet) return 0;
    const wantedMs = this.#gatherMsMax * Math.min(1, this.#eventsPerMs / (RATE_FULL * this.#quiet));
    const safeMs = bufferBytes / 4 / EVENT_TRUESIZE / this.#eventsPerMs;
    return Math.floor(Math.min(wantedMs, safeMs));
  }
}

/** Waits for a descriptor on a thread of the pool, one poll(2) at a time. The wait can be ended at any moment. */
class Waiter {
  readonly #onReady: () => void;
  readonly #eventFd: number;
  readonly #fds = libc.allocateStable(16);
  readonly #results = new Int16Array(this.#fds.buffer);
  readonly #onExit = (): void => this.#signal();
  #polling = false;
  #retry: NodeJS.Timeout | null = null;
  #ended: (() => void) | null = null;

  constructor(fd: number, onReady: () => void) {
    this.#onReady = onReady;
    this.#eventFd = libc.eventfd(0, libc.EFD_CLOEXEC | libc.EFD_NONBLOCK);
    if (this.#eventFd < 0) throw failure("eventfd", libc.errno());
    const words = new Int32Array(this.#fds.buffer);
    words[0] = fd;
    this.#results[2] = libc.POLLIN;
    words[2] = this.#eventFd;
    this.#results[6] = libc.POLLIN;
    // Node joins the threads of its pool when the process exits: a poll that nobody ends would delay that.
    process.once("exit", this.#onExit);
  }

  /** Calls `onReady` once, when the descriptor is readable or has an error. */
  wait(): void {
    this.#polling = true;
    libc.pollAsync(this.#fds, 2, POLL_TIMEOUT_MS, (error, ready) => this.#returned(error, ready));
  }

  /** Ends the current wait; resolves when no thread uses the descriptors any more. */
  async end(): Promise<void> {
    if (this.#retry !== null) clearTimeout(this.#retry);
    const returned = new Promise<void>((resolve) => {
      this.#ended = resolve;
    });
    if (this.#polling) {
      this.#signal();
      await returned;
    }
    process.removeListener("exit", this.#onExit);
    libc.close(this.#eventFd);
  }

  #returned(error: Error | null, ready: number): void {
    this.#polling = false;
    if (this.#ended !== null) {
      this.#ended();
    } else if (error !== null || ready < 0) {
      // EINTR, or no memory for the thread. Not at once: a lasting failure would spin.
      this.#retry = setTimeout(() => this.wait(), POLL_RETRY_MS);
    } else if (ready > 0 && this.#results[3] !== 0) {
      this.#onReady();
    } else {
      this.wait();
    }
  }

  #signal(): void {
    libc.eventfdWrite(this.#eventFd, 1);
  }
}

function openSocket(): number {
  const fd = libc.socket(libc.AF_NETLINK, libc.SOCK_RAW | libc.SOCK_NONBLOCK | libc.SOCK_CLOEXEC, NETLINK_NETFILTER);
  if (fd < 0) throw failure("socket", libc.errno());
  return fd;
}

/** Binds to a port that the kernel chooses, and returns it. */
function bindSocket(fd: number): number {
  const address = libc.allocateStable(SOCKADDR_NL_BYTES);
  const words = new Uint32Array(address.buffer);
  new Uint16Array(address.buffer)[0] = libc.AF_NETLINK;
  if (libc.bind(fd, address, SOCKADDR_NL_BYTES) !== 0) throw failure("bind", libc.errno());
  if (libc.getsockname(fd, address, Int32Array.of(SOCKADDR_NL_BYTES)) !== 0) {
    throw failure("getsockname", libc.errno());
  }
  return words[1]!;
}

function setOption(fd: number, name: number, value: number): void {
  const errno = libc.setIntOption(fd, libc.SOL_NETLINK, name, value);
  if (errno !== 0) throw failure("setsockopt", errno);
}

/**
 * SO_RCVBUFFORCE may exceed net.core.rmem_max but needs CAP_NET_ADMIN. Both options double the value that they are
 * given.
 */
function setBuffer(fd: number, bytes: number): void {
  const half = Math.ceil(bytes / 2);
  if (libc.setIntOption(fd, libc.SOL_SOCKET, libc.SO_RCVBUFFORCE, half) !== 0) {
    libc.setIntOption(fd, libc.SOL_SOCKET, libc.SO_RCVBUF, half);
  }
}

function readBuffer(fd: number): number {
  return libc.getIntOption(fd, libc.SOL_SOCKET, libc.SO_RCVBUF);
}

function failure(operation: string, errno: number): ConntrailError {
  const where = `conntrack event socket: ${operation}`;
  if (errno === EPERM) {
    return new ConntrailError("PERMISSION", `${where}: not permitted; run as root or with CAP_NET_ADMIN`);
  }
  if (errno === EPROTONOSUPPORT || errno === EAFNOSUPPORT || errno === ENOENT) {
    return new ConntrailError("KERNEL", `${where}: this kernel has no nfnetlink: modprobe nf_conntrack_netlink`);
  }
  return new ConntrailError("KERNEL", `${where} failed with ${errnoName(errno)}`);
}
