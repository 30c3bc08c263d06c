import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Command } from "commander";
import { hostAddress } from "../config/address.js";
import type { Config } from "../config/config.js";
import { parseName } from "../config/schema.js";
import { isConntrackdConf } from "../conntrackd/conf.js";
import { ConntrailError } from "../errors.js";
import { NODE_DAYS } from "../keys/authority.js";
import { readBundle } from "../keys/bundle.js";
import { day, readCertificate } from "../keys/certificate.js";
import {
  addNode,
  createKeys,
  installBundle,
  issuedCertificates,
  type KeyFiles,
  type Member,
  renewOwn,
  type WrittenBundle,
} from "../keys/cluster-keys.js";
import { withKeysLine } from "../keys/config-line.js";
import { keyFolderOf, readersOf, writeSecret } from "../keys/key-folder.js";
import { readRoster, withoutNode, writeRoster } from "../keys/roster.js";
import { brokerAccounts, SHARED_REPLICAS, sharedAccounts } from "../stream/broker/access.js";
import { newNkeySeed, publicNkey } from "../stream/broker/nkey.js";
import type { CommandContext } from "./command/command.js";
import { loadAnyConfig } from "./command/config-file.js";
import { formatColumns } from "./process/terminal.js";

interface MakeOptions {
  observer?: boolean;
  out?: string;
  force?: boolean;
  days?: string;
}

/** `keys`: makes, renews, lists and revokes the keys of the nodes, while the daemon runs. */
export function register(program: Command, context: CommandContext): void {
  const keys = program.command("keys").description("the keys of the nodes: who may connect, and until when");
  keys
    .command("list")
    .description("the nodes that may connect here, and until when their certificates are valid")
    .action(() => list(context));
  keys
    .command("create")
    .description("make the authority, this node's keys, and a bundle for each peer of the configuration")
    .option("--force", "replace keys that are there: every node then needs a new bundle")
    .action((options: MakeOptions) => create(options, context));
  keys
    .command("install")
    .argument("<bundle>", "the file that the node with the authority made for this one")
    .description("put a bundle's keys in their place, and remove the file")
    .action((file: string) => install(file, context));
  keys
    .command("renew")
    .argument("[node]", "another node: its bundle is written; default: this node")
    .description("make a new key and certificate, where the authority is")
    .option("--days <number>", `how long it is valid (default: ${NODE_DAYS})`)
    .option("--out <file>", "where the bundle goes")
    .option("--force", "replace a bundle that is there")
    .action((node: string | undefined, options: MakeOptions) => renew(node, options, context));
  keys
    .command("add-node")
    .argument("<name=address>", "the new node; on a node without the authority the name is enough")
    .description("let a node in here; where the authority is, also write its bundle")
    .option("--observer", "it only keeps the streams")
    .option("--out <file>", "where the bundle goes")
    .option("--force", "replace a bundle that is there")
    .action((text: string, options: MakeOptions) => add(text, options, context));
  keys
    .command("broker")
    .description("print the accounts for a nats-server that runs beside the daemon (broker.mode external)")
    .action(() => broker(context));
  keys
    .command("permissions")
    .description(
      "print the accounts of all nodes for the servers of broker.mode shared, and make the keys of the nodes",
    )
    .option("--observer <name...>", "observers, which no configuration lists among its peers")
    .action((options: { observer?: string[] }) => permissions(options.observer ?? [], context));
  keys
    .command("revoke")
    .argument("<name>", "the node")
    .description("let a node in no more, and disconnect it; do this on every node")
    .action((name: string) => revoke(name, context));
}

/** What a command did, for `--json`. */
interface KeysReport {
  readonly did: string;
  readonly bundles: readonly WrittenBundle[];
  /** Whether a daemon that runs has read the keys again. */
  readonly daemon: "reloaded" | "not running" | "not asked";
}

async function list(context: CommandContext): Promise<void> {
  const { config, files } = ground(context);
  const roster = readRoster(files.nodes);
  const issued = issuedCertificates(files);
  const ownUntil = readCertificate(files.cert).untilMs;
  const rows = roster.nodes.map((node) => ({
    node,
    state: node === config.node ? "this node" : "may connect",
    untilMs: node === config.node ? ownUntil : (issued.get(node)?.untilMs ?? null),
  }));
  const revoked = roster.revoked.map((node) => ({ node, state: "revoked", untilMs: null }));
  const report = { authorityUntilMs: readCertificate(files.ca).untilMs, nodes: [...rows, ...revoked] };
  await context.print(report, ({ authorityUntilMs, nodes }) => {
    const table = nodes.map(({ node, state, untilMs }) => [node, state, untilMs === null ? "-" : day(untilMs)]);
    return `${formatColumns([["NODE", "STATE", "CERTIFICATE UNTIL"], ...table])}authority until ${day(authorityUntilMs)}\n`;
  });
}

