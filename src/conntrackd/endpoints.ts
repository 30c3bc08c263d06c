import { canonicalAddress, hostAddress } from "../config/address.js";
import { parseAddress } from "../flow/address.js";
import { effectOf } from "./leaf.js";
import { type Link, linksOf } from "./link.js";
import type { Machine } from "./machine.js";
import type { ConfProblem } from "./parser.js";
import { notNeeded, notSupported, type Outcome, type Remark, remarkOn, replaced, takenOver } from "./remark.js";
import type { Settings } from "./settings.js";
import type { ConfNode, ConfPlace } from "./tree.js";

/** The port of all examples, for links that name none. */
const PORT = 3780;

/** fe80::/10. The broker cannot listen there: the address means nothing without its interface. */
const LINK_LOCAL = /^fe[89ab]/i;

/** What became of the links, or what they lack. */
export interface EndpointsOutcome {
  readonly remarks: readonly Remark[];
  /** All mistakes, in the order of the file. */
  readonly problems: readonly ConfProblem[];
}

/** Sets this node's name, its address and its peers from the dedicated links of a file. */
export function setEndpoints(nodes: readonly ConfNode[], machine: Machine, settings: Settings): EndpointsOutcome {
  const endpoints = new Endpoints(machine, settings);
  const remarks = endpoints.set(nodes);
  return { remarks, problems: endpoints.problems };
}

/**
 * The node name for an address, the same on both ends of a link: `172-30-16-1`, `fd00--2`; for an IPv6 address that is
 * too long for a name, its 32 hexadecimal digits.
 */
export function nodeNameOf(address: string): string {
  const name = address.replaceAll(/[.:]/g, "-");
  if (/^[0-9a-f][0-9a-f-]{0,31}$/.test(name)) return name;
  const words = parseAddress(address)?.words ?? [];
  return [...words].map((word) => word.toString(16).padStart(8, "0")).join("");
}

class Endpoints {
  readonly problems: ConfProblem[] = [];
  readonly #machine: Machine;
  readonly #settings: Settings;
  readonly #remarks: Remark[] = [];

  constructor(machine: Machine, settings: Settings) {
    this.#machine = machine;
    this.#settings = settings;
  }

  set(nodes: readonly ConfNode[]): Remark[] {
    const { all, active } = linksOf(nodes);
    const [first] = all;
    if (active === null || first === undefined) {
      this.#noLink(nodes);
      return [];
    }
    const other = all.find(({ kind }) => kind !== first.kind);
    if (other !== undefined) {
      this.#report(other, `found ${other.kind} beside ${first.kind} (line ${first.line}), allowed is one of them`);
    }
    const [listen, origin] = this.#listen(active) ?? ["", ""];
    const siblings = all.filter((link) => link === active || hostAddress(link.local?.text) === listen);
    const settings = this.#settings;
    settings.set("cluster", "conntrackd", "every conntrackd.conf's; nodes are named by their addresses on the link");
    if (listen !== "") settings.set("node", nodeNameOf(listen), "");
    if (listen !== "") settings.set("listen", listen, origin);
    settings.set(
      "broker.port",
      portOf(active),
      active.port === null ? "" : `${portName(active)}, line ${active.port.line}`,
    );
    if (active.kind === "Multicast") this.#discover(active);
    else this.#peers(siblings, active, listen);
    for (const link of all) this.#remarkLink(link, active, siblings, listen);
    return this.#remarks;
  }

