import assert from "node:assert/strict";
import { refusal } from "../config/problem.js";
import { parseSize } from "../config/units.js";
import { ConntrailError } from "../errors.js";
import { isHelperName } from "../flow/expectation.js";
import type { ConntrackdConf } from "./conf.js";
import { setEndpoints } from "./endpoints.js";
import { FilterLists, origin } from "./filter-lists.js";
import { helperRemarks } from "./helper-block.js";
import { type Effect, effectOf, statsEffectOf } from "./leaf.js";
import { type Machine, THIS_MACHINE } from "./machine.js";
import type { ConfProblem } from "./parser.js";
import { notNeeded, notSupported, type Outcome, type Remark, remarkOn, replaced, takenOver } from "./remark.js";
import { type Key, Settings, sizeText } from "./settings.js";
import { isStatsAlone } from "./shape.js";
import { storeOf } from "./store.js";
import { type ConfNode, directivesAt, errorAt } from "./tree.js";

/** A conntrackd.conf as conntrail's own configuration. */
export interface Translation {
  /** conntrail's configuration file, with comments. It always passes its check. */
  readonly yaml: string;
  /** The outcome of each directive, in the order of the file; a block that is left out has one remark. */
  readonly remarks: readonly Remark[];
  /** `Interface` of the active dedicated link; null: it names none. */
  readonly device: string | null;
}

/** Either a translation or all mistakes that the grammar does not see. */
export type TranslationCheck =
  | { readonly ok: true; readonly translation: Translation }
  | { readonly ok: false; readonly problems: readonly ConfProblem[] };

/** Translates every directive. Throws ConntrailError CONFIG with the first mistake. */
export function translate(conf: ConntrackdConf, machine: Machine = THIS_MACHINE): Translation {
  const check = checkTranslation(conf, machine);
  if (check.ok) return check.translation;
  const [first] = check.problems;
  assert.ok(first !== undefined, "a file that is refused has a problem");
  throw errorAt(conf.path, first, first.text);
}

/** Translates every directive, and returns all mistakes instead of throwing the first. */
export function checkTranslation(conf: ConntrackdConf, machine: Machine = THIS_MACHINE): TranslationCheck {
  return new Translator(conf, machine).translate();
}

const MIB = 1024 ** 2;

class Translator {
  readonly #conf: ConntrackdConf;
  readonly #machine: Machine;
  readonly #settings = new Settings();
  readonly #filter: FilterLists;
  readonly #remarks: Remark[] = [];
  /** For each key, the index of the remark on the directive that set it last. */
  readonly #setBy = new Map<Key, number>();

  constructor(conf: ConntrackdConf, machine: Machine) {
    this.#conf = conf;
    this.#machine = machine;
    this.#filter = new FilterLists(machine);
  }

  translate(): TranslationCheck {
    const { nodes, path, device, unixPath, lockFile } = this.#conf;
    const settings = this.#settings;
    const isAlone = isStatsAlone(nodes);
    settings.set("mode", isAlone ? "stats" : "cache", isAlone ? "Stats without Sync" : "conntrackd's default");
    settings.set("lock", lockFile, "conntrackd's default");
    if (!isAlone) settings.set("expectations", false, "conntrackd's default");
    if (!isAlone) settings.set("tls", false, "conntrackd's link has no keys");
    settings.set("log.level", "info", "");
    for (const node of nodes) this.#top(node);
    // Clients look there, also when they have read no more than the path.
    if (settings.get("control") !== unixPath) settings.set("control", unixPath, "that of conntrackd's examples");
    this.#filter.finish(settings);
    this.#finishBuffers();
    this.#finishInject();
    if (!isAlone) this.#setStore();
    const none = { remarks: [], problems: [] };
    const endpoints = isAlone ? none : setEndpoints(nodes, this.#machine, settings);
    if (endpoints.problems.length > 0) return { ok: false, problems: endpoints.problems };
    const remarks = [...this.#remarks, ...this.#filter.remarks, ...endpoints.remarks];
    remarks.sort((a, b) => a.line - b.line || a.column - b.column);
    return { ok: true, translation: { yaml: settings.yaml(path), remarks, device } };
  }

  #setStore(): void {
    const { store } = this.#machine;
    if (store !== undefined && store !== "") {
      if (!/^\/[^\0\n]*[^\0\n/]$/.test(store)) {
        throw new ConntrailError("CONFIG", `CONNTRAIL_STORE: ${refusal(store, "an absolute path")}`);
      }
      this.#settings.set("broker.store", store, "CONNTRAIL_STORE");
      return;
    }
    const own = storeOf(this.#conf);
    if (own !== null) this.#settings.set("broker.store", own, "follows from Path and LockFile");
  }

  #say(node: ConfNode, outcome: Outcome): void {
    this.#remarks.push(remarkOn(node, outcome));
  }

  #top(node: ConfNode): void {
    const children = node.block ?? [];
    switch (node.name.text) {
      case "Sync":
        for (const child of children) this.#sync(child);
        break;
      case "General":
        for (const child of children) this.#general(child);
        break;
      case "Stats":
        this.#say(node, takenOver(null, "ended flows are logged as conntrackd does"));
        for (const child of children) this.#apply(child, statsEffectOf(child.name.text, child.values[0]?.text ?? ""));
        break;
      case "Helper":
        this.#remarks.push(...helperRemarks(children));
        break;
      case "IgnoreTrafficFor":
        this.#filter.add("addresses", node, false, children, "an older name of Filter { Address Ignore }");
        break;
      case "IgnoreProtocol":
        this.#filter.add("protocols", node, false, children, "an older name of Filter { Protocol Ignore }");
        break;
      default:
        this.#leaf(node);
    }
  }

