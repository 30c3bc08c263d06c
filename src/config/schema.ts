import { z } from "zod";
import { isHelperName } from "../flow/expectation.js";
import { IPPROTO_TCP, PROTOCOL_NAMES, protocolNumber, stateNumber, TCP_STATES } from "../flow/protocol.js";
import { canonicalNetwork, multicastGroup, nodeAddress, parseEndpoint, parseServer } from "./address.js";
import { CONTROL_BYTES_MAX, DEFAULT_CONTROL } from "./config-text.js";
import { DURATION_EXAMPLES, parseDuration, parseSize, SIZE_EXAMPLES } from "./units.js";

/**
 * The configuration file as zod sees it: every key of the file, its check and its default. The message of an issue
 * says only what is allowed; what was found and where is added by `problem.ts`.
 */

const NAME_ALLOWED = "a name of 1 to 32 letters, digits, - or _ (it becomes part of subjects and stream names)";
const NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$/;
const NETWORK_ALLOWED = "an IPv4 or IPv6 address or network, such as 192.0.2.0/24 or 2001:db8::1";
const PROTOCOL_ALLOWED = `${PROTOCOL_NAMES.join(" ")} or a number from 0 to 255`;
const STATE_ALLOWED = `${TCP_STATES.slice(1).join(" ")}`;

/** A value that `parse` converts for the program; undefined refuses it. */
function checked<T>(allowed: string, parse: (value: unknown) => T | undefined) {
  return z.unknown().transform((value, context): T => {
    const result = parse(value);
    if (result !== undefined) return result;
    context.addIssue({ code: "custom", message: allowed });
    return z.NEVER;
  });
}

function oneOf<const T extends readonly string[]>(...names: T) {
  return checked(names.join(", "), (value): T[number] | undefined => names.find((name) => name === value));
}

/** A duration from `min` to `max`, in units of `unitMs` milliseconds, rounded up. */
function duration(min: string, max: string, unitMs: number) {
  return checked(`${DURATION_EXAMPLES}, from ${min} to ${max}`, durationWithin(min, max, unitMs));
}

/** As `duration`, or null for `false`: never. */
function durationOrNever(min: string, max: string, unitMs: number) {
  const within = durationWithin(min, max, unitMs);
  return checked(`${DURATION_EXAMPLES}, from ${min} to ${max}, or false`, (value) =>
    value === false ? null : within(value),
  );
}

function durationWithin(min: string, max: string, unitMs: number): (value: unknown) => number | undefined {
  const minMs = parseDuration(min) ?? 0;
  const maxMs = parseDuration(max) ?? 0;
  return (value) => {
    const ms = parseDuration(value);
    return ms !== undefined && ms >= minMs && ms <= maxMs ? Math.ceil(ms / unitMs) : undefined;
  };
}

function size(min: string, max: string) {
  const minBytes = parseSize(min) ?? 0;
  const maxBytes = parseSize(max) ?? 0;
  return checked(`${SIZE_EXAMPLES}, from ${min} to ${max}`, (value) => {
    const bytes = parseSize(value);
    return bytes !== undefined && bytes >= minBytes && bytes <= maxBytes ? bytes : undefined;
  });
}

function list<T>(allowed: string, parse: (value: unknown) => T | undefined) {
  return z.array(checked(allowed, parse), { error: `a list, each ${allowed}` }).optional();
}

function absolutePath(bytesMax: number) {
  return checked(`an absolute path of at most ${bytesMax} bytes`, (value) =>
    typeof value === "string" && /^\/[^\0\n]*[^\0\n/]$/.test(value) && Buffer.byteLength(value) <= bytesMax
      ? value
      : undefined,
  );
}

function parseProtocol(value: unknown): number | undefined {
  return typeof value === "string" || typeof value === "number" ? protocolNumber(String(value)) : undefined;
}

function parseState(value: unknown): number | undefined {
  const number = typeof value === "string" ? stateNumber(IPPROTO_TCP, value) : undefined;
  return number === 0 ? undefined : number;
}

/** The facilities of syslog(3) that a daemon may write to. */
const FACILITIES = ["daemon", "user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"];

function parseFacility(value: unknown): string | null | undefined {
  if (value === false) return null;
  return value === true ? "daemon" : FACILITIES.find((name) => name === value);
}

function wholeNumber(min: number, max: number) {
  return checked(`a whole number from ${min} to ${max}`, (value) =>
    Number.isInteger(value) && Number(value) >= min && Number(value) <= max ? Number(value) : undefined,
  );
}

const port = () =>
  checked("a port from 1 to 65535", (value) =>
    Number.isInteger(value) && Number(value) >= 1 && Number(value) <= 65535 ? Number(value) : undefined,
  );

