/**
 * The grammar of conntrackd.conf as tables: that of conntrack-tools 1.4.7, and what only 1.4.2 accepts. Names are
 * case-sensitive. In words:
 *
 *   file      = directive*
 *   directive = name value* [ "{" (directive* | word*) "}" ]
 *
 * where each name has its own values and its own block, and is allowed in certain blocks only.
 */
import {
  either,
  INTERFACE,
  IPV4,
  IPV4_GROUP,
  IPV4_NETWORK,
  IPV6,
  IPV6_GROUP,
  IPV6_NETWORK,
  keyword,
  MODE,
  NAME,
  ON_OFF,
  PATH,
  PORT,
  SCHEDULER,
  SIGNED_NUMBER,
  SOCKET_PATH,
  type ValueRule,
  wholeNumber,
} from "./value.js";

/** The content of a block. */
export type BlockRule =
  | { readonly kind: "directives"; readonly directives: ReadonlyMap<string, DirectiveRule> }
  /** Words; with `ending`, each row of them ends with it: `ESTABLISHED CLOSED for TCP`. */
  | { readonly kind: "list"; readonly word: ValueRule; readonly ending?: readonly [string, string] };

/** What follows the name of a directive. */
export interface DirectiveRule {
  /** In this order. */
  readonly values: readonly ValueRule[];
  /** The values may be left out: `UDP {` besides `UDP Default {`. */
  readonly optional?: true;
  /** The block that must follow, which depends on the values before it. */
  readonly block?: (values: readonly string[]) => BlockRule;
  /** The block may replace the values: `ExpectationSync { ftp }` besides `ExpectationSync on`. */
  readonly blockOrValues?: true;
  /** Words up to this ending instead of values: `Replicate ESTABLISHED for TCP`. */
  readonly row?: { readonly word: ValueRule; readonly ending: readonly [string, string] };
}

function block(directives: Readonly<Record<string, DirectiveRule>>): () => BlockRule {
  const rule: BlockRule = { kind: "directives", directives: new Map(Object.entries(directives)) };
  return () => rule;
}

function value(...values: readonly ValueRule[]): DirectiveRule {
  return { values };
}

const ALONE: DirectiveRule = value();
const FLAG = value(ON_OFF);
const NUMBER = value(wholeNumber());
const FOR_TCP = ["for", "TCP"] as const;

const TCP_STATE = keyword(
  "SYN_SENT",
  "SYN_RECV",
  "ESTABLISHED",
  "FIN_WAIT",
  "CLOSE_WAIT",
  "LAST_ACK",
  "TIME_WAIT",
  "CLOSED",
  "CLOSE",
  "LISTEN",
);

const timeouts = { CommitTimeout: NUMBER, PurgeTimeout: NUMBER };
const refreshes = { RefreshTime: NUMBER, CacheTimeout: NUMBER };
/** Words without a value: 1.4.2 warned about them and ignored them. */
const relaxed = { RelaxTransitions: ALONE, DelayDestroyMessages: ALONE };

const ftfw = block({
  ResendQueueSize: NUMBER,
  ResendBufferSize: NUMBER,
  ACKWindowSize: NUMBER,
  DisableExternalCache: FLAG,
  StartupResync: FLAG,
  ...timeouts,
});
const alarm = block({ ...refreshes, ...timeouts, ...relaxed });
const notrack = block({
  DisableInternalCache: FLAG,
  DisableExternalCache: FLAG,
  StartupResync: FLAG,
  ...timeouts,
});

function modeBlock(values: readonly string[]): BlockRule {
  const mode = values[0]?.toLowerCase();
  if (mode === "notrack") return notrack();
  return mode === "alarm" || mode === "persistent" ? alarm() : ftfw();
}

const linkOptions = {
  Interface: value(INTERFACE),
  SndSocketBuffer: NUMBER,
  RcvSocketBuffer: NUMBER,
  McastSndSocketBuffer: NUMBER,
  McastRcvSocketBuffer: NUMBER,
  Checksum: FLAG,
};

const unicast = {
  IPv4_address: value(IPV4),
  IPv6_address: value(IPV6),
  IPv4_Destination_Address: value(IPV4),
  IPv6_Destination_Address: value(IPV6),
  Port: value(PORT),
  ...linkOptions,
};

function link(directives: Readonly<Record<string, DirectiveRule>>): DirectiveRule {
  return { values: [keyword("Default")], optional: true, block: block(directives) };
}

function policy(list: () => BlockRule): DirectiveRule {
  return { values: [keyword("Accept", "Ignore")], block: list };
}

