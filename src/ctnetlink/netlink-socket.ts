/**
 * A socket of the `netlink` package, protected from four weaknesses of its native part:
 *
 * - A pending socket error makes libuv report the descriptor as bad, and the package then aborts the whole process.
 *   The only such error here is ENOBUFS, so NETLINK_NO_ENOBUFS is set and losses are read from the drop counter.
 * - An exception in a listener aborts the process as well: it is thrown again outside the native callback.
 * - Its SO_RCVBUF stops at net.core.rmem_max: SO_RCVBUFFORCE exceeds that.
 * - It sends on the event loop's thread, which blocks while the kernel works through a batch, or waits for another
 *   process's batch: long ones are sent on a thread of the pool.
 *
 * The package does not expose its descriptor: it is the one of the socket that did not exist before.
 */
import assert from "node:assert/strict";
import { readdirSync, readlinkSync } from "node:fs";
import { RawNetlinkSocket } from "netlink";
import { ConntrailError, errorText } from "../errors.js";
import { EPERM } from "../os/errno.js";
import * as libc from "../os/libc.js";

/** Protocol, sizes, groups, and where datagrams go. */
export interface NetlinkSocketOptions {
  /** NETLINK_NETFILTER or NETLINK_ROUTE. */
  protocol: number;
  /** Receive buffer, as SO_RCVBUF reads. */
  bufferBytes: number;
  /** Longest datagram that is read whole. Each datagram gets a buffer of this size, so keep it small. */
  datagramBytesMax: number;
  /** Multicast groups by number, joined before the constructor returns. */
  groups?: readonly number[];
  /** One datagram. */
  onDatagram: (bytes: Uint8Array) => void;
  /** A datagram was longer than `datagramBytesMax` and is lost. */
  onTruncated: () => void;
}

const DESCRIPTORS = "/proc/self/fd";
const SO_SNDBUFFORCE = 32;
const SO_PROTOCOL = 38;
const SO_MEMINFO = 55;
const SK_MEMINFO_DROPS = 8;
const SK_MEMINFO_WORDS = 9;
const NETLINK_CAP_ACK = 10;
const SEND_BUFFER_BYTES = 1 << 20;
/** From this size on (some 40 requests, 0.2 ms of kernel work) a thread of the pool sends. */
const POOL_BYTES_MIN = 6 << 10;

/** A netlink socket to the kernel that survives overruns. Opened in this thread's network namespace. */
export class NetlinkSocket {
  readonly portId: number;
  readonly #raw: RawNetlinkSocket;
  readonly #fd: number;
  readonly #memory = new Uint32Array(SK_MEMINFO_WORDS);
  readonly #memoryLength = new Int32Array(1);
  #dropsSeen = 0;
  #open = true;
  /** Sends that threads of the pool are working on: until they end, the descriptor must not be closed and reused. */
  #sending = 0;

