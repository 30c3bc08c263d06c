/**
 * The plan of the house: which folder may import which, and which folder each package belongs to. This is the only
 * place that defines it; test/unit/style.test.ts checks every file of src/ against it.
 */

/**
 * A file may import from its own folder and from the folders named here, types included. A folder names only folders
 * above it in this table, so no import goes upwards or in a circle. A folder that is not named belongs to the nearest
 * named one around it.
 */
export const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  // Ground: what a flow is, what is configured, what the operating system offers.
  "errors.ts": [],
  os: [],
  flow: ["errors.ts"],
  ownership: [],
  config: ["errors.ts", "flow"],
  conntrackd: ["errors.ts", "flow", "config"],
  keys: ["errors.ts", "config"],
  // Edges: kernel, stream, tables, control socket. None of them knows another.
  ctnetlink: ["errors.ts", "os", "flow"],
  "stream/format": ["flow"],
  stream: ["errors.ts", "os", "flow", "stream/format"],
  "stream/broker": ["errors.ts", "os", "stream", "stream/format"],
  cache: ["flow", "ownership"],
  control: ["errors.ts", "os", "flow"],
  metrics: ["errors.ts", "control"],
  discovery: ["errors.ts", "os", "config", "keys"],
  keepalived: ["errors.ts", "os", "control"],
  // Ways: each wing of sync is one way of the data, and sync itself builds a node from them.
  "sync/ports": ["flow", "ctnetlink", "stream", "stream/format"],
  "sync/out": ["errors.ts", "os", "flow", "ownership", "ctnetlink", "stream/format", "cache", "sync/ports"],
  "sync/in": ["errors.ts", "os", "flow", "ownership", "stream", "stream/format", "cache", "sync/ports", "sync/out"],
  "sync/inject": ["errors.ts", "os", "flow", "ctnetlink", "cache", "sync/ports"],
  "sync/takeover": [
    ...["errors.ts", "os", "flow", "ctnetlink", "stream/format", "cache", "control"],
    ...["sync/ports", "sync/out", "sync/in"],
  ],
  sync: [
    ...["errors.ts", "os", "flow", "ctnetlink", "stream/format", "cache", "control"],
    ...["sync/ports", "sync/out", "sync/in", "sync/inject", "sync/takeover"],
  ],
  history: ["errors.ts", "flow"],
  "history/format": ["flow", "history"],
  "history/scan": ["errors.ts", "flow", "ownership", "stream", "stream/format", "history"],
  "history/archive": [
    ...["errors.ts", "os", "flow", "keys", "stream", "stream/format", "history", "history/format", "history/scan"],
  ],
  lab: ["errors.ts", "os", "keys"],
  // Composition, and the command line on top.
  daemon: [
    ...["errors.ts", "os", "flow", "config", "keys", "ctnetlink", "stream", "stream/format", "stream/broker"],
    ...["cache", "control"],
    ...["metrics", "discovery", "keepalived", "sync/ports", "sync/in", "sync", "history/archive"],
  ],
  "daemon.ts": [
    ...["os", "flow", "config", "ctnetlink", "stream", "stream/format", "cache", "control", "discovery"],
    "sync",
    "daemon",
  ],
  doctor: ["errors.ts", "config", "keys", "stream/broker", "control"],
  "cli/process": ["errors.ts", "os", "flow", "config", "control"],
  "cli/command": [
    "errors.ts",
    "os",
    "flow",
    "config",
    "conntrackd",
    "keys",
    "control",
    "daemon",
    "daemon.ts",
    "cli/process",
  ],
  api: [
    ...["errors.ts", "flow", "config", "stream", "history", "history/format", "history/scan"],
    ...["history/archive", "daemon", "cli/command"],
  ],
  "cli/conntrackd": ["errors.ts", "os", "flow", "config", "conntrackd", "control", "cli/process", "cli/command"],
  "cli/history": [
    ...["errors.ts", "flow", "config", "history", "history/format", "history/scan", "history/archive"],
    ...["daemon", "cli/process", "cli/command", "api"],
  ],
  cli: [
    ...["errors.ts", "flow", "config", "conntrackd", "keys", "stream/broker", "control", "doctor", "lab"],
    ...["cli/process", "cli/command", "cli/conntrackd", "cli/history"],
  ],
};

/** Packages that only certain folders and their subfolders may import. */
export const PACKAGE_HOMES: Readonly<Record<string, readonly string[]>> = {
  nats: ["stream"],
  msgpackr: ["stream/format"],
  netlink: ["ctnetlink"],
  koffi: ["os"],
  commander: ["cli"],
  "@duckdb": ["history"],
};

/** Folders without I/O, timers or clocks: their results depend only on their inputs. */
export const PURE: readonly string[] = ["flow", "ownership", "cache", "stream/format"];

/** The modules that pure folders may import beside each other. */
export const PURE_MAY_IMPORT: readonly string[] = [
  "node:assert/strict",
  "node:crypto",
  "node:net",
  "node:util",
  "msgpackr",
  "zod",
];
