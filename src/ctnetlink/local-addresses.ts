/**
 * The machine's own addresses, kept current from rtnetlink: RTM_GETADDR once, then RTM_NEWADDR and RTM_DELADDR.
 *
 * One socket carries both, so notifications and the dump's answers arrive in order. The parsers are those of the
 * `netlink` package; its own request layer is not used, since it takes a notification within a dump for a broken dump.
 */
import { formatMessage, type NetlinkMessage, parseMessages, rt } from "netlink";
import { ConntrailError } from "../errors.js";
import { formatAddress } from "../flow/address.js";
import { AF_INET, AF_INET6 } from "../flow/record.js";
import { EAGAIN, EBUSY, errnoName } from "../os/errno.js";
import { readNet32 } from "./attributes.js";
import { NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR } from "./constants.js";
import { decodeError } from "./decode.js";
import { NetlinkSocket } from "./netlink-socket.js";

/** Listeners, deadlines and sizes. */
export interface LocalAddressesOptions {
  /** Called after the set of addresses has changed, not for the addresses that `open` found. */
  onChange?: () => void;
  /** Called when the addresses can no longer be kept current. */
  onError?: (error: ConntrailError) => void;
  /** How long the kernel may take for the first list. Default 5000. */
  timeoutMs?: number;
  /** Receive buffer, as SO_RCVBUF reads. Default 1 MiB. */
  bufferBytes?: number;
}

/** How often the addresses changed or had to be read again, all at zero. */
function newCounters() {
  return { notifications: 0, overruns: 0, dumps: 0, malformed: 0 };
}

/** The counters of LocalAddresses. */
export type LocalAddressesCounters = ReturnType<typeof newCounters>;

const NETLINK_ROUTE = 0;
const RTNLGRP_IPV4_IFADDR = 5;
const RTNLGRP_IPV6_IFADDR = 9;
const RTM_NEWADDR = 20;
const RTM_DELADDR = 21;
const RTM_GETADDR = 22;
const IFADDRMSG_BYTES = 8;
const DATAGRAM_BYTES = 32 << 10;
const DUMP_RETRY_MS = 50;

/** The machine's own IPv4 and IPv6 addresses, kept current. */
export class LocalAddresses {
  readonly #options: LocalAddressesOptions;
  readonly #socket: NetlinkSocket;
  readonly #counters = newCounters();
  #known = new InterfaceAddresses();
  /** What the current dump has listed so far. */
  #listed: InterfaceAddresses | null = null;
  #sequence = 0;
  #interrupted = false;
  #retry: NodeJS.Timeout | null = null;
  #opened: ((error: ConntrailError | null) => void) | null = null;

  /** Subscribes in this thread's network namespace; `open` does the same and waits for the first list. */
  private constructor(options: LocalAddressesOptions) {
    this.#options = options;
    this.#socket = new NetlinkSocket({
      protocol: NETLINK_ROUTE,
      bufferBytes: options.bufferBytes ?? 1 << 20,
      datagramBytesMax: DATAGRAM_BYTES,
      groups: [RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR],
      onDatagram: (bytes) => this.#onDatagram(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)),
      onTruncated: () => this.#startOver(),
    });
  }

  /**
   * Subscribes, then reads the addresses, so that no change in between is missed.
   * Throws ConntrailError `KERNEL` or `PERMISSION` when the kernel refuses, `TIMEOUT` when it does not answer.
   */
  static async open(options: LocalAddressesOptions = {}): Promise<LocalAddresses> {
    const addresses = new LocalAddresses(options);
    const timeoutMs = options.timeoutMs ?? 5000;
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const late = new ConntrailError("TIMEOUT", `the kernel did not list its addresses within ${timeoutMs} ms`);
        timer = setTimeout(() => reject(late), timeoutMs);
        addresses.#opened = (error) => (error === null ? resolve() : reject(error));
        addresses.#startDump();
      });
      return addresses;
    } catch (error) {
      addresses.close();
      throw error;
    } finally {
      clearTimeout(timer);
      addresses.#opened = null;
    }
  }

  /** The live counters. */
  get counters(): Readonly<LocalAddressesCounters> {
    return this.#counters;
  }

  /**
   * Whether the address at `words[at]` is one of this machine's; `at` is base + W_ORIG_SRC or another address word.
   */
  hasAddress(words: Uint32Array, at: number, family: number): boolean {
    return this.#known.has(words, at, family);
  }

  /** All addresses as text, sorted. */
  list(): string[] {
    return this.#known.list();
  }

  close(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#socket.close();
  }

  #startDump(): void {
    this.#retry = null;
    this.#listed = new InterfaceAddresses();
    this.#interrupted = false;
    this.#counters.dumps++;
    const request = formatMessage({
      type: RTM_GETADDR,
      flags: NLM_F_REQUEST | NLM_F_DUMP,
      seq: ++this.#sequence,
      port: this.#socket.portId,
      data: new Uint8Array(IFADDRMSG_BYTES),
    });
    this.#socket.send(Buffer.concat(request), (error) => {
      if (error !== null) this.#fail(error);
    });
  }

  /** Notifications were lost: dumps again. The rest of the current dump is ignored by its sequence number. */
  #startOver(): void {
    this.#counters.overruns++;
    this.#dumpSoon();
  }

  /** After a while: the kernel refuses a dump (EBUSY) while the last one is still being read. */
  #dumpSoon(): void {
    this.#retry ??= setTimeout(() => this.#startDump(), DUMP_RETRY_MS);
  }

  #onDatagram(bytes: Buffer): void {
    if (!this.#socket.isOpen) return;
    let messages: NetlinkMessage[] = [];
    try {
      messages = parseMessages(bytes);
    } catch {
      this.#counters.malformed++;
    }
    let changed = false;
    for (const message of messages) changed = this.#onMessage(message) || changed;
    if (this.#socket.takeDrops() > 0) this.#startOver();
    if (changed && this.#opened === null) this.#options.onChange?.();
  }

  /** True when the set of addresses changed. */
  #onMessage(message: NetlinkMessage): boolean {
    const answer = message.port === this.#socket.portId;
    const current = answer && message.seq === this.#sequence && this.#listed !== null;
    if (message.type === NLMSG_DONE || message.type === NLMSG_ERROR) {
      return current && this.#endDump(decodeError(message.data, 0, message.data.length));
    }
    if (message.type !== RTM_NEWADDR && message.type !== RTM_DELADDR) return false;
    if (answer && !current) return false;
    if (current && (message.flags & NLM_F_DUMP_INTR) !== 0) this.#interrupted = true;
    const address = readAddress(message.data);
    if (address === null) {
      this.#counters.malformed++;
      return false;
    }
    if (current) {
      this.#listed?.add(address);
      return false;
    }
    this.#counters.notifications++;
    if (message.type === RTM_NEWADDR) {
      this.#listed?.add(address);
      return this.#known.add(address);
    }
    this.#listed?.remove(address);
    return this.#known.remove(address);
  }

  #endDump(errno: number): boolean {
    const listed = this.#listed;
    this.#listed = null;
    if (listed === null) return false;
    if (errno !== 0 && errno !== EBUSY && errno !== EAGAIN) {
      this.#fail(new ConntrailError("KERNEL", `the kernel does not list its addresses: ${errnoName(errno)}`));
      return false;
    }
    if (errno !== 0 || this.#interrupted) {
      this.#dumpSoon();
      return false;
    }
    const changed = !listed.equals(this.#known);
    this.#known = listed;
    this.#opened?.(null);
    return changed;
  }

  #fail(error: ConntrailError): void {
    if (this.#opened !== null) this.#opened(error);
    else this.#options.onError?.(error);
  }
}