const addresses = block({ IPv4_address: value(IPV4_NETWORK), IPv6_address: value(IPV6_NETWORK) });

const filter: DirectiveRule = {
  values: [keyword("From"), keyword("Userspace", "Kernelspace")],
  optional: true,
  block: block({
    Protocol: policy(() => ({ kind: "list", word: NAME })),
    Address: policy(addresses),
    State: policy(() => ({ kind: "list", word: TCP_STATE, ending: FOR_TCP })),
  }),
};

const logs = { LogFile: value(either(ON_OFF, PATH)), Syslog: value(either(ON_OFF, NAME)) };

const sync = block({
  Mode: { values: [MODE], block: modeBlock },
  UDP: link(unicast),
  TCP: link({ ...unicast, ErrorQueueLength: NUMBER }),
  Multicast: link({
    IPv4_address: value(IPV4_GROUP),
    IPv6_address: value(IPV6_GROUP),
    IPv4_interface: value(IPV4),
    IPv6_interface: value(IPV6),
    Group: value(PORT),
    Backlog: NUMBER,
    ...linkOptions,
  }),
  Options: {
    values: [],
    block: block({
      TCPWindowTracking: FLAG,
      ExpectationSync: { values: [ON_OFF], block: () => ({ kind: "list", word: NAME }), blockOrValues: true },
    }),
  },
  ...timeouts,
  ...refreshes,
  ...relaxed,
  Checksum: FLAG,
  CacheWriteThrough: FLAG,
  DestroyTimeout: NUMBER,
  ListenTo: value(either(IPV4, IPV6)),
  Replicate: { values: [], row: { word: TCP_STATE, ending: FOR_TCP } },
});

const general = block({
  Systemd: FLAG,
  Nice: value(SIGNED_NUMBER),
  HashSize: NUMBER,
  HashLimit: NUMBER,
  ...logs,
  LockFile: value(PATH),
  UNIX: { values: [], block: block({ Path: value(SOCKET_PATH), Backlog: NUMBER }) },
  NetlinkBufferSize: NUMBER,
  NetlinkBufferSizeMaxGrowth: NUMBER,
  SocketBufferSize: NUMBER,
  SocketBufferSizeMaxGrowth: NUMBER,
  SocketBufferSizeMaxGrown: NUMBER,
  NetlinkOverrunResync: value(either(ON_OFF, wholeNumber())),
  NetlinkEventsReliable: FLAG,
  PollSecs: value(wholeNumber(1)),
  EventIterationLimit: NUMBER,
  Family: value(NAME),
  Filter: filter,
  Scheduler: { values: [], block: block({ Type: value(SCHEDULER), Priority: value(wholeNumber(0, 99)) }) },
});

const helper = block({
  Setup: FLAG,
  Type: {
    values: [NAME, keyword("inet", "inet6"), keyword("tcp", "udp")],
    block: block({
      QueueNum: NUMBER,
      QueueLen: NUMBER,
      Policy: { values: [NAME], block: block({ ExpectMax: NUMBER, ExpectTimeout: NUMBER }) },
    }),
  },
});

/** The file as a whole. */
export const FILE_RULE: BlockRule = block({
  Sync: { values: [], block: sync },
  General: { values: [], block: general },
  Stats: {
    values: [],
    block: block({ ...logs, NetlinkEventsReliable: FLAG, LogFileBufferSize: NUMBER }),
  },
  Helper: { values: [], block: helper },
  StripNAT: ALONE,
  IgnoreTrafficFor: { values: [], block: addresses },
  IgnoreProtocol: {
    values: [],
    block: () => ({ kind: "list", word: either(wholeNumber(0, 255), NAME) }),
  },
})();

/** The blocks that accept each directive, by its name. For messages, and as the words that no name may be. */
export const HOMES: ReadonlyMap<string, readonly string[]> = homes();

function homes(): Map<string, string[]> {
  const found = new Map<string, string[]>();
  const visit = (rule: BlockRule, label: string): void => {
    if (rule.kind === "list") return;
    for (const [name, directive] of rule.directives) {
      const places = found.get(name) ?? [];
      if (!places.includes(label)) places.push(label);
      found.set(name, places);
      const variants = name === "Mode" ? [["FTFW"], ["ALARM"], ["NOTRACK"]] : [[]];
      for (const values of variants) {
        if (directive.block !== undefined) visit(directive.block(values), [name, ...values].join(" "));
      }
    }
  };
  visit(FILE_RULE, "the top of the file");
  return found;
}
