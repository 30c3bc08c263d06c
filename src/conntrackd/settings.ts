import { yamlScalar } from "../config/config-text.js";

/** The keys that a conntrackd.conf can set, in the order in which they are written. */
const KEYS = [
  "cluster",
  "node",
  "listen",
  "peers",
  "discover.group",
  "discover.port",
  "discover.interface",
  "mode",
  "broker.port",
  "broker.store",
  "control",
  "lock",
  "nice",
  "scheduler.policy",
  "scheduler.priority",
  "cache.limit",
  "commit.timeout",
  "commit.window_tracking",
  "purge.after",
  "expectations",
  "filter.protocols",
  "filter.protocols_ignore",
  "filter.accept",
  "filter.ignore",
  "filter.states",
  "filter.states_ignore",
  "filter.where",
  "stats.file",
  "stats.syslog",
  "netlink.buffer",
  "netlink.buffer_max",
  "netlink.reliable",
  "netlink.overrun_resync",
  "netlink.poll",
  "netlink.iteration_limit",
  "tls",
  "log.level",
  "log.file",
  "log.syslog",
] as const;

/** One of the keys that a conntrackd.conf can set. */
export type Key = (typeof KEYS)[number];

/** The value of a key. Text becomes a YAML scalar; lists and maps have one line per entry. */
export type Value = string | number | boolean | readonly string[] | ReadonlyMap<string, string>;

/** Gathers conntrail's configuration, and writes it as YAML. */
export class Settings {
  readonly #values = new Map<Key, { value: Value; origin: string }>();

  /** Sets a key; `origin` is for the comment. */
  set(key: Key, value: Value, origin: string): void {
    this.#values.set(key, { value, origin });
  }

  /** Leaves the key at its default. */
  unset(key: Key): void {
    this.#values.delete(key);
  }

  /** The value, if one is set. */
  get(key: Key): Value | undefined {
    return this.#values.get(key)?.value;
  }

  /** The configuration file. */
  yaml(path: string): string {
    const lines = [
      `# conntrail's configuration of one node, made of ${path.replaceAll(/\s+/g, " ")}.`,
      "# Behind each key: the directive that it came from, and its line there.",
      "",
    ];
    let section = "";
    for (const key of KEYS) {
      const setting = this.#values.get(key);
      if (setting === undefined) continue;
      const [top = "", name] = key.split(".");
      if (name !== undefined && top !== section) lines.push(`${top}:`);
      section = top;
      const indent = name === undefined ? "" : "  ";
      lines.push(...entry(`${indent}${name ?? top}:`, setting.value, setting.origin, indent));
    }
    return `${lines.join("\n")}\n`;
  }
}

function entry(head: string, value: Value, origin: string, indent: string): string[] {
  if (typeof value === "string") return [commented(`${head} ${yamlScalar(value)}`, origin)];
  if (typeof value !== "object") return [commented(`${head} ${value}`, origin)];
  const items =
    value instanceof Map
      ? [...value].map(([key, text]: [string, string]) => `${yamlScalar(key)}: ${yamlScalar(text)}`)
      : [...(value as readonly string[])].map((text) => `- ${yamlScalar(text)}`);
  return [commented(head, origin), ...items.map((item) => `${indent}  ${item}`)];
}

function commented(text: string, origin: string): string {
  return origin === "" ? text : `${text.padEnd(40)} # ${origin}`;
}

/** `2MiB`; in bytes when no larger unit divides it. */
export function sizeText(bytes: number): string {
  for (const [unit, factor] of [
    ["GiB", 1024 ** 3],
    ["MiB", 1024 ** 2],
    ["KiB", 1024],
  ] as const) {
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return `${bytes}B`;
}