/** The name of a node or cluster; undefined for anything else. */
export function parseName(value: unknown): string | undefined {
  return typeof value === "string" && NAME.test(value) ? value : undefined;
}

/** As keepalived's names may be here: they become names of files. */
function parseGroup(value: unknown): string | undefined {
  return typeof value === "string" && /^[A-Za-z0-9_.-]{1,64}$/.test(value) ? value : undefined;
}

/** True for all helpers, false for none, or a list of helpers. */
function parseExpectations(value: unknown): boolean | readonly string[] | undefined {
  if (typeof value === "boolean") return value;
  if (!Array.isArray(value) || value.length === 0) return undefined;
  return value.every((name) => typeof name === "string" && isHelperName(name)) ? (value as string[]) : undefined;
}

/** How a node logs in at a broker that does not know it by its certificate. Secrets are in files. */
export type Login =
  | { readonly kind: "creds" | "nkey" | "token"; readonly file: string }
  | { readonly kind: "user"; readonly user: string; readonly file: string };

const LOGIN_ALLOWED =
  "{ creds: FILE }, { nkey: FILE }, { token: FILE } or { user: NAME, password: FILE }: secrets are in files";

function parseLogin(value: unknown): Login | undefined {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return undefined;
  const entries = Object.entries(value);
  if (!entries.every(([, text]) => typeof text === "string" && text !== "")) return undefined;
  const { user, password, ...others } = value as Record<string, string>;
  const [[kind, file] = [], more] = Object.entries(others);
  if (user !== undefined && password !== undefined && kind === undefined) return { kind: "user", user, file: password };
  if (user !== undefined || password !== undefined || more !== undefined || file === undefined) return undefined;
  return kind === "creds" || kind === "nkey" || kind === "token" ? { kind, file } : undefined;
}

const bool = () => checked("true or false", (value) => (typeof value === "boolean" ? value : undefined));
const map = { error: "a map" } as const;

/** What the files of `tls: false` are called: no file can have that name. */
export const NO_KEYS = "\0";
const filePath = () =>
  checked("a file name", (value) => (typeof value === "string" && value !== "" ? value : undefined));

const peers = z.unknown().transform((value, context) => {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    context.addIssue({ code: "custom", message: "a map of node names to addresses, such as { fw2: 10.77.0.2 }" });
    return z.NEVER;
  }
  return Object.entries(value).map(([node, found]) => {
    const address = nodeAddress(found);
    if (parseName(node) === undefined) {
      context.addIssue({ code: "custom", message: NAME_ALLOWED, path: [node], params: { found: node } });
    } else if (address === undefined) {
      context.addIssue({ code: "custom", message: "the IPv4 or IPv6 address of one host", path: [node] });
    }
    return { node, address: address ?? "" };
  });
});

