/**
 * The few libc calls that neither Node nor the `netlink` package offers, bound through koffi.
 *
 * Memory whose address C keeps beyond one call (scatter lists, the descriptors of a `poll` on another thread) must
 * come from `allocateStable` and stay reachable from a live object: a local of an optimised function is collected
 * early.
 */
import koffi from "koffi";

export const AF_NETLINK = 16;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SO_RCVBUF = 8;
export const SO_RCVBUFFORCE = 33;
export const SO_ATTACH_FILTER = 26;
export const SO_DETACH_FILTER = 27;
export const SOL_NETLINK = 270;
export const NETLINK_ADD_MEMBERSHIP = 1;
export const NETLINK_DROP_MEMBERSHIP = 2;
export const NETLINK_BROADCAST_ERROR = 4;
export const NETLINK_NO_ENOBUFS = 5;
export const MSG_TRUNC = 0x20;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const AF_UNIX = 1;
export const SOCK_DGRAM = 2;
export const LOCK_EX = 2;
export const LOCK_NB = 4;
export const PR_SET_NAME = 15;
export const SCHED_OTHER = 0;
export const SCHED_FIFO = 1;
export const SCHED_RR = 2;
export const POLLIN = 0x001;
export const EFD_CLOEXEC = 0o2000000;
export const EFD_NONBLOCK = 0o4000;

type Memory = Uint8Array | Int32Array | Uint32Array | null;
type PollDone = (error: Error | null, ready: number) => void;

/** The process's own symbols: whichever libc Node was linked with. */
const library = koffi.load(null);
const pollFunction = library.func("int poll(void *fds, unsigned long count, int timeoutMs)");
const sendtoFunction = library.func(
  "long sendto(int fd, void *data, size_t length, int flags, void *address, uint32_t addressLength)",
);

/** socket(2): a descriptor, or -1 with errno set, as with all of these. */
export const socket = library.func("int socket(int family, int type, int protocol)") as (
  family: number,
  type: number,
  protocol: number,
) => number;
/** bind(2). `address` is a sockaddr. */
export const bind = library.func("int bind(int fd, void *address, uint32_t length)") as (
  fd: number,
  address: Memory,
  length: number,
) => number;
/** getsockname(2). `length` is an int that the kernel updates. */
export const getsockname = library.func("int getsockname(int fd, void *address, void *length)") as (
  fd: number,
  address: Memory,
  length: Memory,
) => number;
/** setsockopt(2); `setIntOption` for the common case. */
export const setsockopt = library.func("int setsockopt(int fd, int level, int name, void *value, uint32_t length)") as (
  fd: number,
  level: number,
  name: number,
  value: Memory,
  length: number,
) => number;
/** getsockopt(2); `getIntOption` for the common case. */
export const getsockopt = library.func("int getsockopt(int fd, int level, int name, void *value, void *length)") as (
  fd: number,
  level: number,
  name: number,
  value: Memory,
  length: Memory,
) => number;
/** recvmmsg(2): how many of the `count` struct mmsghdr were filled. */
export const recvmmsg = library.func(
  "int recvmmsg(int fd, void *messages, uint32_t count, int flags, void *timeout)",
) as (fd: number, messages: Memory, count: number, flags: number, timeout: null) => number;
/** close(2). Never close a descriptor that a thread still polls: its number may be reused at once. */
export const close = library.func("int close(int fd)") as (fd: number) => number;
/** eventfd(2). */
export const eventfd = library.func("int eventfd(uint32_t initial, int flags)") as (
  initial: number,
  flags: number,
) => number;
/** Adds one to an eventfd's counter. Safe to call at any time, also while a thread polls it. */
export const eventfdWrite = library.func("int eventfd_write(int fd, uint64_t value)") as (
  fd: number,
  value: number,
) => number;

/** sendto(2): bytes sent. `address` is a sockaddr. */
export const sendto = sendtoFunction as (
  fd: number,
  data: Memory,
  length: number,
  flags: number,
  address: Memory,
  addressLength: number,
) => number;
/** mkfifo(3): 0, or -1. The umask applies to `mode`. */
export const mkfifo = library.func("int mkfifo(const char *path, uint32_t mode)") as (
  path: string,
  mode: number,
) => number;
/** flock(2). The lock lasts until the descriptor is closed, at the latest when the process ends. */
export const flock = library.func("int flock(int fd, int operation)") as (fd: number, operation: number) => number;

/** sched_getscheduler(2): the policy of a thread; with 0, of the calling one. */
export const schedGetScheduler = library.func("int sched_getscheduler(int tid)") as (tid: number) => number;
/** sched_setscheduler(2). `parameters` is a struct sched_param, which is an int with the priority. */
export const schedSetScheduler = library.func("int sched_setscheduler(int tid, int policy, void *parameters)") as (
  tid: number,
  policy: number,
  parameters: Memory,
) => number;

const prctlFunction = library.func("int prctl(int option, str name, ulong, ulong, ulong)") as (
  option: number,
  name: string,
  ...zeros: readonly number[]
) => number;

/** prctl(PR_SET_NAME): the name of the calling thread, in the main thread that of the process. */
export function prctlName(name: string): boolean {
  return prctlFunction(PR_SET_NAME, name, 0, 0, 0) === 0;
}

/** poll(2) on a thread of the pool. `fds` holds `count` struct pollfd and must stay reachable until `done` runs. */
export function pollAsync(fds: Uint8Array, count: number, timeoutMs: number, done: PollDone): void {
  pollFunction.async(fds, count, timeoutMs, done);
}

/** send(2) on a thread of the pool: bytes sent, or -1. `data` must stay as it is, and reachable, until `done` runs. */
export function sendAsync(fd: number, data: Uint8Array, done: (error: Error | null, sent: number) => void): void {
  sendtoFunction.async(fd, data, data.length, 0, null, 0, done);
}

/** errno of the last call of this thread. */
export function errno(): number {
  return koffi.errno();
}

/** Zeroed memory outside the JavaScript heap, at an address that never changes while the buffer is reachable. */
export function allocateStable(bytes: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new ArrayBuffer(bytes));
}

/** The address of memory from `allocateStable`. */
export function addressOf(memory: Uint8Array): bigint {
  return koffi.address(memory);
}

/** setsockopt with an int. 0, or the errno. */
export function setIntOption(fd: number, level: number, name: number, value: number): number {
  return setsockopt(fd, level, name, Int32Array.of(value), 4) === 0 ? 0 : errno();
}

/** getsockopt of an int, or -1. */
export function getIntOption(fd: number, level: number, name: number): number {
  const value = Int32Array.of(-1);
  return getsockopt(fd, level, name, value, Int32Array.of(4)) === 0 ? value[0]! : -1;
}
