import assert from "node:assert/strict";
import { isIPv6 } from "node:net";
import { dirname, resolve } from "node:path";
import { ConntrailError } from "../errors.js";
import { type Endpoint, isLinkLocal } from "./address.js";
import { readConfigText } from "./config-text.js";
import { type ConfigProblem, type KeyPath, problemsOf, refusal, SourceFile } from "./problem.js";
import { type FileContent, fileSchema, type Login, NO_KEYS, withNames } from "./schema.js";

/** A node's configuration: every key of the file, checked, with defaults and resolved units. */
export interface Config {
  /** The file that it was read from. */
  readonly path: string;
  /** Name of the cluster. */
  readonly cluster: string;
  /** Name of this node, part of its subjects and streams. */
  readonly node: string;
  /** This node's address on the dedicated link. */
  readonly listen: string;
  /** The other nodes. Names and addresses are unique, and none is that of this node. */
  readonly peers: readonly PeerConfig[];
  /**
   * `cache`: peers' flows wait for a commit. `inject`: they go straight into the kernel. `observer`: no kernel side at
   * all, only the streams of all peers are followed and kept. `stats`: a kernel side alone, without peers and broker.
   */
  readonly mode: "cache" | "inject" | "observer" | "stats";
  readonly broker: BrokerConfig;
  /** Absolute path of the control socket. */
  readonly control: string;
  /** A file that exists while the daemon runs; the daemon refuses to start if it exists. Null: none. */
  readonly lock: string | null;
  /** Scheduling priority of daemon and broker, setpriority(2); null: unchanged. */
  readonly nice: number | null;
  /** The real-time policy of daemon and broker, sched(7); null: unchanged. */
  readonly scheduler: { readonly policy: "fifo" | "rr"; readonly priority: number } | null;
  /** Most flows of each cache; null: derived from nf_conntrack_max. */
  readonly cacheLimit: number | null;
  /** Least time between messages under load. */
  readonly publishIntervalMs: number;
  /** How long a peer's daemon may be silent before it is not in sync any more. */
  readonly peerTimeoutMs: number;
  /** The kernel timeout of committed entries; null: their remaining time. */
  readonly commitTimeoutSeconds: number | null;
  /** Committed TCP flows keep window tracking; else the kernel accepts any window (IP_CT_TCP_FLAG_BE_LIBERAL). */
  readonly commitWindowTracking: boolean;
  /** Mode `cache`: a peer's flow is written into the kernel when it has lived for so long; null: at a takeover. */
  readonly commitAheadSeconds: number | null;
  /** How long after the request `purge` waits. */
  readonly purgeAfterSeconds: number;
  /** Whose expectations are replicated: those of all helpers, of none, or of the listed ones. */
  readonly expectations: boolean | readonly string[];
  readonly filter: FilterConfig;
  readonly netlink: NetlinkConfig;
  readonly discover: DiscoverConfig | null;
  /** Where this node keeps ended connections beyond the streams' retention; null: nowhere. */
  readonly archive: ArchiveConfig | null;
  /** Null: no keys. */
  readonly tls: TlsConfig | null;
  /** `tls: false` is in the file: whoever reaches the broker's port may do everything, and somebody has written that. */
  readonly isOpen: boolean;
  readonly keepalived: KeepalivedConfig;
  /** The log of ended flows, as conntrackd's Stats block has it; null: none. */
  readonly stats: StatsConfig | null;
  /** Where metrics are served; null: nowhere. */
  readonly metrics: Endpoint | null;
  readonly logLevel: "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent";
  /** The form of the log on standard output; `auto`: text in the journal and on a terminal, otherwise JSON. */
  readonly logFormat: "auto" | "text" | "json";
  /** Log file in place of standard output; null: none. */
  readonly logFile: string | null;
  /** Facility of syslog that gets the log too; null: none. */
  readonly logSyslog: string | null;
}

/** What is shared with keepalived. */
export interface KeepalivedConfig {
  /** Absolute path of the FIFO into which keepalived writes its changes of state; null: none. */
  readonly fifo: string | null;
  /** The sync groups and instances whose lines count; null: all sync groups. */
  readonly groups: readonly string[] | null;
  /** Absolute path of the file by which this node lowers its priority while it is not in sync; null: none. */
  readonly trackFile: string | null;
}