  /** Throws ConntrailError `PERMISSION` or `KERNEL` when the kernel refuses. */
  constructor(options: NetlinkSocketOptions) {
    const before = new Set(sockets().values());
    this.#raw = openRaw(options);
    this.portId = this.#raw.address().port;
    this.#fd = findDescriptor(before, options.protocol, this.portId);
    setOption(this.#fd, libc.NETLINK_NO_ENOBUFS, 1);
    // Errors then carry only the header of their request, so more of them fit into the buffer.
    setOption(this.#fd, NETLINK_CAP_ACK, 1);
    // Without CAP_NET_ADMIN the sizes stay as the package could set them.
    libc.setIntOption(this.#fd, libc.SOL_SOCKET, libc.SO_RCVBUFFORCE, Math.ceil(options.bufferBytes / 2));
    libc.setIntOption(this.#fd, libc.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES / 2);
    this.#raw.on("message", (bytes) => outside(() => options.onDatagram(bytes)));
    this.#raw.on("truncatedMessage", () => outside(options.onTruncated));
    this.#raw.on("error", () => undefined);
    try {
      for (const group of options.groups ?? []) this.#raw.addMembership(group);
    } catch (error) {
      this.close();
      throw failure(error);
    }
  }

  /** True until close(). */
  get isOpen(): boolean {
    return this.#open;
  }

  /** The receive buffer as SO_RCVBUF reads. */
  get bufferBytes(): number {
    return libc.getIntOption(this.#fd, libc.SOL_SOCKET, libc.SO_RCVBUF);
  }

  /**
   * One sendmsg to the kernel, which handles all requests in it before this returns. `bytes` must not change until
   * `done` runs, which gets null or the reason for a failure. `long`: the kernel takes long for them, however few they
   * are.
   */
  send(bytes: Uint8Array, done: (error: ConntrailError | null) => void, long = bytes.length >= POOL_BYTES_MIN): void {
    if (!this.#open || !long) {
      this.#sendHere(bytes, done);
      return;
    }
    this.#sending++;
    libc.sendAsync(this.#fd, bytes, (error, sent) => {
      this.#sending--;
      if (!this.#open && this.#sending === 0) this.#raw.close();
      if (error === null && sent === bytes.length) done(null);
      // The errno of the thread is lost. Nothing was sent: a second attempt here succeeds or shows the reason.
      else this.#sendHere(bytes, done);
    });
  }

  #sendHere(bytes: Uint8Array, done: (error: ConntrailError | null) => void): void {
    try {
      this.#raw.send(bytes, undefined, (error) => outside(() => done(error === undefined ? null : failure(error))));
    } catch (error) {
      done(failure(error));
    }
  }

  /** How many datagrams the kernel could not put into the receive buffer since the last call. */
  takeDrops(): number {
    if (!this.#open) return 0;
    this.#memoryLength[0] = SK_MEMINFO_WORDS * 4;
    if (libc.getsockopt(this.#fd, libc.SOL_SOCKET, SO_MEMINFO, this.#memory, this.#memoryLength) !== 0) return 0;
    const drops = (this.#memory[SK_MEMINFO_DROPS]! - this.#dropsSeen) >>> 0;
    this.#dropsSeen = this.#memory[SK_MEMINFO_DROPS]!;
    return drops;
  }

  /** While false the socket does not keep the process alive. */
  keepAlive(on: boolean): void {
    if (!this.#open) return;
    if (on) this.#raw.ref();
    else this.#raw.unref();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#sending === 0) this.#raw.close();
  }
}

function openRaw(options: NetlinkSocketOptions): RawNetlinkSocket {
  try {
    return new RawNetlinkSocket(options.protocol, {
      messagePeeking: false,
      msgBufferSize: options.datagramBytesMax,
      recvBufferSize: Math.ceil(options.bufferBytes / 2),
      sendBufferSize: SEND_BUFFER_BYTES / 2,
    });
  } catch (error) {
    throw failure(error);
  }
}

/**
 * The open sockets: inode by descriptor. Descriptors alone would not do, since reading the directory takes one itself.
 */
function sockets(): Map<number, string> {
  const inodes = new Map<number, string>();
  for (const name of readdirSync(DESCRIPTORS)) {
    try {
      const target = readlinkSync(`${DESCRIPTORS}/${name}`);
      if (target.startsWith("socket:")) inodes.set(Number(name), target);
    } catch {
      // The descriptor through which the directory was read is closed again.
    }
  }
  return inodes;
}

function findDescriptor(before: ReadonlySet<string>, protocol: number, portId: number): number {
  const address = new Uint32Array(3);
  for (const [fd, inode] of sockets()) {
    if (before.has(inode)) continue;
    if (libc.getsockname(fd, address, Int32Array.of(12)) !== 0) continue;
    if (new Uint16Array(address.buffer)[0] !== libc.AF_NETLINK || address[1] !== portId) continue;
    if (libc.getIntOption(fd, libc.SOL_SOCKET, SO_PROTOCOL) === protocol) return fd;
  }
  assert.fail("the netlink package's socket has no descriptor");
}

function setOption(fd: number, name: number, value: number): void {
  const errno = libc.setIntOption(fd, libc.SOL_NETLINK, name, value);
  assert.equal(errno, 0, `netlink option ${name}: errno ${errno}`);
}

/** Runs a listener: what it throws becomes an uncaught exception instead of aborting the process. */
function outside(listener: () => void): void {
  try {
    listener();
  } catch (error) {
    process.nextTick(() => {
      throw error;
    });
  }
}

function failure(error: unknown): ConntrailError {
  const errno = (error as { errno?: number }).errno;
  if (errno === EPERM) {
    return new ConntrailError("PERMISSION", "netlink socket: not permitted; run as root or with CAP_NET_ADMIN", {
      cause: error,
    });
  }
  return new ConntrailError("KERNEL", `netlink socket: ${errorText(error)}`, { cause: error });
}
