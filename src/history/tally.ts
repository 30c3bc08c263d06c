/** What many connections come to: the largest sources, destinations or ports, counts and bytes in all, and a histogram over time. */
import { formatAddress } from "../flow/address.js";
import { hasPorts, protocolText } from "../flow/protocol.js";
import { HAS_REPLY, W_HAS, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC } from "../flow/record.js";
import { familyOf, protocolOf, replyIsMirror } from "../flow/record-fields.js";
import type { Connection } from "./connection.js";

/** By what connections are put together. */
export const TALLY_KEYS = ["src", "dst", "port"] as const;
export type TallyKey = (typeof TALLY_KEYS)[number];

/** By what they are put in order. */
export const TALLY_ORDERS = ["bytes", "connections"] as const;
export type TallyOrder = (typeof TALLY_ORDERS)[number];

/** What some connections come to. Bytes and packets are those of both directions, of connections that were counted. */
export interface Tally {
  connections: number;
  bytes: number;
  packets: number;
  /** Connections of which the kernel has counted nothing. */
  uncounted: number;
}

/** A tally and what it belongs to. */
export interface NamedTally extends Tally {
  readonly name: string;
}

/** So many names are kept at once; of more, those that have least are dropped, and the answer is not exact. */
const NAMES_MAX = 500_000;

/** An empty tally. */
export function emptyTally(): Tally {
  return { connections: 0, bytes: 0, packets: 0, uncounted: 0 };
}

function addTo(tally: Tally, { counters }: Connection): void {
  tally.connections++;
  if (counters === null) tally.uncounted++;
  else {
    tally.bytes += counters.origBytes + counters.replyBytes;
    tally.packets += counters.origPackets + counters.replyPackets;
  }
}

/** The names with most connections or bytes. */
export class TopTally {
  readonly #key: TallyKey;
  readonly #order: TallyOrder;
  readonly #namesMax: number;
  readonly #tallies = new Map<string, Tally>();
  #dropped = 0;

  constructor(key: TallyKey, order: TallyOrder, namesMax = NAMES_MAX) {
    this.#key = key;
    this.#order = order;
    this.#namesMax = namesMax;
  }

  /** Names that were dropped because there were too many; 0: the answer is exact. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Adds a connection. One of a protocol without ports has no port, and counts under its protocol. */
  add(connection: Connection): void {
    const name = nameOf(connection, this.#key);
    let tally = this.#tallies.get(name);
    if (tally === undefined) {
      if (this.#tallies.size >= this.#namesMax) this.#drop();
      tally = emptyTally();
      this.#tallies.set(name, tally);
    }
    addTo(tally, connection);
  }

  /** The first so many. */
  top(count: number): NamedTally[] {
    return this.#sorted().slice(0, count);
  }

  #sorted(): NamedTally[] {
    const order = this.#order;
    return [...this.#tallies]
      .map(([name, tally]) => ({ name, ...tally }))
      .sort((a, b) => b[order] - a[order] || b.connections - a.connections || (a.name < b.name ? -1 : 1));
  }

  /** Drops the half that has least. */
  #drop(): void {
    for (const { name } of this.#sorted().slice(this.#namesMax >>> 1)) {
      this.#tallies.delete(name);
      this.#dropped++;
    }
  }
}

function nameOf({ words }: Connection, key: TallyKey): string {
  if (key !== "port") return formatAddress(words, key === "src" ? W_ORIG_SRC : W_ORIG_DST, familyOf(words, 0));
  const protocol = protocolOf(words, 0);
  const name = protocolText(protocol);
  return hasPorts(protocol) ? `${(words[W_ORIG_L4] ?? 0) & 0xffff}/${name}` : name;
}

/** What a range holds. */
export interface Summary {
  readonly total: Tally;
  readonly outcomes: Readonly<Record<Connection["end"], number>>;
  readonly translated: number;
  readonly mayMiss: number;
  /** The earliest begin and the latest end that are known, milliseconds since the Unix epoch. */
  readonly firstMs: number | null;
  readonly lastMs: number | null;
  /** By protocol, those with most connections first. */
  readonly protocols: readonly NamedTally[];
  /** By node that carried them. One that moved counts at each. */
  readonly nodes: readonly NamedTally[];
}

/** Makes a summary of connections that come one after the other. */
export class SummaryTally {
  readonly #total = emptyTally();
  readonly #outcomes = { ended: 0, lost: 0, open: 0 };
  readonly #protocols = new Map<string, Tally>();
  readonly #nodes = new Map<string, Tally>();
  #translated = 0;
  #mayMiss = 0;
  #firstMs: number | null = null;
  #lastMs: number | null = null;