/** How peers announce themselves on the dedicated link; they are followed in addition to the listed ones. */
export interface DiscoverConfig {
  /** Multicast group, IPv4 or IPv6. */
  readonly group: string;
  readonly port: number;
  /** Null: the interface that has the address `listen`. */
  readonly interface: string | null;
}

/** The archive of connections that have ended. */
export interface ArchiveConfig {
  /** Absolute path of its directory. */
  readonly directory: string;
  /** Older days are removed as a whole. */
  readonly maxAgeSeconds: number;
}

/** The log of ended flows. */
export interface StatsConfig {
  /** Absolute path of a file; null: none. */
  readonly file: string | null;
  /** Facility of syslog; null: none. */
  readonly syslog: string | null;
}

/** Another node of the cluster. */
export interface PeerConfig {
  readonly node: string;
  readonly address: string;
  /** True for a peer that announced itself (`discover`); the file does not list it. */
  readonly discovered?: true;
}

/** The broker beside this node, or the shared one. */
export interface BrokerConfig {
  readonly mode: "embedded" | "external" | "shared";
  /** The port of this node's broker and of the peers' brokers. */
  readonly port: number;
  /** Directory of the embedded broker's store. */
  readonly store: string;
  /** How long a stream keeps messages. */
  readonly maxAgeSeconds: number;
  /** How much a stream keeps. */
  readonly bytesMax: number;
  /** The file with the key by which the embedded broker encrypts its store; null: it is not encrypted. */
  readonly encryptionKey: string | null;
  /** Empty when embedded, else at least one. */
  readonly servers: readonly string[];
  /** How this node logs in, with the absolute path of the secret; null: by its certificate, or not at all. */
  readonly login: Login | null;
}

/** One list of a filter: `accept` passes only what it lists, `ignore` everything else. */
export interface FilterList<T> {
  readonly logic: "accept" | "ignore";
  readonly values: readonly T[];
}

/** Which flows are replicated. A list that is null does not filter; an empty one in the file becomes null. */
export interface FilterConfig {
  /** Layer 4 protocol numbers. */
  readonly protocols: FilterList<number> | null;
  /** Addresses and networks in CIDR form, matched against original source and reply source. */
  readonly addresses: FilterList<string> | null;
  /** TCP state numbers, enum tcp_conntrack. */
  readonly states: FilterList<number> | null;
  readonly where: "userspace" | "kernelspace";
  /** Ignores this machine's own addresses, also when they change. */
  readonly local: boolean;
}

/** The event socket. */
export interface NetlinkConfig {
  readonly bufferBytes: number;
  /** How far the buffer may grow after overruns. */
  readonly bufferBytesMax: number;
  /** NETLINK_BROADCAST_ERROR: the kernel drops packets instead of events. */
  readonly reliable: boolean;
  /** How long after an overrun the kernel table is read again; null: never. */
  readonly overrunResyncMs: number | null;
  /** How often the kernel table is read in place of events; null: events are used. */
  readonly pollMs: number | null;
  /** Messages read in one turn. */
  readonly iterationLimit: number;
}

/** Files for mutual TLS, as absolute paths. */
export interface TlsConfig {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** The list of the nodes that may connect. Null: whoever has a certificate of the authority may do everything. */
  readonly nodes: string | null;
}

/** The keys that have no meaning in mode `stats`. */
const NEEDS_PEERS = [
  ...["peers", "broker", "publish", "peer_timeout", "commit", "purge"],
  ...["expectations", "discover", "archive", "tls"],
];
const ALONE = "a node in mode stats has no peers and no broker (mode cache works without peers, too)";

/** Either a usable configuration, or all its problems in the order of the file. */
export type ConfigCheck =
  | { readonly ok: true; readonly config: Config }
  | { readonly ok: false; readonly problems: readonly ConfigProblem[] };

/**
 * Reads and checks a file. Throws ConntrailError CONFIG in one line: file, line, key, what was found, what is allowed.
 */
