/**
 * What each key of the configuration means, for docs/configuration.md and conntrail.yaml(5). What a key allows is not
 * said here: the schema says it, and a test holds that every key of the schema has its line with its true default.
 */

/** A key of the file. */
export interface ReferenceEntry {
  /** As in the file, with dots: `broker.max_age`. */
  readonly key: string;
  /** The default as the file would say it, in YAML; null: none. */
  readonly default: string | null;
  /** What holds where there is no default, in words. */
  readonly without?: string;
  /** What it means, in Markdown without lists. */
  readonly text: string;
}

/** A group of keys with its heading. */
export interface ReferenceGroup {
  readonly title: string;
  readonly entries: readonly ReferenceEntry[];
}

function entry(key: string, byDefault: string | null, text: string, without?: string): ReferenceEntry {
  return { key, default: byDefault, text, ...(without === undefined ? {} : { without }) };
}

/** Every key of the file, in the order in which a reader needs them. */
export const REFERENCE: readonly ReferenceGroup[] = [
  {
    title: "The node and its peers",
    entries: [
      entry("cluster", null, "Name of the cluster, the same on all nodes.", "required"),
      entry("node", null, "Name of this node.", "required"),
      entry(
        "listen",
        null,
        "This node's address on the dedicated link; a link-local one with its interface: `fe80::1%eth2`.",
        "required",
      ),
      entry("peers", "{}", "The other nodes and their addresses: `{ fw2: 10.77.0.2 }`."),
      entry(
        "mode",
        "cache",
        "`cache`: peers' flows wait in the external cache for a commit. `inject`: they go into the kernel at once. " +
          "`observer`: no kernel side, only the streams are kept. `stats`: no peers and no broker, only a log of ended " +
          "flows.",
      ),
      entry(
        "peer_timeout",
        "3s",
        "How long a peer's daemon may be silent before `status` says that it is not in sync.",
      ),
      entry("discover.group", null, "Peers announce themselves to this group, beside those in `peers`.", "none"),
      entry("discover.port", "3780", "The UDP port of the announcements."),
      entry("discover.interface", null, "Only an IPv6 group may need it.", "the interface that has `listen`"),
      entry("control", "/run/conntrail/control.sock", "The control socket."),
      entry(
        "lock",
        null,
        "A file that exists while the daemon runs, with its process id. The daemon does not start if there is one.",
        "none",
      ),
      entry("nice", null, "Priority of daemon and broker.", "as started"),
      entry(
        "scheduler.policy",
        null,
        "A real-time policy for daemon and broker. In a systemd unit, set `CPUSchedulingPolicy=` and " +
          "`CPUSchedulingPriority=` instead: conntrail's units forbid the daemon to do it.",
        "as started",
      ),
      entry("scheduler.priority", null, "From 1 to 99, the highest.", "required in `scheduler`"),
    ],
  },
  {
    title: "Broker and streams",
    entries: [
      entry(
        "broker.mode",
        "embedded",
        "`embedded`: the daemon runs its own nats-server. `external`: systemd runs one beside it. `shared`: all nodes " +
          "use one NATS cluster.",
      ),
      entry("broker.servers", null, "Addresses of the nats-servers, with `external` and `shared`.", "none"),
      entry(
        "broker.login",
        null,
        "How the node logs in where certificates do not say who it is. Only their owner may read the files.",
        "by certificate, or not at all",
      ),
      entry("broker.port", "4222", "Port of the nats-server, the same on all nodes."),
      entry("broker.store", "/var/lib/conntrail", "Where the embedded broker stores its streams."),
      entry("broker.max_age", "7d", "How long a stream keeps messages, and so the connection history."),
      entry("broker.max_bytes", "2GiB", "How much each stream keeps. The partition must have room for every stream."),
      entry(
        "broker.encryption_key",
        null,
        "A file with a key (`openssl rand -hex 32`) by which the embedded broker encrypts its store, also one that is " +
          "there already. Without the key the store cannot be read any more.",
        "not encrypted",
      ),
    ],
  },
  {
    title: "Keys of the link",
    entries: [
      entry("tls.ca", null, "The certificate of the cluster's authority, relative to this file.", "required in `tls`"),
      entry("tls.cert", null, "This node's certificate.", "required in `tls`"),
      entry("tls.key", null, "This node's key.", "required in `tls`"),
      entry(
        "tls.nodes",
        null,
        "The list of the nodes that may connect. Without it, every certificate of the authority may do everything. " +
          "`tls: false` in place of the map: there are no keys, and whoever reaches the broker's port may do everything.",
        "none",
      ),
    ],
  },
  {
    title: "What is replicated",
    entries: [
      entry("filter.protocols", null, "Only these protocols.", "all"),
      entry("filter.protocols_ignore", null, "All but these.", "none"),
      entry(
        "filter.accept",
        null,
        "Only these addresses and networks. Compared with the original source and the reply source, the two real ends " +
          "of a flow; one match is enough.",
        "all",
      ),
      entry("filter.ignore", null, "All but these.", "none"),
      entry("filter.states", null, "Only these TCP states; other protocols pass.", "all"),
      entry("filter.states_ignore", null, "All TCP states but these.", "none"),
      entry(
        "filter.where",
        "userspace",
        "`kernelspace`: the kernel drops unwanted events before it queues them, which saves a quarter of an event's " +
          "cost. `filter.local`, and lists of more than some 500 networks, stay in userspace (`filterLeftOut` in `stats`).",
      ),
      entry(
        "filter.local",
        "false",
        "Ignore flows of this machine's own addresses, kept current. `init` writes `true`.",
      ),
      entry(
        "expectations",
        "true",
        "Replicate the expectations of all helpers, of none, or of some. It costs nothing if no flow has a helper.",
      ),
    ],
  },
  {
    title: "Takeover",
    entries: [
      entry("commit.timeout", null, "Kernel timeout of committed entries.", "the time that each had left"),
      entry(
        "commit.ahead",
        "false",
        "A time such as `2s`: a backup writes what has lived for so long into its kernel beforehand, and a takeover " +
          "only the rest (modes.md).",
      ),
      entry(
        "commit.window_tracking",
        "false",
        "Committed TCP flows keep window tracking, with their window scales; otherwise the kernel accepts any window " +
          "of theirs.",
      ),
      entry("purge.after", "60s", "How long `purge` waits."),
    ],
  },
  {
    title: "Load and memory",
    entries: [
      entry(
        "publish.interval",
        "5ms",
        "Least time between messages under load. In mode `cache` events gather for five times as long, and a power cut " +
          "loses them. `0` for the lowest latency, at a cost in CPU.",
      ),
      entry(
        "cache.limit",
        null,
        "Most flows of a cache. In the external cache as much for each peer.",
        "twice `nf_conntrack_max`",
      ),
      entry("netlink.buffer", "2MiB", "The event socket's buffer."),
      entry("netlink.buffer_max", "64MiB", "How far overruns may make the buffer grow."),
      entry("netlink.reliable", "false", "The kernel repeats destroy events that did not fit into the buffer."),
      entry(
        "netlink.overrun_resync",
        "0s",
        "How long after an overrun the kernel's table is read again; `false`: never.",
      ),
      entry(
        "netlink.poll",
        null,
        "Read the kernel's table at this interval instead of listening to events. Flows that begin and end in between " +
          "are not seen.",
        "events",
      ),
      entry("netlink.iteration_limit", "1024", "Events read in one turn."),
    ],
  },
  {
    title: "Archive of ended connections",
    entries: [
      entry("archive.dir", "/var/lib/conntrail/archive", "Where Parquet files of ended connections are kept."),
      entry("archive.max_age", "365d", "How long. Without `archive` in the file nothing is archived."),
    ],
  },
  {
    title: "Log of ended flows",
    entries: [
      entry("stats.file", null, "A file with a line for each flow that has ended, in conntrackd's form.", "none"),
      entry(
        "stats.syslog",
        null,
        "`true` or a facility: the same lines go to syslog, under conntrackd's name.",
        "not there",
      ),
    ],
  },
  {
    title: "keepalived",
    entries: [
      entry(
        "keepalived.fifo",
        null,
        "The FIFO into which keepalived writes its changes of state (`vrrp_notify_fifo` or `notify_fifo`). The daemon " +
          "makes it.",
        "the role comes from hooks",
      ),
      entry("keepalived.groups", null, "The sync groups and instances whose lines count.", "all sync groups"),
      entry(
        "keepalived.track_file",
        null,
        "A file for keepalived's `track_file`: `1` while this node lacks what a primary has, else `0`.",
        "none",
      ),
    ],
  },
  {
    title: "Watching",
    entries: [
      entry(
        "metrics.listen",
        null,
        "Where metrics for Prometheus are served, at `/metrics`, and health at `/healthz`: `127.0.0.1:9469`.",
        "nowhere",
      ),
      entry("log.level", "info", "Lines below this level are not written."),
      entry(
        "log.format",
        "auto",
        "The form on standard output: `text` or `json`. `auto`: text in the journal and on a terminal, otherwise JSON.",
      ),
      entry(
        "log.file",
        null,
        "A file for the log, in JSON lines. SIGHUP reopens it, for logrotate.",
        "standard output",
      ),
      entry(
        "log.syslog",
        "false",
        "The log also goes to syslog, as text, with facility `daemon` or the one that is named.",
      ),
    ],
  },
];
