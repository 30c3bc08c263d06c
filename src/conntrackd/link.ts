import { type ConfNode, type ConfPlace, type ConfWord, directivesAt } from "./tree.js";

/** A block `UDP`, `TCP` or `Multicast`: a dedicated link. */
export interface Link extends ConfPlace {
  readonly kind: "UDP" | "TCP" | "Multicast";
  readonly node: ConfNode;
  readonly isDefault: boolean;
  /** IPv4 or IPv6: the family of the last address in the block, as in conntrackd. */
  readonly family: 4 | 6;
  /** This node's address; in a Multicast block, that of the interface. Null: the block names none. */
  readonly local: ConfWord | null;
  /** The other nodes. */
  readonly destinations: readonly ConfWord[];
  /** Of a Multicast block. */
  readonly group: ConfWord | null;
  /** `Port` or `Group`. */
  readonly port: ConfWord | null;
  readonly device: ConfWord | null;
}

/** The dedicated links of a file. */
export interface Links {
  readonly all: readonly Link[];
  /** The last link with Default, else the first, as in conntrackd; null: there is none. */
  readonly active: Link | null;
}

/** Reads the blocks of the links. */
export function linksOf(nodes: readonly ConfNode[]): Links {
  const blocks = directivesAt(nodes, ["Sync"]).flatMap(({ block }) => block ?? []);
  const all = blocks.flatMap((node) => {
    const kind = node.name.text;
    return kind === "UDP" || kind === "TCP" || kind === "Multicast" ? [linkOf(kind, node)] : [];
  });
  return { all, active: all.findLast((link) => link.isDefault) ?? all[0] ?? null };
}

function linkOf(kind: Link["kind"], node: ConfNode): Link {
  const options = node.block ?? [];
  const valuesOf = (name: string): ConfWord[] => directivesAt(options, [name]).flatMap(({ values }) => values);
  const last = (name: string): ConfWord | null => valuesOf(name).at(-1) ?? null;
  const address = options.findLast(({ name }) => /^IPv[46]_(address|Destination_Address)$/.test(name.text));
  const family = address?.name.text.startsWith("IPv6") ? 6 : 4;
  const multicast = kind === "Multicast";
  return {
    kind,
    node,
    line: node.name.line,
    column: node.name.column,
    isDefault: node.values.length > 0,
    family,
    local: last(multicast ? `IPv${family}_interface` : `IPv${family}_address`),
    destinations: multicast ? [] : valuesOf(`IPv${family}_Destination_Address`),
    group: multicast ? last(`IPv${family}_address`) : null,
    port: last(multicast ? "Group" : "Port"),
    device: last("Interface"),
  };
}
