/** Keys of a whole cluster: the authority, this node's own, and bundles for the others. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Config, TlsConfig } from "../config/config.js";
import { ConntrailError } from "../errors.js";
import { issueCertificate, type KeyPair, makeAuthority, NODE_DAYS } from "./authority.js";
import { type Bundle, type BundleFacts, writeBundle } from "./bundle.js";
import { type CertificateFacts, certificateFacts } from "./certificate.js";
import { authorityKeyPath, readAuthority, writeAuthorityKey, writeKeys } from "./key-folder.js";
import { type Roster, readRoster, withNode, writeRoster } from "./roster.js";

/** The keys of a node that has a list of nodes. */
export type KeyFiles = TlsConfig & { readonly nodes: string };

/** Another node of the cluster. */
export interface Member {
  readonly node: string;
  readonly address: string;
  readonly isObserver: boolean;
}

/** A bundle that was written. */
export interface WrittenBundle {
  readonly node: string;
  readonly path: string;
}

/** What of a configuration the keys depend on. */
export type ClusterFacts = Pick<Config, "cluster" | "node" | "listen" | "peers" | "mode"> & {
  readonly broker: Pick<Config["broker"], "port">;
};

/**
 * Makes the authority, this node's own keys, and a bundle for each other node, into `directory`.
 * @throws ConntrailError CONFIG when there are keys already, CONTROL when openssl is missing or a file exists
 */
export function createKeys(
  facts: ClusterFacts,
  files: KeyFiles,
  members: readonly Member[],
  { directory, nowMs, force }: { directory: string; nowMs: number; force: boolean },
): WrittenBundle[] {
  if (existsSync(files.key) && !force) {
    throw new ConntrailError("CONFIG", `${files.key}: there are keys already: conntrail keys list shows them`);
  }
  const authority = makeAuthority(facts.cluster, nowMs);
  const nodes = [facts.node, ...members.map(({ node }) => node)];
  const roster: Roster = { nodes, revoked: [] };
  writeAuthorityKey(files, authority);
  const own = issueCertificate(authority, facts.node, nowMs);
  writeKeys(files, { ...own, ca: authority.cert }, roster);
  noteIssued(files, facts.node, own.cert);
  return members.map((member) => {
    const path = join(directory, `${member.node}.bundle`);
    writeBundle(path, issue(facts, files, { member, members, authority, roster, nowMs }), force);
    return { node: member.node, path };
  });
}

/**
 * Lets one more node in, and writes its bundle where the authority is. Null on another node: that only lets it in.
 * @throws ConntrailError CONFIG for a revoked name, CONTROL when openssl is missing or the bundle exists
 */
export function addNode(
  facts: ClusterFacts,
  files: KeyFiles,
  member: Member,
  { path, nowMs, force }: { path: string; nowMs: number; force: boolean },
): WrittenBundle | null {
  const roster = withNode(readRoster(files.nodes), member.node);
  if (!existsSync(authorityKeyPath(files))) {
    writeRoster(files.nodes, roster);
    return null;
  }
  const members = membersOf(facts, member);
  const authority = readAuthority(files);
  writeBundle(path, issue(facts, files, { member, members, authority, roster, nowMs }), force);
  writeRoster(files.nodes, roster);
  return { node: member.node, path };
}

/** A new certificate and key for this node. Throws ConntrailError CONFIG where the authority is not. */
export function renewOwn(facts: ClusterFacts, files: KeyFiles, nowMs: number, days = NODE_DAYS): CertificateFacts {
  const authority = readAuthority(files);
  const own = issueCertificate(authority, facts.node, nowMs, days);
  writeKeys(files, { ...own, ca: authority.cert }, readRoster(files.nodes));
  noteIssued(files, facts.node, own.cert);
  return certificateFacts(own.cert);
}

/** Puts a bundle's keys in their place. What the list of nodes has, stays. Throws ConntrailError CONFIG for another's. */
export function installBundle(files: KeyFiles, bundle: Bundle, owner: { cluster: string; node: string }): void {
  if (bundle.node !== owner.node || bundle.cluster !== owner.cluster) {
    const found = `the bundle is for ${bundle.node} of cluster ${bundle.cluster}`;
    throw new ConntrailError("CONFIG", `${found}, and this node is ${owner.node} of cluster ${owner.cluster}`);
  }
  const before = existsSync(files.nodes) ? readRoster(files.nodes) : { nodes: [], revoked: [] };
  const nodes = [...new Set([...before.nodes, ...bundle.nodes])].filter((node) => !before.revoked.includes(node));
  writeKeys(files, bundle, { nodes, revoked: before.revoked });
}

/** The last certificates that the authority here has issued, by node; empty on another node. */
export function issuedCertificates(files: KeyFiles): ReadonlyMap<string, CertificateFacts> {
  const directory = issuedDirectory(files);
  const names = existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith(".pem")) : [];
  return new Map(
    names.map((name) => [name.slice(0, -".pem".length), certificateFacts(readFileSync(join(directory, name), "utf8"))]),
  );
}

interface Issue {
  readonly member: Member;
  readonly members: readonly Member[];
  readonly authority: KeyPair;
  readonly roster: Roster;
  readonly nowMs: number;
}

function issue(facts: ClusterFacts, files: KeyFiles, { member, members, authority, roster, nowMs }: Issue): Bundle {
  const pair = issueCertificate(authority, member.node, nowMs);
  noteIssued(files, member.node, pair.cert);
  const peers = members.filter(({ node, isObserver }) => node !== member.node && !isObserver);
  const mode = linkedMode(facts.mode);
  const own = mode === "observer" ? [] : [[facts.node, facts.listen]];
  const described: BundleFacts = {
    cluster: facts.cluster,
    node: member.node,
    listen: member.address,
    mode: member.isObserver ? "observer" : mode,
    port: facts.broker.port,
    peers: Object.fromEntries([...own, ...peers.map(({ node, address }) => [node, address])]),
    nodes: roster.nodes,
  };
  return { ...described, ...pair, ca: authority.cert };
}

function linkedMode(mode: ClusterFacts["mode"]): BundleFacts["mode"] {
  if (mode !== "stats") return mode;
  throw new ConntrailError("CONFIG", "found mode stats, allowed is another mode: a node in mode stats has no link");
}

/** The nodes that a configuration knows, and one more. */
function membersOf(facts: ClusterFacts, more: Member): Member[] {
  const others = facts.peers.filter(({ node }) => node !== more.node);
  return [...others.map(({ node, address }) => ({ node, address, isObserver: false })), more];
}

function noteIssued(files: KeyFiles, node: string, cert: string): void {
  mkdirSync(issuedDirectory(files), { recursive: true, mode: 0o755 });
  writeFileSync(join(issuedDirectory(files), `${node}.pem`), cert, { mode: 0o644 });
}

function issuedDirectory(files: KeyFiles): string {
  return join(dirname(files.ca), "issued");
}
