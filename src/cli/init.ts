import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Command } from "commander";
import { hostAddress } from "../config/address.js";
import { type Config, checkConfig, type PeerConfig } from "../config/config.js";
import { DEFAULT_CONFIG_PATH, yamlScalar } from "../config/config-text.js";
import { parseName } from "../config/schema.js";
import { ConntrailError } from "../errors.js";
import { readBundle } from "../keys/bundle.js";
import { createKeys, installBundle, type WrittenBundle } from "../keys/cluster-keys.js";
import { KEYS_LINE, OPEN_LINE } from "../keys/config-line.js";
import { hasKeys, keyFolderOf } from "../keys/key-folder.js";
import type { CommandContext } from "./command/command.js";
import { writeNewFile } from "./command/new-file.js";
import { keepalivedLines, keepalivedSnippet } from "./keepalived-snippet.js";

interface InitOptions {
  cluster?: string;
  node?: string;
  listen?: string;
  peer: readonly string[];
  observer: readonly string[];
  bundle?: string;
  keys: boolean;
  hooks?: boolean;
  out?: string;
  force?: boolean;
}

/** What the file says about the node. */
interface NodeFacts {
  readonly cluster: string;
  readonly node: string;
  readonly listen: string;
  readonly peers: readonly (readonly [node: string, address: string])[];
  readonly mode: string;
  readonly port: number;
  /** keepalived writes into a FIFO, instead of calling hooks. */
  readonly usesFifo: boolean;
  /** The line that names its keys, or says that there are none. */
  readonly tls: string;
}

/** The port of a new cluster's brokers. */
const PORT = 4222;

/** `init`: writes a node's configuration, and makes or installs its keys. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("init")
    .description("write a node's configuration and make keys; on the first node for all others too")
    .option("--bundle <file>", "all that this node needs, as init on the first node wrote it")
    .option("--cluster <name>", "the cluster, the same on all nodes")
    .option("--node <name>", "this node")
    .option("--listen <address>", "this node's address on the dedicated link")
    .option("--peer <name=address>", "another node and its address; repeat for each", gather, [])
    .option("--observer <name=address>", "a host that only keeps the streams; repeat for each", gather, [])
    .option("--no-keys", "make none: whoever reaches the broker's port may then do everything")
    .option("--hooks", "keepalived calls hooks, instead of writing into a FIFO")
    .option("--out <file>", "where to (default: the file of -c)")
    .option("--force", "replace a file that is there")
    .action((options: InitOptions) => init(options, context));
}

function gather(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}

async function init(options: InitOptions, context: CommandContext): Promise<void> {
  const path = options.out ?? context.configPath;
  if (options.bundle !== undefined) return initFromBundle(options.bundle, path, options, context);
  const { cluster, node, listen } = options;
  for (const [flags, value] of [
    ["--cluster <name>", cluster],
    ["--node <name>", node],
    ["--listen <address>", listen],
  ]) {
    if (value === undefined) throw new ConntrailError("USAGE", `required option '${flags}' not specified`);
  }
  const peers = options.peer.map((text) => memberOf("--peer", text));
  const observers = options.observer.map((text) => memberOf("--observer", text));
  for (const [name, address] of observers) {
    if (parseName(name) === undefined || hostAddress(address) === undefined) {
      throw new ConntrailError("USAGE", `--observer: found "${name}=${address}", allowed is NAME=ADDRESS`);
    }
  }
  const tls = options.keys ? KEYS_LINE : OPEN_LINE;
  const facts = {
    cluster: cluster ?? "",
    node: node ?? "",
    listen: listen ?? "",
    peers,
    mode: "cache",
    port: PORT,
    usesFifo: options.hooks !== true,
    tls,
  };
  const text = configText(facts);
  const config = checked(text, path);
  writeNewFile(path, text, options.force === true);
  const snippet = writeSnippet(path, facts);
  const members = [
    ...peers.map(([name, address]) => ({ node: name, address, isObserver: false })),
    ...observers.map(([name, address]) => ({ node: name, address, isObserver: true })),
  ];
  const how = { directory: dirname(path), nowMs: Date.now(), force: options.force === true };
  // Other nodes have keys of an authority that is there: only keys create --force replaces it.
  const bundles = options.keys && !hasKeys(path) ? createKeys(config, keyFolderOf(path), members, how) : [];
  const report = {
    path,
    cluster: config.cluster,
    node: config.node,
    listen: config.listen,
    peers: config.peers,
    bundles,
    keepalived: snippet,
  };
  await context.print(report, () => nextText(report, options.keys));
}

/** The second command: a bundle holds all that another node needs. */
async function initFromBundle(
  file: string,
  path: string,
  options: InitOptions,
  context: CommandContext,
): Promise<void> {
  const bundle = readBundle(file);
  const { cluster, node, listen, port, mode } = bundle;
  const peers = Object.entries(bundle.peers);
  const facts = { cluster, node, listen, peers, mode, port, usesFifo: options.hooks !== true, tls: KEYS_LINE };
  const text = configText(facts);
  const config = checked(text, path);
  writeNewFile(path, text, options.force === true);
  const snippet = writeSnippet(path, facts);
  installBundle(keyFolderOf(path), bundle, { cluster, node });
  // The key is in its place now; another copy of it is only something to lose.
  rmSync(file, { force: true });
  const report = { path, cluster, node, listen, peers: config.peers, bundles: [], keepalived: snippet };
  await context.print(report, () => nextText(report, true, `, and removed ${file}`));
}