async function broker(context: CommandContext): Promise<void> {
  const { config, files } = ground(context);
  const accounts = brokerAccounts(config.node, readersOf(files, config.node) ?? []);
  await context.terminal.write(`# From conntrail keys broker, for node ${config.node}.\naccounts: ${accounts}\n`);
}

async function permissions(observers: readonly string[], context: CommandContext): Promise<void> {
  const config = loadAnyConfig(context.configPath);
  const { path, cluster, node, peers, mode, broker } = config;
  if (broker.mode !== "shared") {
    throw new ConntrailError(
      "CONFIG",
      `${path}: broker.mode: found ${broker.mode}, allowed is shared for this command`,
    );
  }
  for (const name of observers) {
    if (parseName(name) === undefined) throw new ConntrailError("USAGE", `${name} is no name of a node`);
  }
  const watching = mode === "observer" ? [node, ...observers] : observers;
  const names = [...new Set([node, ...peers.map((peer) => peer.node), ...observers])];
  const files = names.map((name) => join(dirname(path), `${name}.nkey`));
  for (const file of files) if (!existsSync(file)) writeSecret(file, newNkeySeed());
  const members = names.map((name, index) => ({
    node: name,
    isObserver: watching.includes(name),
    nkey: publicNkey(files[index] ?? ""),
  }));
  const store = { bytesMax: broker.bytesMax, replicas: SHARED_REPLICAS };
  const head = [
    `From conntrail keys permissions, for cluster ${cluster}, into the configuration of each server:`,
    `accounts { include "conntrail-${cluster}.conf" }`,
    `Give each node the one key that is its own (${files.join(", ")}), and name it there: broker.login: { nkey: FILE }`,
  ];
  const accounts = sharedAccounts(cluster, members, store);
  await context.terminal.write(`${head.map((line) => `# ${line}\n`).join("")}${accounts}\n`);
}

async function create(options: MakeOptions, context: CommandContext): Promise<void> {
  const config = loadAnyConfig(context.configPath);
  const files = filesOf(config);
  const members = config.peers.map(({ node, address }) => ({ node, address, isObserver: false }));
  const how = { directory: dirname(config.path), nowMs: Date.now(), force: options.force === true };
  const bundles = createKeys(config, files, members, how);
  nameKeys(config);
  await print(context, { did: `made the keys of cluster ${config.cluster}`, bundles, daemon: "not asked" }, RESTART);
}

async function install(file: string, context: CommandContext): Promise<void> {
  const config = loadAnyConfig(context.configPath);
  const files = filesOf(config);
  const hadKeys = config.tls !== null;
  installBundle(files, readBundle(file), config);
  nameKeys(config);
  rmSync(file, { force: true });
  const daemon = hadKeys ? await rekey(context) : "not asked";
  const did = `installed the keys of ${config.node}, and removed ${file}`;
  await print(context, { did, bundles: [], daemon }, hadKeys ? "" : RESTART);
}

async function renew(node: string | undefined, options: MakeOptions, context: CommandContext): Promise<void> {
  const { config, files } = ground(context);
  const nowMs = Date.now();
  if (node === undefined || node === config.node) {
    const { untilMs } = renewOwn(config, files, nowMs, daysOf(options));
    const daemon = await rekey(context);
    return print(context, { did: `${config.node} has a new certificate until ${day(untilMs)}`, bundles: [], daemon });
  }
  const address = config.peers.find((peer) => peer.node === node)?.address;
  if (!readRoster(files.nodes).nodes.includes(node)) {
    throw new ConntrailError("USAGE", `${node} is not among the nodes: conntrail keys add-node ${node}=ADDRESS`);
  }
  const member = { node, address: address ?? config.listen, isObserver: address === undefined };
  const bundle = addNode(config, files, member, {
    path: outOf(options, node, config),
    nowMs,
    force: options.force === true,
  });
  if (bundle === null)
    throw new ConntrailError("CONFIG", "this node does not have the authority's key: do it on the node that has");
  await print(context, { did: `${node} has new keys`, bundles: [bundle], daemon: "not asked" }, installText([bundle]));
}

async function add(text: string, options: MakeOptions, context: CommandContext): Promise<void> {
  const { config, files } = ground(context);
  const member = memberOf(text, options, config);
  const how = { path: outOf(options, member.node, config), nowMs: Date.now(), force: options.force === true };
  const bundle = addNode(config, files, member, how);
  const daemon = await rekey(context);
  const others = config.peers.filter(({ node }) => node !== member.node).map(({ node }) => node);
  const more = others.length === 0 ? "" : `next, on ${others.join(", ")}: conntrail keys add-node ${member.node}\n`;
  const did = `${member.node} may connect here`;
  const bundles = bundle === null ? [] : [bundle];
  await print(context, { did, bundles, daemon }, `${initText(bundles)}${bundle === null ? "" : more}`);
}

async function revoke(name: string, context: CommandContext): Promise<void> {
  const { config, files } = ground(context);
  if (name === config.node) throw new ConntrailError("USAGE", `${name} is this node`);
  if (parseName(name) === undefined) throw new ConntrailError("USAGE", `${name} is no name of a node`);
  writeRoster(files.nodes, withoutNode(readRoster(files.nodes), name));
  const daemon = await rekey(context);
  const others = config.peers.map(({ node }) => node).filter((node) => node !== name);
  const more = others.length === 0 ? "" : `next, on ${others.join(", ")}: conntrail keys revoke ${name}\n`;
  await print(context, { did: `${name} may not connect here any more`, bundles: [], daemon }, more);
}

const RESTART = "next: give each other node its bundle (conntrail keys install FILE), and restart all daemons\n";

/** The configuration, and its keys, of which a list of nodes is one. */
function ground(context: CommandContext): { config: Config; files: KeyFiles } {
  const config = loadAnyConfig(context.configPath);
  if (config.tls === null || config.tls.nodes === null) {
    throw new ConntrailError("CONFIG", `${config.path}: names no keys that conntrail made: conntrail keys create`);
  }
  return { config, files: { ...config.tls, nodes: config.tls.nodes } };
}

/** Where the keys of a configuration are, or will be. */
function filesOf({ path, tls }: Config): KeyFiles {
  return tls === null || tls.nodes === null ? keyFolderOf(path) : { ...tls, nodes: tls.nodes };
}

/** Lets the configuration name its keys. A conntrackd.conf names none: keys beside it are used. */
function nameKeys({ path, tls }: Config): void {
  const text = readFileSync(path, "utf8");
  if (isConntrackdConf(text) || (tls !== null && tls.nodes !== null)) return;
  writeFileSync(`${path}.new`, withKeysLine(text, path), { mode: 0o644 });
  renameSync(`${path}.new`, path);
}

function memberOf(text: string, { observer }: MakeOptions, config: Config): Member {
  const [node = "", address] = text.split("=");
  if (parseName(node) === undefined) throw new ConntrailError("USAGE", `found "${node}", allowed is NAME=ADDRESS`);
  const known = config.peers.find((peer) => peer.node === node)?.address;
  const host = hostAddress(address ?? known ?? config.listen);
  if (host === undefined) throw new ConntrailError("USAGE", `found "${address}", allowed is the address of one host`);
  return { node, address: host, isObserver: observer === true };
}

function outOf({ out }: MakeOptions, node: string, config: Config): string {
  return out ?? join(dirname(config.path), `${node}.bundle`);
}

function daysOf({ days }: MakeOptions): number {
  const number = Number(days ?? NODE_DAYS);
  if (!Number.isInteger(number) || number < 1 || number > 3650) {
    throw new ConntrailError("USAGE", `--days: found "${days}", allowed is a whole number from 1 to 3650`);
  }
  return number;
}

/** Tells the daemon, if one runs, to read the keys again. Throws ConntrailError when it cannot use them. */
async function rekey(context: CommandContext): Promise<KeysReport["daemon"]> {
  if (!existsSync(await context.controlPath())) return "not running";
  try {
    await context.ask("rekey", {});
    return "reloaded";
  } catch (error) {
    if (error instanceof ConntrailError && error.code === "CONTROL") return "not running";
    throw error;
  }
}

function initText(bundles: readonly WrittenBundle[]): string {
  return bundles
    .map(({ node, path }) => `next: copy ${path} to ${node}, and there: conntrail init --bundle FILE\n`)
    .join("");
}

function installText(bundles: readonly WrittenBundle[]): string {
  return bundles
    .map(({ node, path }) => `next: copy ${path} to ${node}, and there: conntrail keys install FILE\n`)
    .join("");
}

async function print(context: CommandContext, report: KeysReport, next = ""): Promise<void> {
  await context.print(report, ({ did, bundles, daemon }) => {
    const wrote = bundles.map(({ path }) => `wrote ${path}\n`).join("");
    const told = daemon === "reloaded" ? "; the daemon has read the keys again" : "";
    return `${did}${told}\n${wrote}${next}`;
  });
}
