/**
 * An expectation: a connection that a helper (FTP, SIP …) has found announced in another one, and that the kernel lets
 * through when it comes. Expectations are few and live for minutes, so they are plain objects. Tuples are in record
 * layout (record.ts: words 0-7, 16, 18 and 19), which is also that of RareAttributes.master.
 *
 * Text forms, byte for byte those that operators' scripts parse:
 *
 *   formatExpectation       a line of `conntrackd -i expect` and `conntrackd -e expect`
 *   formatExpectationXml    a line of `conntrackd -i expect -x` and `conntrackd -e expect -x`
 *   formatExpectationTool   a line of `conntrack -L expect`
 *
 * Sources: struct nf_conntrack_expect in nf_conntrack_expect.h, enum ctattr_expect in nfnetlink_conntrack.h.
 */

import { formatAddress } from "./address.js";
import { type FlowMaster, type FlowTuple, flowFromRecord, recordFromFlow } from "./flow.js";
import { addressesXml, escapeXml, layer3Xml, layer4Xml, portsText, portsXml } from "./format.js";
import { plainText } from "./plain-text.js";
import { AF_INET6, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_ZONE } from "./record.js";
import { familyOf, protocolOf, zoneReplyOf, zoneWord } from "./record-fields.js";

/** It stays after its connection has come (SIP registrations). */
export const NF_CT_EXPECT_PERMANENT = 0x1;
/** It matches nothing until its helper activates it. */
export const NF_CT_EXPECT_INACTIVE = 0x2;
/** Made by a helper in userspace; the kernel accepts this flag from nobody else. */
export const NF_CT_EXPECT_USERSPACE = 0x4;

/** One expectation as the kernel reports it. */
export interface Expectation {
  /** The original tuple of the connection that is expected; its zone is the master's. */
  tuple: Uint32Array;
  /** Which bits of `tuple` count; the kernel itself looks at the source only and shows the destination as all ones. */
  mask: Uint32Array;
  /** The original tuple of the flow whose helper expects it. */
  master: Uint32Array;
  /** How long the kernel still waits for the connection. */
  timeoutSeconds: number;
  /** NF_CT_EXPECT_*. */
  flags: number;
  /** What the helper expects it as: SIP has signalling, audio, video and image, others have 0 only. */
  class: number;
  /** The master's helper. */
  helper?: string;
  /** The function that sets the connection up, by name; `nat-follow-master` for most that are translated. */
  fn?: string;
  /** CTA_EXPECT_ID: this kernel's own name for it. */
  id?: number;
  /** CTA_EXPECT_NAT: where the connection is translated to, as the helper read it before it rewrote the packet. */
  nat?: ExpectationNat;
}

/**
 * The address (0 where it is the master's) and port of `tuple`'s source, and the master's direction that it belongs
 * to.
 */
export interface ExpectationNat {
  /** IP_CT_DIR_ORIGINAL 0, IP_CT_DIR_REPLY 1. */
  direction: number;
  tuple: Uint32Array;
}

/** Longest name of a helper (NF_CT_HELPER_NAME_LEN without its NUL). */
export const HELPER_NAME_MAX = 15;
/** True for a name that a helper may have: letters, digits and `._-`, a letter or digit first. */
export function isHelperName(text: string): boolean {
  return text.length <= HELPER_NAME_MAX && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(text);
}

/** Longest name of an expectation function that is carried; the kernel's own are shorter. */
export const EXPECT_FN_MAX = 31;

/**
 * Identifies an expectation: the kernel holds no two of the same tuple, mask and zone (expect_clash in
 * nf_conntrack_expect.c).
 */
export function expectationKey({ tuple, mask }: Expectation): string {
  const words = [tuple[W_PROTO]!, tuple[W_ZONE]!, tuple[W_ORIG_L4]!, mask[W_ORIG_L4]!];
  const width = familyOf(tuple, 0) === AF_INET6 ? 4 : 1;
  for (let i = 0; i < width; i++) {
    words.push(tuple[W_ORIG_SRC + i]!, tuple[W_ORIG_DST + i]!, mask[W_ORIG_SRC + i]!, mask[W_ORIG_DST + i]!);
  }
  return words.map((word) => word.toString(36)).join(".");
}