const shapes = {
  broker: {
    mode: oneOf("embedded", "external", "shared").default("embedded"),
    port: port().default(4222),
    store: absolutePath(1024).default("/var/lib/conntrail"),
    max_age: duration("1m", "3650d", 1000).default(7 * 86_400),
    max_bytes: size("16MiB", "1024TiB").default(2 * 1024 ** 3),
    encryption_key: absolutePath(1024).optional(),
    servers: list("a broker's address, such as nats://10.77.0.1:4222", parseServer),
    login: checked(LOGIN_ALLOWED, parseLogin).optional(),
  },
  publish: { interval: duration("0", "1s", 1).default(5) },
  scheduler: { policy: oneOf("fifo", "rr"), priority: wholeNumber(1, 99) },
  cache: { limit: wholeNumber(1, 64 * 1024 ** 2).optional() },
  commit: {
    timeout: duration("1s", "30d", 1000).optional(),
    window_tracking: bool().default(false),
    ahead: durationOrNever("1s", "1h", 1000).default(null),
  },
  purge: { after: duration("0", "1d", 1000).default(60) },
  filter: {
    protocols: list(PROTOCOL_ALLOWED, parseProtocol),
    protocols_ignore: list(PROTOCOL_ALLOWED, parseProtocol),
    accept: list(NETWORK_ALLOWED, canonicalNetwork),
    ignore: list(NETWORK_ALLOWED, canonicalNetwork),
    states: list(STATE_ALLOWED, parseState),
    states_ignore: list(STATE_ALLOWED, parseState),
    where: oneOf("userspace", "kernelspace").default("userspace"),
    local: bool().default(false),
  },
  netlink: {
    buffer: size("64KiB", "1GiB").default(2 * 1024 ** 2),
    buffer_max: size("64KiB", "1GiB").default(64 * 1024 ** 2),
    reliable: bool().default(false),
    overrun_resync: durationOrNever("0", "1h", 1).default(0),
    poll: duration("100ms", "1h", 1).optional(),
    iteration_limit: wholeNumber(1, 65_536).default(1024),
  },
  discover: {
    group: checked("a multicast group, such as 225.0.0.50 or ff02::1:50", multicastGroup),
    port: port().default(3780),
    interface: checked("the name of a network interface", (value) =>
      typeof value === "string" && /^[^\s/]{1,15}$/.test(value) ? value : undefined,
    ).optional(),
  },
  archive: {
    dir: absolutePath(1024).default("/var/lib/conntrail/archive"),
    max_age: duration("1d", "36500d", 1000).default(365 * 86_400),
  },
  tls: { ca: filePath(), cert: filePath(), key: filePath(), nodes: filePath().optional() },
  keepalived: {
    fifo: absolutePath(1024).optional(),
    groups: list("the name of a sync group or an instance: letters, digits, . - _, at most 64", parseGroup),
    track_file: absolutePath(1024).optional(),
  },
  stats: {
    file: absolutePath(1024).optional(),
    syslog: checked(`true, false or a facility: ${FACILITIES.join(", ")}`, parseFacility).default(null),
  },
  metrics: { listen: checked("an address and a port, such as 127.0.0.1:9469 or [::1]:9469", parseEndpoint) },
  log: {
    level: oneOf("trace", "debug", "info", "warn", "error", "fatal", "silent").default("info"),
    format: oneOf("auto", "text", "json").default("auto"),
    file: absolutePath(1024).optional(),
    syslog: checked(`true, false or a facility: ${FACILITIES.join(", ")}`, parseFacility).default(null),
  },
} as const;

const top = {
  cluster: checked(NAME_ALLOWED, parseName),
  node: checked(NAME_ALLOWED, parseName),
  listen: checked("the IPv4 or IPv6 address of this node on the dedicated link", nodeAddress),
  peers: peers.default([]),
  mode: oneOf("cache", "inject", "observer", "stats").default("cache"),
  broker: z.strictObject(shapes.broker, map).prefault({}),
  control: absolutePath(CONTROL_BYTES_MAX).default(DEFAULT_CONTROL),
  publish: z.strictObject(shapes.publish, map).prefault({}),
  peer_timeout: duration("2s", "1h", 1).default(3000),
  lock: absolutePath(1024).optional(),
  nice: wholeNumber(-20, 19).optional(),
  scheduler: z.strictObject(shapes.scheduler, map).optional(),
  cache: z.strictObject(shapes.cache, map).prefault({}),
  commit: z.strictObject(shapes.commit, map).prefault({}),
  purge: z.strictObject(shapes.purge, map).prefault({}),
  expectations: checked("true, false or a list of helpers such as [ftp, sip]", parseExpectations).default(true),
  filter: z.strictObject(shapes.filter, map).prefault({}),
  netlink: z.strictObject(shapes.netlink, map).prefault({}),
  discover: z.strictObject(shapes.discover, map).optional(),
  archive: z.strictObject(shapes.archive, map).optional(),
  tls: z.preprocess(
    (value) => (value === false ? { ca: NO_KEYS, cert: NO_KEYS, key: NO_KEYS } : value),
    z.strictObject(shapes.tls, { error: "false, or a map of ca, cert, key and nodes" }).optional(),
  ),
  keepalived: z.strictObject(shapes.keepalived, map).optional(),
  stats: z.strictObject(shapes.stats, map).optional(),
  metrics: z.strictObject(shapes.metrics, map).optional(),
  log: z.strictObject(shapes.log, map).prefault({}),
};

/** The whole file: a map in which only `cluster`, `node` and `listen` are required. */
export const fileSchema = z.strictObject(top, map);

/** The output of the schema: with defaults and resolved units, the keys still as in the file. */
export type FileContent = z.output<typeof fileSchema>;

/** What a node without peers need not name, since nobody else sees it. */
const NAMES_ALONE = { cluster: "stats", node: "stats", listen: "127.0.0.1" };

/** The content of a file as the schema wants it: mode `stats` needs no names. */
export function withNames(value: unknown): unknown {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value ?? {};
  return "mode" in value && value.mode === "stats" ? { ...NAMES_ALONE, ...value } : value;
}

/** The keys that are allowed in the map at `path` (`""` for the top), for messages. */
export function keysAllowed(path: string): readonly string[] {
  if (path === "") return Object.keys(top);
  return Object.keys((shapes as Record<string, object>)[path] ?? {});
}
