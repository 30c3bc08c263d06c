import assert from "node:assert/strict";
import type { Command } from "commander";
import { checkConfig } from "../config/config.js";
import { DEFAULT_CONFIG_PATH, yamlScalar } from "../config/config-text.js";
import { ConntrailError } from "../errors.js";
import type { CommandContext } from "./command/command.js";
import { writeNewFile } from "./command/new-file.js";

interface InitOptions {
  cluster: string;
  node: string;
  listen: string;
  peer: readonly string[];
  out?: string;
  force?: boolean;
}

/** `init`: writes a node's configuration. */
export function register(program: Command, context: CommandContext): void {
  program
    .command("init")
    .description("write a node's configuration")
    .requiredOption("--cluster <name>", "the cluster, the same on all nodes")
    .requiredOption("--node <name>", "this node")
    .requiredOption("--listen <address>", "this node's address on the dedicated link")
    .option("--peer <name=address>", "another node and its address; repeat for each", gather, [])
    .option("--out <file>", "where to (default: the file of -c)")
    .option("--force", "replace a file that is there")
    .action((options: InitOptions) => init(options, context));
}

function gather(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}

async function init(options: InitOptions, context: CommandContext): Promise<void> {
  const path = options.out ?? context.configPath;
  const text = configText(options);
  const check = checkConfig(text, path);
  if (!check.ok) {
    const [problem] = check.problems;
    assert.ok(problem !== undefined, "a text that is refused has a problem");
    const { key, text: what } = problem;
    const [top = "", name] = key.split(".");
    throw new ConntrailError("USAGE", `--${top === "peers" ? `peer ${name ?? ""}` : top}: ${what}`);
  }
  writeNewFile(path, text, options.force === true);
  const { cluster, node, listen, peers } = check.config;
  await context.print({ path, cluster, node, listen, peers }, () => {
    const others = peers.length === 0 ? "" : `do the same on ${peers.map((peer) => peer.node).join(", ")}, `;
    const option = path === DEFAULT_CONFIG_PATH ? "" : ` -c ${path}`;
    return `wrote ${path}\nnext: look it over, ${others}then start it with: conntrail daemon${option}\n`;
  });
}

/** The text of the file. Values are quoted where YAML would read them as anything but text. */
function configText(options: InitOptions): string {
  const peers = options.peer.map((peer) => {
    const at = peer.indexOf("=");
    if (at < 1) throw new ConntrailError("USAGE", `--peer: found "${peer}", allowed is NAME=ADDRESS`);
    return `  ${yamlScalar(peer.slice(0, at))}: ${yamlScalar(peer.slice(at + 1))}\n`;
  });
  return `# conntrail: one node of a cluster of firewalls. Durations and sizes carry units: 5ms 10s 3m 2h 7d, 64KiB 2GiB.

cluster: ${yamlScalar(options.cluster)}
node: ${yamlScalar(options.node)}

# This node's address on the dedicated link, and the other nodes with theirs.
listen: ${yamlScalar(options.listen)}
peers:${peers.length === 0 ? " {}\n" : `\n${peers.join("")}`}
# cache keeps the peers' flows until a commit; inject writes them straight into the kernel.
mode: cache

# embedded starts a nats-server of its own; external or shared use those listed in servers.
broker:
  mode: embedded
  port: 4222
  store: /var/lib/conntrail
  max_age: 7d
  max_bytes: 2GiB

control: /run/conntrail/control.sock

# Least time between messages under load; 0 for the lowest latency, at a cost in CPU.
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

# Encryption and authentication between the nodes; file names are relative to this file.
#tls: { ca: ca.pem, cert: node.pem, key: node.key }

#metrics: { listen: 127.0.0.1:9469 }

log:
  level: info
`;
}