/**
 * Sets the zone of an expectation and its master. The kernel does not report it: it is the zone of the master flow.
 */
export function setExpectationZone(expectation: Expectation, zone: number): void {
  const both = zoneWord(zone, zone);
  for (const tuple of [expectation.tuple, expectation.mask, expectation.master]) tuple[W_ZONE] = both;
}

/**
 * One line of `conntrackd -i expect` or `-e expect`, without the line feed. `activeSeconds`: how long it has been in
 * the cache.
 */
export function formatExpectation(expectation: Expectation, activeSeconds: number, expiresSeconds?: number): string {
  const expiry = expiresSeconds === undefined ? "" : `[expires in ${expiresSeconds}s] `;
  return `${expectationLine(expectation)} ${expiry}[active since ${activeSeconds}s]`;
}

/** One line of `conntrack -L expect`, without the line feed. */
export function formatExpectationTool(expectation: Expectation): string {
  return `${expectation.timeoutSeconds} ${expectationLine(expectation)}`;
}

function expectationLine(expectation: Expectation): string {
  const { tuple, mask, master, flags, helper } = expectation;
  const text =
    `proto=${protocolOf(tuple, 0)} ${tupleText(tuple, "")}` +
    `${tupleText(mask, "mask-")}${tupleText(master, "master-")}`;
  const zone = zoneReplyOf(tuple, 0);
  const parts = [flagNames(flags).join(","), `class=${expectation.class}`];
  if (zone !== 0) parts.unshift(`zone=${zone}`);
  if (helper !== undefined) parts.push(`helper=${plainText(helper)}`);
  return text + parts.filter((part) => part !== "").join(" ");
}

function tupleText(words: Uint32Array, prefix: string): string {
  const family = familyOf(words, 0);
  const protocol = protocolOf(words, 0);
  const addresses = `${prefix}src=${formatAddress(words, W_ORIG_SRC, family)} ${prefix}dst=${formatAddress(words, W_ORIG_DST, family)} `;
  return addresses + portsText(words[W_ORIG_L4]!, protocol);
}

function flagNames(flags: number): string[] {
  const names: string[] = [];
  if (flags & NF_CT_EXPECT_PERMANENT) names.push("PERMANENT");
  if (flags & NF_CT_EXPECT_INACTIVE) names.push("INACTIVE");
  if (flags & NF_CT_EXPECT_USERSPACE) names.push("USERSPACE");
  return names;
}

/** One `<flow>…</flow>` of `conntrackd -i expect -x`, without the line feed; `timeout` only of a kernel's table. */
export function formatExpectationXml(expectation: Expectation, options: { timeout: boolean }): string {
  const { tuple, mask, master, flags, helper } = expectation;
  const family = familyOf(tuple, 0);
  const protocol = protocolOf(tuple, 0);
  const parts = [
    ["expected", tuple],
    ["mask", mask],
    ["master", master],
  ] as const;
  const layer3 = parts.map(
    ([name, words]) => `<${name}>${addressesXml(words, W_ORIG_SRC, W_ORIG_DST, family)}</${name}>`,
  );
  const layer4 = parts.map(([name, words]) => `<${name}>${portsXml(words[W_ORIG_L4]!, protocol)}</${name}>`);
  const zone = zoneReplyOf(tuple, 0);
  let meta = "";
  if (helper !== undefined) meta += `<helper-name>${escapeXml(helper)}</helper-name>`;
  if (options.timeout) meta += `<timeout>${expectation.timeoutSeconds}</timeout>`;
  meta += `<class>${expectation.class}</class>`;
  if (zone !== 0) meta += `<zone>${zone}</zone>`;
  for (const name of flagNames(flags)) meta += `<${name.toLowerCase()}/>`;
  return `<flow>${layer3Xml(family, layer3.join(""))}${layer4Xml(protocol, layer4.join(""))}<meta>${meta}</meta></flow>`;
}

