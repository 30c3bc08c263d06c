import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { compileFilter } from "../../src/flow/filter.js";
import { HAS_PROTOINFO, W_HAS, W_PROTOINFO, W_REPLY_L4, W_STATUS } from "../../src/flow/record.js";
import { decodedFlow, Random, tcpRecord } from "../support/records.js";
import { keyOf, statusOf } from "../support/sim-kernel.js";
import { SimNode, settled } from "../support/sim-node.js";

const clock = { wallMs: () => 1_800_000_000_000 };

/** `count` nodes that follow each other, each with a wall clock of its own. */
async function cluster(count: number, skewMs: (index: number) => number = () => 0, polls = false): Promise<SimNode[]> {
  const nodes = Array.from({ length: count }, (_, i) => new SimNode(`fw${i + 1}`, i + 1, clock, skewMs(i), { polls }));
  for (const node of nodes) await node.start();
  for (const node of nodes) for (const peer of nodes) if (peer !== node) node.follow(peer);
  await settled(nodes);
  return nodes;
}

function record(index: number): Uint32Array {
  const words = tcpRecord(index);
  words[W_STATUS] = 0x18a;
  return words;
}

/** Creates, changes and ends flows on one node, as traffic does. */
function traffic(node: SimNode, random: Random, steps: number, tuples: number): void {
  for (let i = 0; i < steps; i++) {
    const words = record(random.below(tuples));
    const key = keyOf(words, 0);
    const choice = random.below(4);
    if (choice <= 1) node.kernel.create(words);
    else if (choice === 2) node.kernel.update(key, 0x18a | (random.below(2) << 2));
    else node.kernel.destroy(key);
  }
}

function truth(node: SimNode): Map<string, number> {
  return new Map([...node.kernel.flows].map(([key, words]) => [key, statusOf(words, 0)]));
}

async function end(nodes: readonly SimNode[]): Promise<void> {
  for (const node of nodes) await node.stop();
}