  #sync(node: ConfNode): void {
    switch (node.name.text) {
      case "Mode":
        this.#say(node, replaced("the broker's streams: in order, on disk, read again after any loss"));
        for (const child of node.block ?? []) this.#leaf(child);
        break;
      case "Options":
        for (const child of node.block ?? []) {
          if (child.block === null) this.#leaf(child);
          else this.#helpers(child, child.block);
        }
        break;
      case "UDP":
      case "TCP":
      case "Multicast":
        break;
      case "Replicate": {
        const states = node.values.map((name) => ({ name, values: [], block: null }));
        const before = { name: node.name, values: [], block: null };
        this.#filter.add("states", before, true, states, "an older name of Filter { State Accept }");
        break;
      }
      default:
        this.#leaf(node);
    }
  }

  #general(node: ConfNode): void {
    switch (node.name.text) {
      case "UNIX":
        for (const child of node.block ?? []) this.#leaf(child);
        break;
      case "Filter": {
        const where = node.values.at(-1)?.text === "Kernelspace" ? "kernelspace" : "userspace";
        this.#set(node, "filter.where", where, takenOver("filter.where"));
        for (const child of node.block ?? []) {
          const kind = ({ Protocol: "protocols", Address: "addresses", State: "states" } as const)[child.name.text];
          if (kind !== undefined) this.#filter.add(kind, child, child.values[0]?.text === "Accept", child.block ?? []);
        }
        break;
      }
      case "Scheduler":
        this.#scheduler(node, node.block ?? []);
        break;
      default:
        this.#leaf(node);
    }
  }

  /** conntrackd takes the highest priority of RR where the file names no type, and none where it names no priority. */
  #scheduler(node: ConfNode, options: readonly ConfNode[]): void {
    const types = directivesAt(options, ["Type"]);
    if (types.length === 0) {
      this.#say(node, notSupported("left out: without Type it names no policy"));
      return;
    }
    for (const each of types) {
      this.#set(each, "scheduler.policy", each.values[0]?.text.toLowerCase() ?? "", takenOver("scheduler.policy"));
    }
    this.#settings.set("scheduler.priority", 1, "the least");
    for (const each of directivesAt(options, ["Priority"])) this.#leaf(each);
  }

  #leaf(node: ConfNode): void {
    this.#apply(node, effectOf(node.name.text, node.values[0]?.text ?? ""));
  }

  #apply(node: ConfNode, effect: Effect): void {
    const { verdict, key, note } = effect;
    if (effect.sets === undefined) this.#say(node, { verdict, key, note });
    else this.#set(node, effect.sets[0], effect.sets[1], { verdict, key, note });
  }

  /** Sets a key. An earlier directive for the key has no effect then. */
  #set(node: ConfNode, key: Key, value: Parameters<Settings["set"]>[1] | null, outcome: Outcome): void {
    const before = this.#setBy.get(key);
    if (before !== undefined) {
      this.#revise(before, notNeeded(`line ${node.name.line} says it again, and that holds`));
    }
    this.#setBy.set(key, this.#remarks.length);
    if (value === null) this.#settings.unset(key);
    else this.#settings.set(key, value, origin(node));
    this.#say(node, outcome);
  }

  #helpers(node: ConfNode, list: readonly ConfNode[]): void {
    const names = list.filter(({ name }) => isHelperName(name.text));
    for (const word of list)
      if (!names.includes(word)) this.#say(word, notSupported("left out: no helper has such a name"));
    const all = list.length === 0;
    if (all || names.length > 0) {
      const value = all ? true : [...new Set(names.map(({ name }) => name.text))];
      this.#set(node, "expectations", value, takenOver("expectations", all ? "an empty list: of all helpers" : ""));
    } else {
      this.#say(node, notSupported("no helper in the list is left"));
    }
  }

  /** Reconciles the buffer with its maximum: either may be missing, and conntrackd accepts them in any order. */
  #finishBuffers(): void {
    const settings = this.#settings;
    const size = parseSize(settings.get("netlink.buffer"));
    const max = parseSize(settings.get("netlink.buffer_max"));
    if (size !== undefined && (max ?? 64 * MIB) < size) {
      settings.set("netlink.buffer_max", sizeText(size), "no less than netlink.buffer");
      const at = this.#setBy.get("netlink.buffer_max");
      if (max !== undefined && at !== undefined) {
        this.#revise(at, takenOver("netlink.buffer_max", "less than the buffer, which will not grow"));
      }
    }
    if (size === undefined && max !== undefined && max < 2 * MIB) {
      settings.set("netlink.buffer", sizeText(max), "no more than netlink.buffer_max");
    }
  }

  /** Removes what has no meaning, or is not supported, in mode `inject`. */
  #finishInject(): void {
    const settings = this.#settings;
    if (settings.get("mode") !== "inject") return;
    const commit = this.#setBy.get("commit.timeout");
    if (commit !== undefined) {
      settings.unset("commit.timeout");
      this.#revise(commit, notNeeded("beside DisableExternalCache, conntrackd ignores it too"));
    }
    const expectations = this.#setBy.get("expectations");
    if (expectations !== undefined && settings.get("expectations") !== false) {
      settings.set("expectations", false, "mode inject has none");
      this.#revise(expectations, notSupported("beside DisableExternalCache: expectations are not injected"));
    }
  }

  #revise(index: number, outcome: Outcome): void {
    const remark = this.#remarks[index];
    if (remark !== undefined) this.#remarks[index] = { ...remark, ...outcome };
  }
}