/** Writes keepalived's side beside the configuration, and gives its path; null for an observer, which has no role. */
function writeSnippet(path: string, { mode, usesFifo }: NodeFacts): string | null {
  if (mode === "observer") return null;
  const file = join(dirname(path), "keepalived-snippet.conf");
  writeNewFile(file, keepalivedSnippet(usesFifo), true);
  return file;
}

function memberOf(option: string, text: string): readonly [node: string, address: string] {
  const at = text.indexOf("=");
  if (at < 1) throw new ConntrailError("USAGE", `${option}: found "${text}", allowed is NAME=ADDRESS`);
  return [text.slice(0, at), text.slice(at + 1)];
}

function checked(text: string, path: string): Config {
  const check = checkConfig(text, path);
  if (check.ok) return check.config;
  const [problem] = check.problems;
  assert.ok(problem !== undefined, "a text that is refused has a problem");
  const { key, text: what } = problem;
  const [top = "", name] = key.split(".");
  throw new ConntrailError("USAGE", `--${top === "peers" ? `peer ${name ?? ""}` : top}: ${what}`);
}

interface InitReport {
  readonly path: string;
  readonly peers: readonly PeerConfig[];
  readonly bundles: readonly WrittenBundle[];
  /** Null: none, for an observer. */
  readonly keepalived: string | null;
}

function nextText({ path, peers, bundles, keepalived }: InitReport, keys: boolean, more = ""): string {
  const option = path === DEFAULT_CONFIG_PATH ? "" : ` -c ${path}`;
  const start = `start it with: conntrail daemon${option}\n`;
  const wrote = [path, ...(keepalived === null ? [] : [keepalived]), ...bundles.map((bundle) => bundle.path)]
    .map((file) => `wrote ${file}`)
    .join("\n");
  if (bundles.length === 0) {
    const others = keys || peers.length === 0 ? "" : `do the same on ${peers.map((peer) => peer.node).join(", ")}, `;
    return `${wrote}${more}\nnext: look it over, ${others}then ${start}`;
  }
  const copies = bundles.map(({ node, path: file }) => {
    const there = `/root/${basename(file)}`;
    return `  scp ${file} ${node}:${there} && ssh ${node} conntrail init --bundle ${there} && rm ${file}\n`;
  });
  return `${wrote}\nnext: look it over, give each node its bundle, as root:\n${copies.join("")}then ${start}`;
}

/** The text of the file. Values are quoted where YAML would read them as anything but text. */
function configText(facts: NodeFacts): string {
  const peers = facts.peers.map(([node, address]) => `  ${yamlScalar(node)}: ${yamlScalar(address)}\n`);
  return `# conntrail: one node of a cluster of firewalls. Durations and sizes carry units: 5ms 10s 3m 2h 7d, 64KiB 2GiB.

cluster: ${yamlScalar(facts.cluster)}
node: ${yamlScalar(facts.node)}

# This node's address on the dedicated link, and the other nodes with theirs.
listen: ${yamlScalar(facts.listen)}
peers:${peers.length === 0 ? " {}\n" : `\n${peers.join("")}`}
# cache keeps the peers' flows until a commit; inject writes them straight into the kernel.
mode: ${facts.mode}

# embedded starts a nats-server of its own; external or shared use those listed in servers.
broker:
  mode: embedded
  port: ${facts.port}
  store: /var/lib/conntrail
  max_age: 7d
  max_bytes: 2GiB

control: /run/conntrail/control.sock

${
  facts.mode === "observer"
    ? ""
    : `${keepalivedLines(facts.usesFifo)}
`
}# Least time between messages under load; 0 for the lowest latency, at a cost in CPU.
publish:
  interval: 5ms

# The kernel timeout of committed entries. Left out: the time that each had left.
#commit:
#  timeout: 180s

# How long after a purge or a step down the flows that another node carries leave the kernel.
purge:
  after: 60s

# What helpers expect (FTP, SIP ...): true, false, or a list of helpers such as [ftp, sip].
expectations: true

# Which flows are replicated. local: not those of this machine's own addresses.
filter:
  protocols: [tcp, udp, icmp, icmpv6, sctp, dccp]
  #ignore: [192.0.2.0/24]
  #states: [ESTABLISHED]
  where: userspace
  local: true

# The keys of the nodes, relative to this file; conntrail keys list shows them. false: there are none, and whoever reaches
# the broker's port, local users too, may read all connections and change the tables of all nodes.
${facts.tls}

#metrics: { listen: 127.0.0.1:9469 }

log:
  level: info
`;
}