describe("replication between nodes, kernel and broker simulated", () => {
  it("external caches of all backups become equal to the primary's table", async () => {
    const nodes = await cluster(3);
    for (let round = 0; round < 20; round++) {
      traffic(nodes[0]!, new Random(round), 500, 200);
      await settled(nodes);
      assert.deepEqual(nodes[0]!.view("internal"), truth(nodes[0]!));
      for (const backup of nodes.slice(1)) assert.deepEqual(backup.view("external"), truth(nodes[0]!));
    }
    await end(nodes);
  });

  for (const [seed, polls] of [1, 2, 3, 4, 5, 6, 7, 8].flatMap((n) => [[n, false] as const, [n, true] as const]))
    it(`fail over 1 → 2 → 3 → 1 … with connections ending in between: none comes back, none is lost (seed ${seed}${polls ? ", polled" : ""})`, async () => {
      // Clocks that are an hour off must not matter.
      const nodes = await cluster(3, (index) => (index - 1) * 3_600_000, polls);
      const random = new Random(seed);
      let active = nodes[0]!;
      traffic(active, random, 1000, 300);
      for (let turn = 1; turn <= 9; turn++) {
        for (const node of nodes) await node.poll();
        await settled(nodes);
        const expected = truth(active);
        const next = nodes[turn % nodes.length]!;
        const report = await next.roles.hook("primary", () => undefined);
        assert.deepEqual(report.commit?.failed, {});
        await settled(nodes);
        assert.deepEqual(truth(next), expected, `what ${next.name} took over`);
        // The one that stepped down purges what the next one carries now.
        await active.roles.hook("backup", () => undefined);
        active = next;
        traffic(active, random, 1000, 300);
        for (const node of nodes) await node.poll();
        await settled(nodes);
        for (const other of nodes) {
          if (other === active) continue;
          assert.deepEqual(other.view("external"), truth(active), other.name);
        }
      }
      await end(nodes);
    });

  for (const seed of [1, 2, 3, 4])
    it(`traffic while a commit runs, of whose beginnings nobody tells, reaches the peers all the same (seed ${seed})`, async () => {
      const nodes = await cluster(3);
      const [first, second, third] = nodes as [SimNode, SimNode, SimNode];
      const random = new Random(seed);
      traffic(first, random, 8000, 4000);
      await settled(nodes);
      const births = first.births("internal");
      const short = record(5000);
      const kept = record(5001);
      let turns = 0;
      const { commit } = await second.roles.hook("primary", () => {
        traffic(second, random, 100, 4000);
        if (turns++ > 0) return;
        second.kernel.create(short);
        second.kernel.destroy(keyOf(short, 0));
        second.kernel.create(kept);
        const [committed] = [...births.keys()].filter((key) => second.kernel.flows.has(key));
        assert.ok(second.kernel.destroy(committed!), "a flow that was just committed");
      });
      assert.ok(turns > 1, "more than a batch");
      await settled(nodes);
      assert.deepEqual(second.view("internal"), truth(second));
      assert.deepEqual(third.view("external"), truth(second));
      assert.ok(third.view("external").has(keyOf(kept, 0)));
      // But for the entries that the commit put a peer's connection in the place of, every end has a beginning.
      const { destroyUnknown } = second.internal.counters;
      assert.ok(destroyUnknown <= commit!.updated, `${destroyUnknown} ends, ${commit!.updated} replaced`);
      await end(nodes);
    });

  it("a connection has its own birth on a node that takes it over while its kernel still has the one before it", async () => {
    // The event socket hands over all that has happened within a turn, so the end and the beginning are one message.
    const wire = { pass: (_way: unknown, step: () => void) => setImmediate(step), portion: (count: number) => count };
    const nodes = [1, 2].map((index) => new SimNode(`fw${index}`, index, clock, 0, { wire }));
    const [first, second] = nodes as [SimNode, SimNode];
    for (const node of nodes) await node.start();
    first.follow(second);
    second.follow(first);
    const key = keyOf(record(1), 0);
    first.kernel.create(record(1));
    await settled(nodes);
    const [before] = first.births("internal").values();
    await second.roles.hook("primary", () => undefined);
    await second.roles.committed();
    await settled(nodes);
    assert.equal(second.births("internal").get(key), before);
    second.kernel.destroy(key);
    second.kernel.create(record(1));
    await settled(nodes);
    const after = second.births("internal").get(key);
    assert.notEqual(after, before);
    await first.roles.hook("primary", () => undefined);
    await first.roles.committed();
    await settled(nodes);
    assert.equal(first.births("internal").get(key), after);
    assert.equal(second.births("external").get(key), after);
    await end(nodes);
  });

  it("a connection has one birth, whichever nodes carry it, over restarts of the table and in snapshots", async () => {
    const nodes = await cluster(3, (index) => (index - 1) * 3_600_000);
    const [first] = nodes as [SimNode, SimNode, SimNode];
    traffic(first, new Random(23), 300, 100);
    await settled(nodes);
    const births = first.births("internal");
    assert.ok(births.size > 20 && [...births.values()].every((birth) => birth > 0));
    for (let turn = 1; turn <= 4; turn++) {
      const next = nodes[turn % nodes.length]!;
      await next.roles.hook("primary", () => undefined);
      for (const key of [...births.keys()].slice(0, 5)) next.kernel.update(key, 0x18a | (turn << 2));
      await settled(nodes);
      assert.deepEqual(next.births("internal"), births, `${next.name} carries them`);
      for (const other of nodes) if (other !== next) assert.deepEqual(other.births("external"), births, other.name);
    }
    const last = nodes[1]!;
    await last.journal.writeSnapshot(new AbortController().signal);
    const late = new SimNode("fw9", 9, clock, 0);
    await late.start();
    late.follow(last);
    await late.followers[0]!.exact(AbortSignal.timeout(5000));
    assert.deepEqual(late.births("external"), births);
    const [key] = births.keys();
    const words = last.kernel.flows.get(key!)!.slice();
    last.kernel.destroy(key!);
    last.kernel.create(words);
    await settled(nodes);
    assert.notEqual(last.births("internal").get(key!), births.get(key!), "the next connection of its tuple");
    await end([...nodes, late]);
  });

  it("polls alone bring every change, and a second one without any says nothing", async () => {
    const nodes = await cluster(2, () => 0, true);
    const [primary, backup] = nodes as [SimNode, SimNode];
    for (let round = 0; round < 20; round++) {
      traffic(primary, new Random(round), 300, 200);
      await primary.poll();
      await settled(nodes);
      assert.deepEqual(backup.view("external"), truth(primary));
      const written = primary.stream.messages.length;
      await primary.poll();
      await settled(nodes);
      assert.equal(primary.stream.messages.length, written);
    }
    assert.equal(primary.replicator.counters.polls, 40);
    assert.equal(primary.replicator.counters.kernelResyncs, 1);
    await end(nodes);
  });

  it("a poll that fails changes nothing, and the next one makes up for it", async () => {
    const nodes = await cluster(2, () => 0, true);
    const [primary, backup] = nodes as [SimNode, SimNode];
    traffic(primary, new Random(1), 300, 200);
    await primary.poll();
    await settled(nodes);
    const before = truth(primary);
    traffic(primary, new Random(2), 300, 200);
    const { kernel, sockets, replicator } = primary;
    const dump = sockets.dump.bind(sockets);
    const half = [...kernel.flows].slice(0, 50);
    sockets.dump = async (_options, visit) => {
      for (const [, words] of half) visit(decodedFlow(words));
      throw new Error("the kernel falls silent");
    };
    assert.equal(await replicator.pollKernel(), false);
    assert.equal(replicator.isUnread, true);
    sockets.dump = async () => ({ count: 0, malformed: 0, interrupted: true });
    assert.equal(await replicator.pollKernel(), false);
    await settled(nodes);
    for (const key of before.keys()) assert.ok(backup.view("external").has(key), "half a dump has ended a flow");
    sockets.dump = dump;
    assert.equal(await replicator.pollKernel(), true);
    assert.equal(replicator.isUnread, false);
    await settled(nodes);
    assert.deepEqual(backup.view("external"), truth(primary));
    assert.deepEqual([replicator.counters.polls, replicator.counters.pollsFailed], [2, 2]);
    await end(nodes);
  });

  it("a node that polls owns what its packets make and change, without any hook", async () => {
    const nodes = await cluster(2, () => 0, true);
    const [one, two] = nodes as [SimNode, SimNode];
    one.kernel.create(record(1));
    await one.poll();
    await settled(nodes);
    two.kernel.create(record(1));
    await two.poll();
    await settled(nodes);
    assert.deepEqual([one.view("external").size, two.view("external").size], [1, 0], "the newer one has it");
    await one.poll();
    await settled(nodes);
    assert.equal(one.view("external").size, 1, "the same as before is no news");
    one.kernel.update(keyOf(record(1), 0), 0x18e);
    await one.poll();
    await settled(nodes);
    assert.deepEqual([one.view("external").size, two.view("external").size], [0, 1], "a change is");
    await end(nodes);
  });

  it("a commit replaces what this kernel has by an open connection, not by one that was closing", async () => {
    for (const [state, kept] of [
      [3, false],
      [7, true],
    ] as const) {
      const nodes = await cluster(2);
      const [first, second] = nodes as [SimNode, SimNode];
      const words = record(1);
      words[W_PROTOINFO] = state;
      first.kernel.create(words);
      await settled(nodes);
      // Begun here a moment before, by the same tuple, with another translation; its event is still under way.
      const begun = record(1);
      begun[W_REPLY_L4]! ^= 1;
      second.kernel.deaf = true;
      second.kernel.create(begun);
      second.kernel.deaf = false;
      const report = await second.roles.hook("primary", () => undefined);
      const { updated, skipped } = report.commit!;
      assert.deepEqual({ updated, skipped }, kept ? { updated: 0, skipped: 1 } : { updated: 1, skipped: 0 });
      const [held] = second.kernel.flows.values();
      assert.equal(held![W_REPLY_L4] === begun[W_REPLY_L4], kept);
      await end(nodes);
    }
  });

  it("events lost in an overrun are made good by the dump", async () => {
    const nodes = await cluster(2);
    const [primary, backup] = nodes as [SimNode, SimNode];
    const random = new Random(3);
    traffic(primary, random, 500, 200);
    primary.kernel.deaf = true;
    traffic(primary, random, 500, 200);
    primary.kernel.deaf = false;
    primary.replicator.onOverrun();
    assert.equal(primary.replicator.isUnread, true);
    await primary.replicator.resyncKernel();
    assert.equal(primary.replicator.isUnread, false);
    await settled(nodes);
    assert.deepEqual(primary.view("internal"), truth(primary));
    assert.deepEqual(backup.view("external"), truth(primary));
    assert.equal(backup.followers[0]!.counters.gapMarks, 1);
    await end(nodes);
  });

  it("a flow that ends in a state that is not replicated ends at the peers too", async () => {
    const nodes = await cluster(2);
    const [primary, backup] = nodes as [SimNode, SimNode];
    primary.replicator.setFilter(compileFilter({ tcpStates: { logic: "accept", values: [3] } }));
    for (const [index, state] of [3, 1].entries()) {
      const words = record(index);
      words[W_PROTOINFO] = state;
      words[W_HAS]! |= HAS_PROTOINFO;
      primary.kernel.create(words);
    }
    await settled(nodes);
    assert.equal(backup.view("external").size, 1);
    for (const [key, words] of [...primary.kernel.flows]) {
      words[W_PROTOINFO] = 7;
      primary.kernel.destroy(key);
    }
    await settled(nodes);
    assert.deepEqual([primary.view("internal").size, backup.view("external").size], [0, 0]);
    assert.equal(primary.internal.counters.destroyUnknown, 0);
    await end(nodes);
  });

  it("a table that cannot be read after an overrun is read again later, and counts as unread until then", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const node = new SimNode("fw1", 1, clock, 0);
    await node.start();
    const { sockets, replicator } = node;
    const dump = sockets.dump.bind(sockets);
    sockets.dump = async () => ({ count: 0, malformed: 0, interrupted: true });
    replicator.onOverrun();
    assert.equal(await replicator.resyncKernel(), false);
    assert.equal(replicator.isUnread, true);
    sockets.dump = dump;
    t.mock.timers.tick(1000);
    for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
    assert.equal(replicator.isUnread, false);
    await node.stop();
  });

  for (const overrunResyncMs of [0, 40, null]) {
    it(`the dump after an overrun comes as configured: ${overrunResyncMs ?? "never"}`, async (t) => {
      t.mock.timers.enable({ apis: ["setTimeout"] });
      const node = new SimNode("fw1", 1, clock, 0, { overrunResyncMs });
      await node.start();
      const dumps = async (): Promise<number> => {
        for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
        return node.replicator.counters.kernelResyncs - 1;
      };
      const overrun = (): void => {
        node.replicator.onOverrun();
        node.replicator.onDrained(0, false);
      };
      overrun();
      assert.equal(await dumps(), overrunResyncMs === 0 ? 1 : 0);
      t.mock.timers.tick(30);
      overrun();
      t.mock.timers.tick(9);
      assert.equal(await dumps(), overrunResyncMs === 0 ? 2 : 0);
      t.mock.timers.tick(1);
      assert.equal(await dumps(), overrunResyncMs === null ? 0 : overrunResyncMs === 0 ? 2 : 1);
      t.mock.timers.tick(1000);
      assert.equal(
        await dumps(),
        overrunResyncMs === null ? 0 : overrunResyncMs === 0 ? 2 : 1,
        "one for both overruns",
      );
      assert.equal(node.replicator.counters.overruns, 2);
      await node.stop();
    });
  }

  it("a node that joins late starts at the last complete snapshot and agrees", async () => {
    const nodes = await cluster(2);
    const [primary] = nodes as [SimNode, SimNode];
    const random = new Random(5);
    traffic(primary, random, 3000, 500);
    await primary.journal.writeSnapshot(new AbortController().signal);
    traffic(primary, random, 300, 500);
    const late = new SimNode("fw9", 9, clock, 0);
    await late.start();
    late.follow(primary);
    await late.followers[0]!.exact(AbortSignal.timeout(5000));
    await settled([...nodes, late]);
    assert.deepEqual(late.view("external"), truth(primary));
    assert.ok(late.followers[0]!.counters.messages < primary.stream.messages.length, "read from the snapshot on");
    await end([...nodes, late]);
  });

  it("resync peers reads the same state again, also when a snapshot was cut short", async () => {
    const nodes = await cluster(2);
    const [primary, backup] = nodes as [SimNode, SimNode];
    const random = new Random(11);
    traffic(primary, random, 1000, 300);
    primary.stream.dropsAcked = true;
    assert.equal(await primary.journal.writeSnapshot(new AbortController().signal), false);
    traffic(primary, random, 100, 300);
    await settled(nodes);
    assert.equal(backup.followers[0]!.counters.holes, 1);
    // The one that the hole makes it ask for is cut short, too.
    assert.equal(backup.followers[0]!.isExact, false);
    primary.stream.dropsAcked = false;
    assert.equal(await primary.journal.writeSnapshot(new AbortController().signal), true);
    traffic(primary, random, 1000, 300);
    await settled(nodes);
    const follower = backup.followers[0]!;
    follower.resync();
    await follower.exact(AbortSignal.timeout(5000));
    await settled(nodes);
    assert.deepEqual(backup.view("external"), truth(primary));
    await end(nodes);
  });

  it("damaged messages are counted and skipped, and the hole is noticed", async () => {
    const nodes = await cluster(2);
    const [primary, backup] = nodes as [SimNode, SimNode];
    traffic(primary, new Random(13), 10, 100);
    await settled(nodes);
    primary.stream.publish("ev", 0, Uint8Array.of(0x93, 1, 2, 3));
    primary.stream.publish("mark", 0, Uint8Array.of());
    traffic(primary, new Random(17), 10, 100);
    await settled(nodes);
    const follower = backup.followers[0]!;
    assert.equal(follower.counters.malformed, 2);
    assert.equal(follower.counters.holes, 0);
    assert.deepEqual(backup.view("external"), truth(primary));
    await end(nodes);
  });
});
