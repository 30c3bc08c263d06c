import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { once } from "node:events";
import { isIPv6 } from "node:net";
import { networkInterfaces } from "node:os";
import type { Logger } from "pino";
import { canonicalAddress } from "../config/address.js";
import type { Config, DiscoverConfig, PeerConfig } from "../config/config.js";
import { ConntrailError, errorText } from "../errors.js";
import { Backoff } from "../os/backoff.js";
import {
  type Announcement,
  decodeSigned,
  encodeAnnouncement,
  judgeAnnouncement,
  PEERS_MAX,
  type Signed,
} from "./announcement.js";
import { saveDiscovered } from "./discovered-peers.js";
import type { AnnouncementKeys } from "./signed-announcement.js";

/** What discovery counts, all at zero; the group `discovery` of `stats`. */
function newCounters() {
  return {
    announcementsSent: 0,
    sendFailed: 0,
    /** Datagrams from others. */
    received: 0,
    /** Datagrams that are no announcement of a known version. */
    malformed: 0,
    /** Announcements of other clusters. */
    foreign: 0,
    /** Announcements that contradict known peers, are not signed, or whose broker does not answer; each reason is logged once. */
    refused: 0,
    peersFound: 0,
    /** Datagrams that were not looked at, because too many came. */
    ignored: 0,
    /** How often the sockets were recreated because nothing was heard, or they could not be made. */
    reopened: 0,
  };
}

/** The counters of discovery. */
export type DiscoveryCounters = ReturnType<typeof newCounters>;

const ANNOUNCE_INTERVAL_MS = 1000;
/** This node hears itself every second: after such a silence the interface is gone, or was replaced. */
const SILENCE_MS_MAX = 5000;
/** Brokers that are tried at a time. */
const TRIED_MAX = 16;
/** A node that could not be followed is tried again after such a wait, which grows. */
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 60_000;
/** Nodes whose wait is remembered. */
const FAILED_MAX = 256;
/** Datagrams that are looked at in a second. Sixteen nodes send as many. */
const DATAGRAMS_MAX = 200;
/** Reasons that are remembered, so that each is logged only once. */
const REASONS_MAX = 64;

interface Sockets {
  readonly receiver: Socket;
  readonly sender: Socket;
  /** The group as the address to send to: with the interface for IPv6. */
  readonly group: string;
}

/**
 * Finds peers by multicast on the dedicated link: announces this node every second, and reports each node of the same
 * cluster once. No datagram and no state of the interface ends it.
 */
export class Discovery {
  readonly counters: DiscoveryCounters = newCounters();
  readonly #config: Config;
  readonly #discover: DiscoverConfig;
  readonly #own: Announcement;
  readonly #peers: PeerConfig[];
  readonly #reach: (peer: PeerConfig) => Promise<string | null>;
  readonly #onPeer: (peer: PeerConfig) => Promise<void>;
  readonly #keys: AnnouncementKeys | null;
  readonly #log: Logger;
  readonly #reasons = new Set<string>();
  #sockets: Sockets | null = null;
  #timer: NodeJS.Timeout | null = null;
  #opening: Promise<void> | null = null;
  readonly #tried = new Map<string, Promise<void>>();
  /** By address: from when on a node that could not be followed is tried again. */
  readonly #failed = new Map<string, { backoff: Backoff; againMs: number }>();
  /** Datagrams that may still be looked at before the next tick. */
  #datagramsLeft = DATAGRAMS_MAX;
  #saving: Promise<void> = Promise.resolve();
  #heardMs = Number.NEGATIVE_INFINITY;
  #trouble = "";
  #closed = false;

  constructor(options: {
    /** Including the peers that are already known. */
    config: Config;
    discover: DiscoverConfig;
    /** Null when the stream of a node can be read, else the reason why not. */
    reach: (peer: PeerConfig) => Promise<string | null>;
    /** Follows a new peer from now on. */
    onPeer: (peer: PeerConfig) => Promise<void>;
    /** Null: there are no keys, and every announcement is believed. */
    keys: AnnouncementKeys | null;
    log: Logger;
  }) {
    const { config } = options;
    this.#config = config;
    this.#discover = options.discover;
    this.#own = { cluster: config.cluster, node: config.node, address: config.listen, port: config.broker.port };
    this.#peers = [...config.peers];
    this.#reach = options.reach;
    this.#onPeer = options.onPeer;
    this.#keys = options.keys;
    this.#log = options.log;
  }

