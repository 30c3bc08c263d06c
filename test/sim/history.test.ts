/** What the real writers write, through the history: nodes, kernels and clock simulated, every table known at every time. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { W_STATUS } from "../../src/flow/record.js";
import type { Connection, HistoryQuery } from "../../src/history/connection.js";
import { History } from "../../src/history/scan/history.js";
import type { HistoryStreams } from "../../src/history/scan/streams.js";
import { StoredStream } from "../support/history-cluster.js";
import { Random, tcpRecord } from "../support/records.js";
import { keyOf } from "../support/sim-kernel.js";
import { SimNode, settled } from "../support/sim-node.js";

const EVERYTHING: HistoryQuery = { sinceMs: null, untilMs: null, filter: {}, nodes: null, limit: null };
const never = new AbortController().signal;
const TUPLES = 60;
const TICK_MS = 1000;

interface Life {
  readonly key: string;
  readonly startMs: number;
  endMs: number | null;
  readonly path: string[];
}

/** Three firewalls, of which one carries the traffic. */
class Firewalls implements HistoryStreams {
  readonly clock = { ms: 1_800_000_000_000, wallMs: () => this.clock.ms };
  readonly members: SimNode[];
  readonly lives: Life[] = [];
  /** What the active one's kernel held, by time. */
  readonly tables: { timeMs: number; node: string; keys: string[] }[] = [];
  readonly dead = new Set<SimNode>();
  active: SimNode;

  /** How far each node's clock is off. */
  readonly skewMs: Readonly<Record<string, number>>;

  constructor(skewMs = 0) {
    this.skewMs = { fw1: -skewMs, fw2: 0, fw3: skewMs };
    this.members = [1, 2, 3].map((i) => new SimNode(`fw${i}`, i, this.clock, (i - 2) * skewMs));
    this.active = this.members[0]!;
  }

  async start(): Promise<void> {
    for (const node of this.members) await node.start();
    for (const node of this.members) for (const peer of this.members) if (peer !== node) node.follow(peer);
    await this.active.roles.hook("primary", () => undefined);
    await settled(this.members);
  }

  get others(): SimNode[] {
    return this.members.filter((node) => node !== this.active && !this.dead.has(node));
  }

  /** A second of traffic. */
  async tick(random: Random, steps: number): Promise<void> {
    for (let i = 0; i < steps; i++) {
      this.clock.ms += Math.floor(TICK_MS / (steps + 1));
      const words = tcpRecord(random.below(TUPLES));
      words[W_STATUS] = 0x18a;
      const key = keyOf(words, 0);
      const life = this.lives.find((one) => one.key === key && one.endMs === null);
      const choice = random.below(4);
      if (life === undefined && choice <= 1) {
        this.active.kernel.create(words);
        this.lives.push({ key, startMs: this.clock.ms, endMs: null, path: [this.active.name] });
      } else if (life !== undefined && choice === 2) {
        this.active.kernel.update(key, 0x18a | (random.below(2) << 2));
      } else if (life !== undefined && choice === 3) {
        this.active.kernel.destroy(key);
        life.endMs = this.clock.ms;
      }
      this.active.replicator.flush();
    }
    await settled(this.members.filter((node) => !this.dead.has(node)));
    this.note();
  }

  note(): void {
    const keys = this.lives.filter(({ endMs }) => endMs === null).map(({ key }) => key);
    this.tables.push({ timeMs: this.clock.ms, node: this.active.name, keys: keys.sort() });
    this.clock.ms += 1;
  }

  /** Another one takes over; the active one steps down or dies. */
  async failover(next: SimNode, dies: boolean): Promise<void> {
    const before = this.active;
    if (dies) {
      await before.stop();
      this.dead.add(before);
    }
    this.clock.ms += 3 * TICK_MS;
    this.active = next;
    await next.roles.hook("primary", () => undefined);
    for (const life of this.lives) if (life.endMs === null) life.path.push(next.name);
    await settled(this.members.filter((node) => !this.dead.has(node)));
    if (!dies) await before.roles.hook("backup", () => undefined);
    await settled(this.members.filter((node) => !this.dead.has(node)));
    this.note();
  }

  async stop(): Promise<void> {
    for (const node of this.members) if (!this.dead.has(node)) await node.stop();
  }

  async nodes(): Promise<readonly string[]> {
    return this.members.map(({ name }) => name);
  }

  lookup(name: string): StoredStream {
    return new StoredStream(this.members.find((node) => node.name === name)!.stream.messages);
  }

  read(name: string, from: number, _readers: number, signal: AbortSignal) {
    return this.lookup(name).read(from, signal);
  }
}

function key(connection: Connection): string {
  return keyOf(connection.words, 0);
}

async function check(firewalls: Firewalls): Promise<void> {
  const history = await History.open({ streams: firewalls, nodes: null });
  const uids = new Map<string, string>();
  const found: string[] = [];
  for await (const batch of history.connections(EVERYTHING, never).connections) {
    for (const one of batch) {
      found.push(`${key(one)} ${one.startMs} ${one.endMs} ${one.path.map(({ node }) => node)}`);
      uids.set(one.uid, key(one));
    }
  }
  const wanted = firewalls.lives.map(({ key, startMs, endMs, path }) => {
    const end = endMs === null ? null : endMs + firewalls.skewMs[path.at(-1)!]!;
    const start = startMs + firewalls.skewMs[path[0]!]!;
    return `${key} ${end === null ? start : Math.min(start, end)} ${end} ${path}`;
  });
  assert.deepEqual(found.sort(), wanted.sort());
  assert.equal(uids.size, wanted.length);
  if (firewalls.skewMs.fw1 !== 0) return;
  for (const { timeMs, node, keys } of firewalls.tables) {
    const table: Connection[] = [];
    for await (const batch of history.at(timeMs, EVERYTHING, never).connections) table.push(...batch);
    assert.deepEqual(table.map(key).sort(), keys, `at ${timeMs}`);
    for (const one of table) {
      assert.equal(one.path.at(-1)!.node, node);
      assert.equal(uids.get(one.uid), key(one));
    }
  }
}

describe("history of firewalls that fail over", () => {
  for (const seed of [1, 2, 3, 4, 5, 6, 7]) {
    // The last with clocks an hour apart: each node's times are then those of its own clock, and nobody else's are the worse for it.
    const skewMs = seed === 7 ? 3_600_000 : 0;
    it(`knows every connection, and the table at every second (seed ${seed})`, async () => {
      const firewalls = new Firewalls(skewMs);
      await firewalls.start();
      const random = new Random(seed);
      for (let turn = 0; turn < 8; turn++) {
        for (let i = 0; i < 6; i++) {
          await firewalls.tick(random, 30);
          if (random.oneIn(3)) await firewalls.active.journal.writeSnapshot(never);
          if (random.oneIn(8)) await random.pick(firewalls.others).journal.writeSnapshot(never);
        }
        const next = random.pick(firewalls.others);
        await firewalls.failover(next, turn === 4 && firewalls.dead.size === 0);
      }
      await firewalls.tick(random, 30);
      await firewalls.stop();
      await check(firewalls);
    });
  }
});