export function loadConfig(path: string): Config {
  return parseConfig(readConfigText(path), path);
}

/**
 * As `loadConfig`, for a text that was already read; `path` is for messages and for relative file names in the text.
 */
export function parseConfig(text: string, path: string): Config {
  const check = checkConfig(text, path);
  if (check.ok) return check.config;
  const [first] = check.problems;
  assert.ok(first !== undefined, "a file that is refused has a problem");
  const key = first.key === "" ? "" : `${first.key}: `;
  throw new ConntrailError("CONFIG", `${path}:${first.line}: ${key}${first.text}`);
}

/** Checks a text, and returns all problems instead of throwing the first. */
export function checkConfig(text: string, path: string): ConfigCheck {
  const file = new SourceFile(text);
  if (file.problems.length > 0) return { ok: false, problems: file.problems };
  const parsed = fileSchema.safeParse(withNames(file.value));
  if (!parsed.success) return { ok: false, problems: problemsOf(parsed.error, file) };
  const problems = crossProblems(parsed.data, file);
  return problems.length > 0 ? { ok: false, problems } : { ok: true, config: toConfig(parsed.data, path) };
}

/**
 * Problems that involve several keys: equal names or addresses, both lists of a pair, servers that the mode does not
 * use.
 */
function crossProblems(content: FileContent, file: SourceFile): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const report = (path: KeyPath, text: string): void => {
    problems.push({ line: file.lineOf(path), key: path.join("."), text });
  };
  const nodes = new Map<string, string>([[content.listen, "this node (listen)"]]);
  for (const peer of content.peers) {
    const path = ["peers", peer.node];
    if (peer.node === content.node) report(path, refusal(peer.node, "any name but this node's own"));
    const other = nodes.get(peer.address);
    if (other !== undefined) {
      report(path, refusal(peer.address, `an address of its own: this one is that of ${other} already`));
    }
    nodes.set(peer.address, peer.node);
  }
  for (const [one, other] of [
    ["protocols", "protocols_ignore"],
    ["accept", "ignore"],
    ["states", "states_ignore"],
  ] as const) {
    if (content.filter[one] === undefined || content.filter[other] === undefined) continue;
    report(["filter", other], `found beside filter.${one}, allowed is one of the two`);
  }
  const { mode, servers = [], login } = content.broker;
  if (login !== undefined && mode === "embedded" && login.kind !== "token") {
    report(["broker", "login"], "found beside mode embedded, allowed is { token: FILE }, the same on all nodes");
  }
  if (login !== undefined && content.tls?.nodes !== undefined) {
    report(["broker", "login"], "found beside tls.nodes, allowed is one of the two: a certificate is a login");
  }
  if (mode === "embedded" && servers.length > 0) {
    report(["broker", "servers"], "found beside mode embedded, allowed is mode external or shared");
  }
  if (mode !== "embedded" && servers.length === 0) {
    report(["broker", "servers"], `is missing, allowed is a list of broker addresses: mode ${mode} requires it`);
  }
  if (content.commit.ahead !== null && content.mode !== "cache") {
    report(["commit", "ahead"], `found beside mode ${content.mode}, allowed is mode cache: inject writes all at once`);
  }
  if (content.discover !== undefined && mode === "shared") {
    report(["discover"], "found beside broker.mode shared, allowed is to list the peers");
  }
  if (content.discover !== undefined && isLinkLocal(content.listen)) {
    report(
      ["discover"],
      "found beside a link-local listen, allowed is another address: nobody else could follow this node",
    );
  }
  if (content.discover !== undefined && isIPv6(content.discover.group) !== isIPv6(content.listen)) {
    report(["discover", "group"], refusal(content.discover.group, "a group of the same address family as listen"));
  }
  if (content.keepalived !== undefined && content.mode === "observer") {
    report(["keepalived"], "found beside mode observer, allowed is mode cache or inject: an observer has no role");
  }
  const { fifo, groups = [] } = content.keepalived ?? {};
  if (groups.length > 0 && fifo === undefined) {
    report(["keepalived", "groups"], "found without keepalived.fifo, allowed is both");
  }
  if (content.mode === "stats") {
    for (const key of NEEDS_PEERS) {
      if (file.has(key)) report([key], `found beside mode stats, allowed is another mode: ${ALONE}`);
    }
  }
  if (content.mode === "observer" && content.stats !== undefined) {
    report(["stats"], "found beside mode observer, allowed is another mode: an observer has no kernel side");
  }
  if (content.netlink.buffer_max < content.netlink.buffer) {
    report(["netlink", "buffer_max"], `found less than netlink.buffer, allowed is at least ${content.netlink.buffer}B`);
  }
  return problems.sort((a, b) => a.line - b.line);
}