  /** Begins, and waits for an interface that is not there yet. */
  start(): void {
    this.#timer = setInterval(() => this.#tick(), ANNOUNCE_INTERVAL_MS);
    this.#tick();
  }

  /** Resolves when peers that were just found are handled. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer !== null) clearInterval(this.#timer);
    await this.#opening;
    this.#drop();
    await Promise.all(this.#tried.values());
  }

  #tick(): void {
    this.#datagramsLeft = DATAGRAMS_MAX;
    if (this.#opening !== null) return;
    if (performance.now() - this.#heardMs > SILENCE_MS_MAX) {
      this.#opening = this.#reopen().finally(() => {
        this.#opening = null;
      });
      return;
    }
    this.#announce();
  }

  async #reopen(): Promise<void> {
    if (Number.isFinite(this.#heardMs)) this.counters.reopened++;
    this.#heardMs = performance.now();
    this.#drop();
    try {
      this.#sockets = await this.#open();
      if (!this.#closed) this.#announce();
    } catch (error) {
      this.#complain(errorText(error));
    }
  }

  /** The receiver gets datagrams to the group only; the sender sends from `listen`, which receivers require. */
  async #open(): Promise<Sockets> {
    const { group, port } = this.#discover;
    const { listen } = this.#config;
    const ipv6 = isIPv6(group);
    const type = ipv6 ? "udp6" : "udp4";
    const name = this.#discover.interface ?? interfaceOf(listen);
    const scope = ipv6 ? `%${name}` : "";
    const receiver = createSocket({ type, reuseAddr: true });
    const sender = createSocket({ type });
    const sockets = { receiver, sender, group: `${group}${scope}` };
    try {
      receiver.bind({ address: sockets.group, port });
      await once(receiver, "listening");
      receiver.addMembership(group, ipv6 ? `::${scope}` : listen);
      sender.bind({ address: listen, port: 0, exclusive: true });
      await once(sender, "listening");
      sender.setMulticastInterface(ipv6 ? `::${scope}` : listen);
      sender.setMulticastTTL(1);
      sender.setMulticastLoopback(true);
    } catch (error) {
      receiver.close();
      sender.close();
      const where = `${sockets.group} port ${port}, listen ${listen} on ${name}`;
      throw new ConntrailError("KERNEL", `discover: ${where}: ${errorText(error)}`, { cause: error });
    }
    for (const socket of [receiver, sender]) socket.on("error", (error) => this.#complain(errorText(error)));
    receiver.on("message", (bytes, from) => this.#receive(bytes, from));
    const level = this.counters.reopened === 0 ? "info" : "debug";
    this.#log[level]({ group, port, interface: name }, "listening for peers");
    return sockets;
  }

  #drop(): void {
    this.#sockets?.receiver.close();
    this.#sockets?.sender.close();
    this.#sockets = null;
  }

  /** An observer only listens: it has no stream that others could follow. */
  #announce(): void {
    if (this.#sockets === null || this.#config.mode === "observer") return;
    const { sender, group } = this.#sockets;
    const signed = this.#keys?.sign(this.#own, Date.now()) ?? null;
    sender.send(encodeAnnouncement(this.#own, signed), this.#discover.port, group, (error) => {
      if (error === null) {
        this.counters.announcementsSent++;
        return;
      }
      this.counters.sendFailed++;
      this.#complain(errorText(error));
    });
  }