  #report({ line, column }: ConfPlace, text: string): void {
    this.problems.push({ line, column, text });
  }

  #noLink(nodes: readonly ConfNode[]): void {
    const place = nodes.find(({ name }) => name.text === "Sync")?.name ?? { line: 1, column: 1 };
    const allowed = "a Sync block with one of UDP, TCP and Multicast in it, or Stats alone";
    this.#report(place, `found no dedicated link, allowed is ${allowed}`);
  }

  /** The address of this node, and its origin in the file; null: it has none. */
  #listen(link: Link): readonly [address: string, origin: string] | null {
    const { local, device, family, kind } = link;
    const address = hostAddress(local?.text);
    if (local !== null && address !== undefined) {
      if (LINK_LOCAL.test(address)) this.#linkLocal(local);
      return [address, `${localName(link)}, line ${local.line}`];
    }
    const addresses = device === null ? [] : this.#machine.addressesOf(device.text);
    const found = hostAddress(addresses.find((each) => usable(each, family)));
    if (device !== null && found !== undefined) {
      return [found, `the address of ${device.text}, Interface in line ${device.line}`];
    }
    const on = device === null ? "" : `, and ${device.text} has none that could be used`;
    const wanted = `${localName(link)} with this node's address on the dedicated link`;
    const kinds =
      kind === "Multicast" && family === 6 ? `${wanted}, not link-local, or such an address on Interface` : wanted;
    this.#report(link, `found ${kind} without an address of this node${on}, allowed is ${kinds}`);
    return null;
  }

  #linkLocal({ text, line, column }: ConfPlace & { readonly text: string }): void {
    const allowed = "an address that is not link-local, such as fd00::1: give both ends of the link one";
    this.#report({ line, column }, `found ${text}, allowed is ${allowed}`);
  }

  #discover(link: Link): void {
    const { group, device, port } = link;
    if (group === null) {
      this.#report(link, "found Multicast without a group, allowed is IPv4_address or IPv6_address");
      return;
    }
    const settings = this.#settings;
    settings.set(
      "discover.group",
      canonicalAddress(group.text) ?? group.text,
      `the group of Multicast, line ${group.line}`,
    );
    settings.set(
      "discover.port",
      port === null ? PORT : Number(port.text),
      port === null ? "" : `Group, line ${port.line}`,
    );
    if (device !== null) settings.set("discover.interface", device.text, `Interface, line ${device.line}`);
  }

  #peers(links: readonly Link[], active: Link, listen: string): void {
    const peers = new Map<string, string>();
    const lines: number[] = [];
    let refused = false;
    for (const destination of links.flatMap(({ destinations }) => destinations)) {
      const address = hostAddress(destination.text);
      if (address === undefined) {
        this.#report(destination, `found ${destination.text}, allowed is the address of another node`);
        refused = true;
        continue;
      }
      if (LINK_LOCAL.test(address)) this.#linkLocal(destination);
      if (address === listen) continue;
      peers.set(nodeNameOf(address), address);
      lines.push(destination.line);
    }
    const name = `IPv${active.family}_Destination_Address`;
    if (peers.size === 0) {
      if (!refused)
        this.#report(active, `found ${active.kind} without another node, allowed is ${name} with its address`);
      return;
    }
    this.#settings.set("peers", peers, `${name}, line ${lines.join(", ")}`);
  }

  #remarkLink(link: Link, active: Link, siblings: readonly Link[], listen: string): void {
    if (!siblings.includes(link)) {
      const how = `conntrail uses one link, that of line ${active.line}; bond the interfaces for a second path`;
      this.#remarks.push(remarkOn(link.node, notSupported(`another link, left out with what is in it: ${how}`)));
      return;
    }
    if (link.kind === "Multicast" && link !== active) {
      const note = `the group of line ${active.line} finds the peers`;
      this.#remarks.push(remarkOn(link.node, notNeeded(`left out with what is in it: ${note}`)));
      return;
    }
    const port = link.port === null ? `; no ${portName(link)}: ${PORT}` : "";
    this.#remarks.push(remarkOn(link.node, replaced(`each node follows the others' streams over TCP${port}`)));
    for (const option of link.node.block ?? []) {
      this.#remarks.push(remarkOn(option, optionOf(option, link, active, listen)));
    }
  }
}

function usable(address: string, family: 4 | 6): boolean {
  return address.includes(":") === (family === 6) && hostAddress(address) !== undefined && !LINK_LOCAL.test(address);
}

function localName({ kind, family }: Link): string {
  return `IPv${family}_${kind === "Multicast" ? "interface" : "address"}`;
}

function portName({ kind }: Link): string {
  return kind === "Multicast" ? "Group" : "Port";
}

function portOf({ port }: Link): number {
  return port === null ? PORT : Number(port.text);
}

/** The outcome of a line in a link that is used. */
function optionOf(option: ConfNode, link: Link, active: Link, listen: string): Outcome {
  const { text: name } = option.name;
  const value = option.values[0];
  switch (name) {
    case "Port":
    case "Group":
      if (value !== link.port) return notNeeded(`line ${link.port?.line} says it again, and that holds`);
      if (portOf(link) !== portOf(active))
        return notSupported(`all nodes use one port, that of line ${active.port?.line}`);
      return takenOver("broker.port", `open TCP port ${portOf(link)} between the nodes in the ruleset`);
    case "Interface":
      if (value !== link.device) return notNeeded(`line ${link.device?.line} says it again, and that holds`);
      return link.kind === "Multicast" ? takenOver("discover.interface") : notNeeded("the addresses say it");
    case "IPv4_Destination_Address":
    case "IPv6_Destination_Address":
      if (value === undefined || !link.destinations.includes(value)) return otherFamily(link.family);
      return hostAddress(value.text) === listen
        ? notSupported("this node's own address, left out")
        : takenOver("peers");
    default:
      if (name.startsWith("IPv")) return addressOf(option, link);
      return effectOf(name, value?.text ?? "");
  }
}

function addressOf({ name, values }: ConfNode, { family, local, group }: Link): Outcome {
  if (!name.text.startsWith(`IPv${family}`)) return otherFamily(family);
  const word = values[0];
  if (word === group) return takenOver("discover.group", "peers are found by announcements to the group");
  if (word !== local) {
    const last = name.text.endsWith("interface") || group === null ? local : group;
    return notNeeded(`line ${last?.line} says it again, and that holds`);
  }
  return hostAddress(word?.text) === undefined
    ? notNeeded("no host's address: that of Interface is used")
    : takenOver("listen");
}

function otherFamily(family: 4 | 6): Outcome {
  return notSupported(`left out: a link has one family, here IPv${family} by its last address, as in conntrackd`);
}