function toConfig(content: FileContent, path: string): Config {
  const { archive, broker, discover, filter, keepalived, netlink, tls } = content;
  const directory = dirname(resolve(path));
  return {
    path,
    cluster: content.cluster,
    node: content.node,
    listen: content.listen,
    peers: content.peers,
    mode: content.mode,
    broker: {
      mode: broker.mode,
      port: broker.port,
      store: broker.store,
      maxAgeSeconds: broker.max_age,
      bytesMax: broker.max_bytes,
      encryptionKey: broker.encryption_key ?? null,
      servers: broker.servers ?? [],
      login: broker.login === undefined ? null : { ...broker.login, file: resolve(directory, broker.login.file) },
    },
    control: content.control,
    lock: content.lock ?? null,
    nice: content.nice ?? null,
    scheduler: content.scheduler ?? null,
    cacheLimit: content.cache.limit ?? null,
    publishIntervalMs: content.publish.interval,
    peerTimeoutMs: content.peer_timeout,
    commitWindowTracking: content.commit.window_tracking,
    commitTimeoutSeconds: content.commit.timeout ?? null,
    commitAheadSeconds: content.commit.ahead,
    purgeAfterSeconds: content.purge.after,
    expectations: content.expectations,
    filter: {
      protocols: filterList(filter.protocols, filter.protocols_ignore),
      addresses: filterList(filter.accept, filter.ignore),
      states: filterList(filter.states, filter.states_ignore),
      where: filter.where,
      local: filter.local,
    },
    netlink: {
      bufferBytes: netlink.buffer,
      bufferBytesMax: netlink.buffer_max,
      reliable: netlink.reliable,
      overrunResyncMs: netlink.overrun_resync,
      pollMs: netlink.poll ?? null,
      iterationLimit: netlink.iteration_limit,
    },
    discover: discover === undefined ? null : { ...discover, interface: discover.interface ?? null },
    archive: archive === undefined ? null : { directory: archive.dir, maxAgeSeconds: archive.max_age },
    tls: tls === undefined || tls.ca === NO_KEYS ? null : tlsFiles(tls, directory),
    isOpen: tls?.ca === NO_KEYS,
    keepalived: {
      fifo: keepalived?.fifo ?? null,
      groups: keepalived?.groups?.length ? [...new Set(keepalived.groups)] : null,
      trackFile: keepalived?.track_file ?? null,
    },
    stats: content.stats === undefined ? null : { file: content.stats.file ?? null, syslog: content.stats.syslog },
    metrics: content.metrics?.listen ?? null,
    logLevel: content.log.level,
    logFormat: content.log.format,
    logFile: content.log.file ?? null,
    logSyslog: content.log.syslog,
  };
}

function tlsFiles(tls: Exclude<FileContent["tls"], undefined>, directory: string): TlsConfig {
  const { ca, cert, key, nodes } = tls;
  return {
    ca: resolve(directory, ca),
    cert: resolve(directory, cert),
    key: resolve(directory, key),
    nodes: nodes === undefined ? null : resolve(directory, nodes),
  };
}

function filterList<T>(accept: readonly T[] | undefined, ignore: readonly T[] | undefined): FilterList<T> | null {
  if (accept !== undefined && accept.length > 0) return { logic: "accept", values: [...new Set(accept)] };
  if (ignore !== undefined && ignore.length > 0) return { logic: "ignore", values: [...new Set(ignore)] };
  return null;
}
