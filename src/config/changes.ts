import type { Config } from "./config.js";

/**
 * The keys of the file that can be told apart while a daemon runs, with their values. A reload compares them: what no
 * running part applies needs a restart. `peers` stands for each peer by its name.
 */
const KEYS: Readonly<Record<string, (config: Config) => unknown>> = {
  cluster: ({ cluster }) => cluster,
  node: ({ node }) => node,
  listen: ({ listen }) => listen,
  mode: ({ mode }) => mode,
  "broker.mode": ({ broker }) => broker.mode,
  "broker.port": ({ broker }) => broker.port,
  "broker.store": ({ broker }) => broker.store,
  "broker.max_age": ({ broker }) => broker.maxAgeSeconds,
  "broker.max_bytes": ({ broker }) => broker.bytesMax,
  "broker.encryption_key": ({ broker }) => broker.encryptionKey,
  "broker.servers": ({ broker }) => broker.servers,
  "broker.login": ({ broker }) => broker.login,
  control: ({ control }) => control,
  lock: ({ lock }) => lock,
  nice: ({ nice }) => nice,
  scheduler: ({ scheduler }) => scheduler,
  "cache.limit": ({ cacheLimit }) => cacheLimit,
  "publish.interval": ({ publishIntervalMs }) => publishIntervalMs,
  peer_timeout: ({ peerTimeoutMs }) => peerTimeoutMs,
  "commit.timeout": ({ commitTimeoutSeconds }) => commitTimeoutSeconds,
  "commit.window_tracking": ({ commitWindowTracking }) => commitWindowTracking,
  "commit.ahead": ({ commitAheadSeconds }) => commitAheadSeconds,
  "purge.after": ({ purgeAfterSeconds }) => purgeAfterSeconds,
  expectations: ({ expectations }) => expectations,
  "filter.protocols": ({ filter }) => filter.protocols,
  "filter.addresses": ({ filter }) => filter.addresses,
  "filter.states": ({ filter }) => filter.states,
  "filter.where": ({ filter }) => filter.where,
  "filter.local": ({ filter }) => filter.local,
  "netlink.buffer": ({ netlink }) => netlink.bufferBytes,
  "netlink.buffer_max": ({ netlink }) => netlink.bufferBytesMax,
  "netlink.reliable": ({ netlink }) => netlink.reliable,
  "netlink.overrun_resync": ({ netlink }) => netlink.overrunResyncMs,
  "netlink.poll": ({ netlink }) => netlink.pollMs,
  "netlink.iteration_limit": ({ netlink }) => netlink.iterationLimit,
  discover: ({ discover }) => discover,
  archive: ({ archive }) => archive,
  tls: ({ tls, isOpen }) => [tls, isOpen],
  keepalived: ({ keepalived }) => keepalived,
  stats: ({ stats }) => stats,
  "metrics.listen": ({ metrics }) => metrics,
  "log.level": ({ logLevel }) => logLevel,
  "log.format": ({ logFormat }) => logFormat,
  "log.file": ({ logFile }) => logFile,
  "log.syslog": ({ logSyslog }) => logSyslog,
};

/** The values of all keys, as texts that are equal when the values are. */
export function keyValues(config: Config): Map<string, string> {
  const values = new Map(Object.entries(KEYS).map(([key, of]) => [key, JSON.stringify(of(config) ?? null)]));
  for (const { node, address } of config.peers) values.set(`peers.${node}`, address);
  return values;
}

/** The keys whose values differ, in the order of the table. */
export function changedKeys(before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>): string[] {
  const keys = new Set([...before.keys(), ...after.keys()]);
  return [...keys].filter((key) => before.get(key) !== after.get(key));
}
