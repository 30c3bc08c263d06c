import { BlockList } from "node:net";
import { canonicalAddress, hostAddress, isLinkLocal } from "../config/address.js";
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
  /** Addresses of Interface beside the one that was chosen, which the other nodes could as well mean. */
  #others: readonly string[] = [];

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
    if (listen !== "") settings.set("listen", scoped(listen, active), origin);
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
      if (isLinkLocal(address)) this.#checkLinkLocal(local, link);
      return [address, `${localName(link)}, line ${local.line}`];
    }
    const found = this.#ofInterface(link);
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

  /**
   * The address of a link that names only its interface. Of several, one in the network of another node, and of those
   * the first: conntrackd listens on all of them.
   */
  #ofInterface({ device, family, kind, destinations }: Link): string | undefined {
    const all = device === null ? [] : this.#machine.addressesOf(device.text);
    const own = all.filter((each) => each.includes(":") === (family === 6) && hostAddress(plain(each)) !== undefined);
    const routed = own.filter((each) => !isLinkLocal(each.toLowerCase()));
    const usable = routed.length > 0 || kind === "Multicast" ? routed : own;
    const near = usable.filter((each) => destinations.some(({ text }) => holds(each, text)));
    const [first, ...others] = near.length > 0 ? near : usable;
    this.#others = others.map(plain);
    return first === undefined ? undefined : hostAddress(plain(first));
  }

  /** A link-local address means nothing without its interface, and nothing to those who hear it announced. */
  #checkLinkLocal({ text, line, column }: ConfPlace & { readonly text: string }, { kind, device }: Link): void {
    if (kind !== "Multicast" && device !== null) return;
    const allowed = "an address that is not link-local, such as fd00::1: give both ends of the link one";
    const hint = kind === "Multicast" ? "" : ", or Interface beside it";
    this.#report({ line, column }, `found ${text}, allowed is ${allowed}${hint}`);
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
    // A link to oneself, as in packages' tests, is a node without peers.
    let isNamed = false;
    for (const [destination, link] of links.flatMap((link) => link.destinations.map((each) => [each, link] as const))) {
      const address = hostAddress(destination.text);
      if (address === undefined) {
        this.#report(destination, `found ${destination.text}, allowed is the address of another node`);
        isNamed = true;
        continue;
      }
      if (isLinkLocal(address)) this.#checkLinkLocal(destination, link);
      isNamed = true;
      if (address === listen) continue;
      peers.set(nodeNameOf(address), scoped(address, link));
      lines.push(destination.line);
    }
    const name = `IPv${active.family}_Destination_Address`;
    if (peers.size === 0) {
      if (!isNamed)
        this.#report(active, `found ${active.kind} without another node, allowed is ${name} with its address`);
      return;
    }
    this.#settings.set("peers", peers, `${name}, line ${lines.join(", ")}`);
  }

  #ambiguous(link: Link, listen: string): Outcome {
    const others = this.#others.join(", ");
    const how = `the other nodes must name ${listen}, or ${localName(link)} must say which`;
    return notSupported(`listening on all of them: ${link.device?.text} has ${others} too; ${how}`);
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
      const isAmbiguous = option.name.text === "Interface" && link === active && this.#others.length > 0;
      const outcome = isAmbiguous ? this.#ambiguous(link, listen) : optionOf(option, link, active, listen);
      this.#remarks.push(remarkOn(option, outcome));
    }
  }
}

/** `10.0.0.7` of `10.0.0.7/24`. */
function plain(address: string): string {
  return address.replace(/\/.*/, "");
}

/** True when the network of an address with its prefix holds the other address. */
function holds(withPrefix: string, other: string): boolean {
  const [address = "", prefix = ""] = withPrefix.split("/");
  const family = address.includes(":") ? "ipv6" : "ipv4";
  if (prefix === "" || other.includes(":") !== (family === "ipv6")) return false;
  const network = new BlockList();
  network.addSubnet(address, Number(prefix), family);
  return network.check(other, family);
}

/** A link-local address with the interface of its link. */
function scoped(address: string, { device }: Link): string {
  return isLinkLocal(address) && device !== null ? `${address}%${device.text}` : address;
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
