import { canonicalNetwork } from "../config/address.js";
import { IPPROTO_TCP, protocolText, stateName, stateNumber } from "../flow/protocol.js";
import type { Machine } from "./machine.js";
import { notNeeded, notSupported, type Outcome, type Remark, remarkOn, takenOver } from "./remark.js";
import type { Key, Settings } from "./settings.js";
import type { ConfNode } from "./tree.js";

/** The kinds of filter blocks. */
export type FilterKind = "protocols" | "addresses" | "states";

const KEYS: Readonly<Record<FilterKind, readonly [accept: Key, ignore: Key]>> = {
  protocols: ["filter.protocols", "filter.protocols_ignore"],
  addresses: ["filter.accept", "filter.ignore"],
  states: ["filter.states", "filter.states_ignore"],
};

interface FilterBlock {
  readonly node: ConfNode;
  readonly accept: boolean;
  readonly values: readonly string[];
  readonly note: string;
}

/**
 * The filter of a file. conntrackd has one list of each kind: blocks add to it, and the policy of the last block,
 * Accept or Ignore, applies to the whole list.
 */
export class FilterLists {
  readonly remarks: Remark[] = [];
  readonly #machine: Machine;
  readonly #blocks: Record<FilterKind, FilterBlock[]> = { protocols: [], addresses: [], states: [] };

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** Adds a block with its policy and words; `note` goes into its remark. */
  add(kind: FilterKind, node: ConfNode, accept: boolean, entries: readonly ConfNode[], note = ""): void {
    const values = entries.flatMap((entry) => {
      const value = this.#valueOf(kind, entry);
      if (value === undefined) this.remarks.push(remarkOn(entry, notSupported(`left out: ${REFUSED[kind]}`)));
      return value ?? [];
    });
    this.#blocks[kind].push({ node, accept, values, note });
  }

  /** Sets the keys, and adds a remark on each block. */
  finish(settings: Settings): void {
    for (const kind of ["protocols", "addresses", "states"] as const) {
      const blocks = this.#blocks[kind];
      const last = blocks.at(-1);
      if (last === undefined) continue;
      const key = KEYS[kind][last.accept ? 0 : 1];
      const values = [...new Set(blocks.flatMap((block) => block.values))];
      if (values.length > 0) settings.set(key, values, origins(blocks));
      for (const block of blocks) this.remarks.push(remarkOn(block.node, outcomeOf(block, last, key, values.length)));
    }
  }

  #valueOf(kind: FilterKind, { name, values }: ConfNode): string | undefined {
    switch (kind) {
      case "protocols": {
        const number = this.#machine.protocolNumber(name.text);
        return number === undefined ? undefined : protocolText(number);
      }
      case "addresses": {
        const network = canonicalNetwork(values[0]?.text);
        return network?.includes(":") === name.text.startsWith("IPv6") ? network : undefined;
      }
      case "states": {
        const number = stateNumber(IPPROTO_TCP, name.text === "CLOSED" ? "CLOSE" : name.text);
        return number === undefined ? undefined : stateName(IPPROTO_TCP, number);
      }
    }
  }
}

const REFUSED: Readonly<Record<FilterKind, string>> = {
  protocols: "no protocol of this name in /etc/protocols; conntrackd leaves it out too",
  addresses: "no address or network of this family; conntrackd leaves it out too",
  states: "no such state of TCP",
};

function origins(blocks: readonly FilterBlock[]): string {
  return blocks.map(({ node }) => origin(node)).join("; ");
}

/** `Address Ignore, line 44`. */
export function origin({ name, values }: ConfNode): string {
  const policy = values[0]?.text;
  return `${name.text}${policy === "Accept" || policy === "Ignore" ? ` ${policy}` : ""}, line ${name.line}`;
}

function outcomeOf(block: FilterBlock, last: FilterBlock, key: Key, count: number): Outcome {
  if (count === 0) {
    return block.accept
      ? notSupported("an empty list lets nothing pass in conntrackd; here it is left out, and all pass")
      : notNeeded("an empty list");
  }
  const notes = [block.note];
  if (block.accept !== last.accept) {
    notes.push(`${last.accept ? "Accept" : "Ignore"} in line ${last.node.name.line} holds for all, as in conntrackd`);
  }
  return takenOver(key, notes.filter((note) => note !== "").join("; "));
}