  /** Adds a connection. */
  add(connection: Connection): void {
    const { end, mayMiss, startMs, endMs, words, path } = connection;
    addTo(this.#total, connection);
    this.#outcomes[end]++;
    if (mayMiss) this.#mayMiss++;
    if (((words[W_HAS] ?? 0) & HAS_REPLY) !== 0 && !replyIsMirror(words, 0)) this.#translated++;
    if (startMs !== null) this.#firstMs = Math.min(this.#firstMs ?? startMs, startMs);
    if (endMs !== null) this.#lastMs = Math.max(this.#lastMs ?? endMs, endMs);
    addTo(within(this.#protocols, protocolText(protocolOf(words, 0))), connection);
    for (const node of new Set(path.map((step) => step.node))) addTo(within(this.#nodes, node), connection);
  }

  /** All that was added. */
  summary(): Summary {
    return {
      total: { ...this.#total },
      outcomes: { ...this.#outcomes },
      translated: this.#translated,
      mayMiss: this.#mayMiss,
      firstMs: this.#firstMs,
      lastMs: this.#lastMs,
      protocols: named(this.#protocols),
      nodes: named(this.#nodes),
    };
  }
}

function within(tallies: Map<string, Tally>, name: string): Tally {
  const tally = tallies.get(name) ?? emptyTally();
  tallies.set(name, tally);
  return tally;
}

function named(tallies: ReadonlyMap<string, Tally>): NamedTally[] {
  return [...tallies]
    .map(([name, tally]) => ({ name, ...tally }))
    .sort((a, b) => b.connections - a.connections || (a.name < b.name ? -1 : 1));
}

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
/** The lengths of a bar of the histogram, so that each begins at a round time. */
const STEPS_MS = [
  ...[1, 2, 5, 10, 15, 30].map((seconds) => seconds * 1000),
  ...[1, 2, 5, 10, 15, 30].map((minutes) => minutes * MINUTE_MS),
  ...[1, 2, 3, 6, 12].map((hours) => hours * HOUR_MS),
  ...[1, 2, 7, 14, 28, 56, 112, 224, 448].map((days) => days * DAY_MS),
];
/** A histogram has at the most so many bars. */
const BARS_MAX = 48;

/** A bar: connections that began from that time on. */
export interface Bar {
  readonly fromMs: number;
  readonly connections: number;
  readonly bytes: number;
}

/** A histogram of the times at which connections began. Its bars become longer as the range grows. */
export class Histogram {
  #step = 0;
  #bars = new Map<number, { connections: number; bytes: number }>();
  #least = Number.POSITIVE_INFINITY;
  #greatest = Number.NEGATIVE_INFINITY;
  #earlier = 0;
  readonly #sinceMs: number;

  /** Counts what began from that time on; null: at any time. */
  constructor(sinceMs: number | null) {
    this.#sinceMs = sinceMs ?? Number.NEGATIVE_INFINITY;
  }

  /** Connections that began before, or whose begin is unknown. */
  get earlier(): number {
    return this.#earlier;
  }

  /** Adds a connection. */
  add({ startMs, counters }: Connection): void {
    if (startMs === null || startMs < this.#sinceMs) {
      this.#earlier++;
      return;
    }
    this.#put(startMs, 1, counters === null ? 0 : counters.origBytes + counters.replyBytes);
    while (this.#count() > BARS_MAX && this.#step < STEPS_MS.length - 1) this.#widen();
  }

  /** How long a bar is. */
  get stepMs(): number {
    return STEPS_MS[this.#step] ?? DAY_MS;
  }

  /** All bars from the first to the last, empty ones too. */
  bars(): Bar[] {
    if (this.#bars.size === 0) return [];
    return Array.from({ length: this.#count() }, (_, i) => {
      const at = Math.floor(this.#least / this.stepMs) + i;
      return { fromMs: at * this.stepMs, connections: 0, bytes: 0, ...this.#bars.get(at) };
    });
  }

  #count(): number {
    return Math.floor(this.#greatest / this.stepMs) - Math.floor(this.#least / this.stepMs) + 1;
  }

  #put(ms: number, connections: number, bytes: number): void {
    this.#least = Math.min(this.#least, ms);
    this.#greatest = Math.max(this.#greatest, ms);
    const at = Math.floor(ms / this.stepMs);
    const bar = this.#bars.get(at) ?? { connections: 0, bytes: 0 };
    bar.connections += connections;
    bar.bytes += bytes;
    this.#bars.set(at, bar);
  }

  /** The next length that is a multiple of this one, so that each bar goes into one other. */
  #widen(): void {
    const [before, beforeMs] = [this.#bars, this.stepMs];
    do this.#step++;
    while (this.stepMs % beforeMs !== 0 && this.#step < STEPS_MS.length - 1);
    this.#bars = new Map();
    for (const [at, { connections, bytes }] of before) {
      const to = Math.floor((at * beforeMs) / this.stepMs);
      const bar = this.#bars.get(to) ?? { connections: 0, bytes: 0 };
      bar.connections += connections;
      bar.bytes += bytes;
      this.#bars.set(to, bar);
    }
  }
}