/** One address on one interface. */
interface InterfaceAddress {
  family: number;
  index: number;
  words: Uint32Array;
}

function readAddress(data: Buffer): InterfaceAddress | null {
  try {
    const { data: header, attrs } = rt.parseAddressMessage(data);
    // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL is ours.
    const bytes = attrs.local ?? attrs.address;
    const family = header.family;
    const length = family === AF_INET ? 4 : family === AF_INET6 ? 16 : -1;
    if (family === undefined || bytes === undefined || bytes.length !== length) return null;
    const words = Uint32Array.from({ length: length / 4 }, (_, i) => readNet32(bytes, i * 4));
    return { family, index: header.index ?? 0, words };
  } catch {
    return null;
  }
}

/** Addresses with the interfaces that have them: an address may be on two, and is gone only when both have lost it. */
class InterfaceAddresses {
  /** By the words of the address: one for IPv4, four for IPv6. */
  readonly #entries = new Map<string, { address: InterfaceAddress; interfaces: Set<number> }>();
  readonly #ipv4 = new Set<number>();
  /** IPv6 addresses by their last word, in which they differ most. */
  readonly #ipv6 = new Map<number, Uint32Array[]>();

  /** True when the address was not there on any interface. */
  add(address: InterfaceAddress): boolean {
    const key = addressKey(address);
    const entry = this.#entries.get(key);
    if (entry !== undefined) {
      entry.interfaces.add(address.index);
      return false;
    }
    this.#entries.set(key, { address, interfaces: new Set([address.index]) });
    const { words } = address;
    if (address.family === AF_INET) this.#ipv4.add(words[0]!);
    else this.#ipv6.set(words[3]!, [...(this.#ipv6.get(words[3]!) ?? []), words]);
    return true;
  }

  /** True when the address is on no interface any more. */
  remove(address: InterfaceAddress): boolean {
    const key = addressKey(address);
    const entry = this.#entries.get(key);
    if (entry === undefined || !entry.interfaces.delete(address.index) || entry.interfaces.size > 0) return false;
    this.#entries.delete(key);
    const { words } = entry.address;
    if (address.family === AF_INET) {
      this.#ipv4.delete(words[0]!);
    } else {
      const others = (this.#ipv6.get(words[3]!) ?? []).filter((other) => other !== words);
      if (others.length === 0) this.#ipv6.delete(words[3]!);
      else this.#ipv6.set(words[3]!, others);
    }
    return true;
  }

  has(words: Uint32Array, at: number, family: number): boolean {
    if (family === AF_INET) return this.#ipv4.has(words[at]!);
    const candidates = this.#ipv6.get(words[at + 3]!);
    if (candidates === undefined || family !== AF_INET6) return false;
    return candidates.some((own) => own[0] === words[at] && own[1] === words[at + 1] && own[2] === words[at + 2]);
  }

  equals(other: InterfaceAddresses): boolean {
    if (this.#entries.size !== other.#entries.size) return false;
    for (const key of this.#entries.keys()) if (!other.#entries.has(key)) return false;
    return true;
  }

  list(): string[] {
    return [...this.#entries.values()].map(({ address }) => formatAddress(address.words, 0, address.family)).sort();
  }
}

function addressKey(address: InterfaceAddress): string {
  return address.words.join(":");
}