/**
 * The object form, what `dump --expect --json` prints. The shape is a contract, as Flow's is.
 *
 *   {
 *     "family": "ipv4", "protocol": "tcp",
 *     "tuple": { "src": "198.51.100.7", "dst": "203.0.113.1", "sport": 0, "dport": 51210 },
 *     "mask": { "src": "255.255.255.255", "dst": "255.255.255.255", "sport": 0, "dport": 65535 },
 *     "master": { "family": "ipv4", "protocol": "tcp", "src": "10.0.0.12", "dst": "198.51.100.7", "sport": 40000, "dport": 21 },
 *     "nat": { "direction": "reply", "tuple": { "src": "0.0.0.0", "dst": "0.0.0.0", "sport": 51210, "dport": 0 } },
 *     "timeoutSeconds": 300, "class": 0, "helper": "ftp", "fn": "nat-follow-master", "id": 959964812
 *   }
 */
export interface ExpectationJson {
  family: "ipv4" | "ipv6";
  protocol: string;
  tuple: FlowTuple;
  mask: FlowTuple;
  master: FlowMaster;
  nat?: { direction: "original" | "reply"; tuple: FlowTuple };
  timeoutSeconds: number;
  zone?: number;
  /** Names of NF_CT_EXPECT_* without the prefix; left out when none is set. */
  flags?: string[];
  class: number;
  helper?: string;
  fn?: string;
  id?: number;
}

/** The object form of an expectation. */
export function expectationToJson(expectation: Expectation): ExpectationJson {
  const { family, protocol, orig, zone } = flowFromRecord(expectation.tuple, 0, null);
  const master = flowFromRecord(expectation.master, 0, null);
  const json: ExpectationJson = {
    family,
    protocol,
    tuple: orig,
    mask: flowFromRecord(expectation.mask, 0, null).orig,
    master: { family: master.family, protocol: master.protocol, ...master.orig },
    timeoutSeconds: expectation.timeoutSeconds,
    class: expectation.class,
  };
  if (zone !== undefined) json.zone = zone;
  if (expectation.nat !== undefined) {
    const { direction, tuple } = expectation.nat;
    json.nat = { direction: direction === 0 ? "original" : "reply", tuple: flowFromRecord(tuple, 0, null).orig };
  }
  const flags = flagNames(expectation.flags);
  if (flags.length > 0) json.flags = flags;
  if (expectation.helper !== undefined) json.helper = expectation.helper;
  if (expectation.fn !== undefined) json.fn = expectation.fn;
  if (expectation.id !== undefined) json.id = expectation.id;
  return json;
}

/** The inverse of `expectationToJson`. Throws MALFORMED for an address or protocol that cannot be read. */
export function expectationFromJson(json: ExpectationJson): Expectation {
  const { family, protocol } = json;
  const words = (orig: FlowTuple, over: string = protocol): Uint32Array =>
    recordFromFlow({ family, protocol: over, orig, ...(json.zone === undefined ? {} : { zone: json.zone }) }).words;
  const expectation: Expectation = {
    tuple: words(json.tuple),
    mask: words(json.mask),
    master: words(json.master, json.master.protocol),
    timeoutSeconds: json.timeoutSeconds,
    flags: flagBits(json.flags ?? []),
    class: json.class,
  };
  if (json.nat !== undefined) {
    const tuple = words(json.nat.tuple, json.master.protocol);
    tuple[W_ZONE] = 0;
    expectation.nat = { direction: json.nat.direction === "original" ? 0 : 1, tuple };
  }
  if (json.helper !== undefined) expectation.helper = json.helper;
  if (json.fn !== undefined) expectation.fn = json.fn;
  if (json.id !== undefined) expectation.id = json.id;
  return expectation;
}

function flagBits(names: readonly string[]): number {
  let flags = 0;
  if (names.includes("PERMANENT")) flags |= NF_CT_EXPECT_PERMANENT;
  if (names.includes("INACTIVE")) flags |= NF_CT_EXPECT_INACTIVE;
  if (names.includes("USERSPACE")) flags |= NF_CT_EXPECT_USERSPACE;
  return flags;
}
