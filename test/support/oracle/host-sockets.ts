/**
 * Sockets in a host's network namespace, called from the test's own thread: a step of traffic has left the host, and on a
 * veth mostly arrived, when the call returns. No child process, so hundreds of steps cost milliseconds.
 */
import koffi from "koffi";
import { parseAddress } from "../../../src/flow/address.js";
import { AF_INET, AF_INET6 } from "../../../src/flow/record.js";
import type { Namespace } from "../../../src/lab/namespace.js";
import { close, errno, socket } from "../../../src/os/libc.js";
import { inNamespace } from "../kernel-namespace.js";

export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;

const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_LINGER = 13;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;
const SHUT_WR = 1;
const BACKLOG = 64;
/** Nothing waits longer: a packet that does not come is a failed test, not one that hangs. */
const TIMEOUT_SECONDS = 3n;
const DATAGRAM_BYTES_MAX = 2048;

const libc = koffi.load(null);
const bindTo = libc.func("int bind(int fd, void *address, uint32_t length)");
const connectTo = libc.func("int connect(int fd, void *address, uint32_t length)");
const listenOn = libc.func("int listen(int fd, int backlog)");
const acceptOn = libc.func("int accept4(int fd, void *address, void *length, int flags)");
const sendTo = libc.func(
  "int64_t sendto(int fd, void *bytes, size_t length, int flags, void *address, uint32_t addressLength)",
);
const receiveFrom = libc.func(
  "int64_t recvfrom(int fd, void *bytes, size_t length, int flags, void *address, void *addressLength)",
);
const setOption = libc.func("int setsockopt(int fd, int level, int name, void *value, uint32_t length)");
const shutDown = libc.func("int shutdown(int fd, int how)");

/** A datagram with the sockaddr of who sent it, to which an answer goes. */
export interface Received {
  readonly bytes: Uint8Array;
  readonly from: Uint8Array;
}

/** The sockets of one namespace. All are closed with it. */
export class HostSockets implements Disposable {
  readonly #namespace: Namespace;
  readonly #open = new Set<number>();

  constructor(namespace: Namespace) {
    this.#namespace = namespace;
  }

  /** A socket whose calls block for three seconds at most. */
  socket(address: string, type: number, protocol = 0): number {
    const fd = inNamespace(this.#namespace.name, () => socket(familyOf(address), type | SOCK_CLOEXEC, protocol));
    if (fd < 0) throw failed(`socket type ${type} protocol ${protocol}`);
    this.#open.add(fd);
    const limit = BigInt64Array.of(TIMEOUT_SECONDS, 0n);
    for (const name of [SO_RCVTIMEO, SO_SNDTIMEO]) setOption(fd, SOL_SOCKET, name, limit, limit.byteLength);
    return fd;
  }

  /** A socket with an address of the host's own. */
  bound(address: string, port: number, type: number, protocol = 0): number {
    const fd = this.socket(address, type, protocol);
    setOption(fd, SOL_SOCKET, SO_REUSEADDR, Int32Array.of(1), 4);
    const name = sockaddr(address, port);
    if (bindTo(fd, name, name.length) !== 0) throw failed(`bind to ${address} port ${port}`);
    return fd;
  }

  /** A TCP socket that listens; the kernel answers clients, also before anyone accepts. */
  listen(address: string, port: number): number {
    const fd = this.bound(address, port, SOCK_STREAM);
    if (listenOn(fd, BACKLOG) !== 0) throw failed(`listen on ${address} port ${port}`);
    return fd;
  }

  /** A TCP connection from an address and port of the host's own, once the handshake is done. */
  connect(source: string, sourcePort: number, destination: string, port: number): number {
    const fd = this.bound(source, sourcePort, SOCK_STREAM);
    const name = sockaddr(destination, port);
    if (connectTo(fd, name, name.length) !== 0) throw failed(`connect to ${destination} port ${port}`);
    return fd;
  }

  /** The next connection of a listening socket. */
  accept(listener: number): number {
    const fd = acceptOn(listener, null, null, SOCK_CLOEXEC);
    if (fd < 0) throw failed("accept");
    this.#open.add(fd);
    return fd;
  }

  /** Sends to an address, or on a connection. */
  send(fd: number, bytes: Uint8Array, to: Uint8Array | null = null): void {
    if (Number(sendTo(fd, bytes, bytes.length, 0, to, to?.length ?? 0)) !== bytes.length) {
      throw failed(`send ${bytes.length} bytes`);
    }
  }

  /** The next datagram, or bytes of a connection. */
  receive(fd: number): Received {
    const bytes = new Uint8Array(DATAGRAM_BYTES_MAX);
    const from = new Uint8Array(28);
    const length = Int32Array.of(from.length);
    const count = Number(receiveFrom(fd, bytes, bytes.length, 0, from, length));
    if (count < 0) throw failed("receive");
    return { bytes: bytes.subarray(0, count), from: from.subarray(0, length[0]!) };
  }

  /** Ends the host's own direction of a connection: FIN. */
  finish(fd: number): void {
    if (shutDown(fd, SHUT_WR) !== 0) throw failed("shutdown");
  }

  /** Ends a connection with a RST. */
  reset(fd: number): void {
    setOption(fd, SOL_SOCKET, SO_LINGER, Int32Array.of(1, 0), 8);
    this.close(fd);
  }

  close(fd: number): void {
    if (this.#open.delete(fd)) close(fd);
  }

  [Symbol.dispose](): void {
    for (const fd of this.#open) close(fd);
    this.#open.clear();
  }
}

/** AF_INET or AF_INET6. */
export function familyOf(address: string): number {
  return address.includes(":") ? AF_INET6 : AF_INET;
}

/** The bytes of an address in network order: 4 or 16. */
export function addressBytes(address: string): Uint8Array {
  const parsed = parseAddress(address);
  if (parsed === undefined) throw new Error(`not an address: ${address}`);
  const bytes = Buffer.alloc(16);
  parsed.words.forEach((word, index) => void bytes.writeUInt32BE(word, index * 4));
  return bytes.subarray(0, parsed.family === AF_INET ? 4 : 16);
}

/** struct sockaddr_in or sockaddr_in6. */
export function sockaddr(address: string, port = 0): Uint8Array {
  const family = familyOf(address);
  const bytes = Buffer.alloc(family === AF_INET ? 16 : 28);
  bytes.writeUInt16LE(family, 0);
  bytes.writeUInt16BE(port, 2);
  bytes.set(addressBytes(address), family === AF_INET ? 4 : 8);
  return bytes;
}

function failed(what: string): Error {
  return new Error(`${what}: errno ${errno()}`);
}