  #receive(bytes: Buffer, from: RemoteInfo): void {
    if (this.#datagramsLeft === 0) {
      this.counters.ignored++;
      // The interface works, and its own announcements may be among those that were not looked at.
      this.#heardMs = performance.now();
      return;
    }
    this.#datagramsLeft--;
    const decoded = decodeSigned(bytes);
    if (decoded === null) {
      this.counters.received++;
      this.counters.malformed++;
      return;
    }
    const { announcement: heard, signed } = decoded;
    const verdict = judgeAnnouncement(heard, from.address, this.#own, this.#peers);
    if (verdict.type !== "own") this.counters.received++;
    // What is known already, or is of another cluster, changes nothing.
    const doubt = verdict.type === "found" || verdict.type === "refused" ? this.#doubt(heard, signed) : null;
    if (doubt !== null) {
      this.#refuse(`${heard.node} announces ${heard.address}, but ${doubt}`);
      return;
    }
    switch (verdict.type) {
      case "foreign":
        this.counters.foreign++;
        return;
      case "refused":
        this.#refuse(verdict.reason);
        return;
      case "found":
        this.#try({ node: heard.node, address: heard.address, discovered: true });
        break;
      case "own":
      case "known":
        break;
    }
    this.#heardMs = performance.now();
    if (this.#trouble === "") return;
    this.#trouble = "";
    this.#log.info("peers can be discovered again");
  }

  #doubt(heard: Announcement, signed: Signed | null): string | null {
    return this.#keys?.doubt(heard, signed, Date.now()) ?? null;
  }

  #try(peer: PeerConfig): void {
    if (this.#tried.size >= TRIED_MAX || this.#tried.has(peer.address)) return;
    if (performance.now() < (this.#failed.get(peer.address)?.againMs ?? 0)) return;
    const tried = this.#take(peer).catch((error: unknown) => {
      this.#log.error(
        { err: error, peer: peer.node },
        "the peer that was found cannot be followed; restart to try again",
      );
    });
    this.#tried.set(peer.address, tried);
    void tried.then(() => this.#tried.delete(peer.address));
  }

  /**
   * Ignores a node whose stream cannot be read, or whose broker cannot prove its name with `tls`: anyone may announce
   * anything.
   */
  async #take(peer: PeerConfig): Promise<void> {
    const { node, address } = peer;
    const trouble = await this.#reach(peer);
    if (this.#closed) return;
    if (trouble !== null) {
      this.#postpone(address);
      return this.#refuse(`${node} at ${address} announces itself, but ${trouble}`);
    }
    this.#failed.delete(address);
    // Others were tried at the same time, and may have been added meanwhile.
    const taken = this.#peers.some((other) => other.node === node || other.address === address);
    if (taken || this.#peers.length >= PEERS_MAX) return;
    this.#peers.push(peer);
    this.counters.peersFound++;
    this.#log.info({ peer: node, address }, "peer found");
    this.#saving = this.#saving.then(() => this.#save());
    await this.#saving;
    if (!this.#closed) await this.#onPeer(peer);
  }

  #postpone(address: string): void {
    const backoff = this.#failed.get(address)?.backoff ?? new Backoff({ minMs: RETRY_MS_MIN, maxMs: RETRY_MS_MAX });
    this.#failed.delete(address);
    const [oldest] = this.#failed.keys();
    if (this.#failed.size >= FAILED_MAX && oldest !== undefined) this.#failed.delete(oldest);
    this.#failed.set(address, { backoff, againMs: performance.now() + backoff.nextMs() });
  }

  async #save(): Promise<void> {
    await saveDiscovered(this.#config, this.#peers).catch((error: unknown) => {
      const trouble = errorText(error);
      this.#log.warn({ error: trouble }, "the discovered peers could not be saved: a restart has to find them again");
    });
  }

  #refuse(reason: string): void {
    this.counters.refused++;
    if (this.#reasons.size >= REASONS_MAX || this.#reasons.has(reason)) return;
    this.#reasons.add(reason);
    this.#log.warn({ reason }, "an announcement was refused");
  }

  /** Logs each trouble once until something is heard again. */
  #complain(trouble: string): void {
    if (this.#closed || trouble === this.#trouble) return;
    this.#trouble = trouble;
    this.#log.warn({ trouble }, "peers cannot be discovered now; it is tried again");
  }
}

/** The interface that has an address. @throws ConntrailError KERNEL when none has */
function interfaceOf(address: string): string {
  for (const [name, addresses = []] of Object.entries(networkInterfaces())) {
    if (addresses.some((one) => canonicalAddress(one.address) === address)) return name;
  }
  throw new ConntrailError(
    "KERNEL",
    `discover: no interface has the address ${address}: bring it up, or correct listen`,
  );
}
