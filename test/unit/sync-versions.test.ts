/** Nodes of several builds: what each writes while the others are upgraded and taken back, and what each makes of it. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock, stampOfMs } from "../../src/flow/clock.js";
import { systemClock } from "../../src/os/system-clock.js";
import type { Heartbeat } from "../../src/stream/format/heartbeat.js";
import { MarkCodec } from "../../src/stream/format/mark.js";
import { FORMATS, type Formats } from "../../src/stream/format/versions.js";
import { Applier } from "../../src/sync/in/applier.js";
import type { FirewallNode } from "../../src/sync/node.js";
import { epochReason, readOwnPast } from "../../src/sync/own-past.js";
import type { OwnStreamListener } from "../../src/sync/ports/own-stream.js";
import { FORMAT_2, FORMATS_2, formatOf } from "../support/format-2.js";
import { heartbeat } from "../support/heartbeats.js";
import { MemoryStream } from "../support/memory-stream.js";
import { readPlain } from "../support/msgpack.js";
import { tcpRecord } from "../support/records.js";
import { simPeer } from "../support/sim-node.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";
import { plainStream, testNode } from "../support/test-node.js";

const log = pino({ level: "silent" });
const ALL = 0xffffffff;

function versionOf(payload: Uint8Array): unknown {
  return (readPlain(payload) as { v: unknown }).v;
}

/** fw1 with its peers fw2 and fw3, whose heartbeats and streams the test writes. */
class Upgrade {
  readonly node: FirewallNode;
  readonly own = new MemoryStream();
  readonly beats: Heartbeat[] = [];
  readonly streams = { fw2: new MemoryStream(), fw3: new MemoryStream() };
  readonly #hears = new Map<string, (heartbeat: Heartbeat) => void>();
  readonly #end = new AbortController();
  #listener: OwnStreamListener | null = null;
  asked = 0;

  constructor(formats: Formats = FORMATS_2) {
    const peers = (["fw2", "fw3"] as const).map((name) => {
      const stream = this.streams[name];
      const peer = simPeer({ name, stream, askSnapshot: () => this.asked++ }, stream);
      const hear = (heard: (heartbeat: Heartbeat | null) => void) => {
        this.#hears.set(name, heard);
        return () => undefined;
      };
      return { ...peer, hear };
    });
    const ownStream = {
      ...plainStream(this.own),
      beat: (beat: Heartbeat) => void this.beats.push(beat),
      listen: (listener: OwnStreamListener) => {
        this.#listener = listener;
        return () => undefined;
      },
    };
    const ports = { ownStream, peers, clock: systemClock, signal: this.#end.signal };
    this.node = testNode(ports, { cluster: "edge", node: "fw1", formats });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.node.stop();
  }

  hear(node: string, reads: readonly number[], other: Partial<Heartbeat> = {}): void {
    this.#hears.get(node)?.(heartbeat({ node, reads, writes: reads[0] ?? 0, ...other }));
  }

  snapshotAsked(): void {
    this.#listener?.asked("snapshot");
  }

  /** What it writes from now on, and why. */
  get writes(): [version: number, reason: string | null] {
    this.node.format.look();
    const { format, reason } = this.node.format.choice;
    this.node.journal.writeMark({ type: "role", role: "backup" });
    assert.equal(versionOf(this.own.messages.at(-1)!.payload), format.version);
    return [format.version, reason];
  }
}

/** Resolves when a condition holds. */
async function until(what: string, isTrue: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 10_000;
  while (!isTrue()) {
    if (performance.now() > deadlineMs) throw new Error(`waited in vain: ${what}`);
    await new Promise(setImmediate);
  }
}

describe("the format version of a node's messages", () => {
  it("is the highest that all peers read, and goes back with the first that reads less", async () => {
    await using cluster = new Upgrade();
    await cluster.node.start();
    assert.deepEqual(cluster.writes, [1, "fw2 has not been heard, fw3 has not been heard"]);
    cluster.hear("fw2", [1, 2]);
    assert.deepEqual(cluster.writes, [1, "fw3 has not been heard"]);
    cluster.hear("fw3", [1]);
    assert.deepEqual(cluster.writes, [1, "fw3 reads only 1"]);
    cluster.hear("fw3", [1, 2], { epoch: 1001 });
    assert.deepEqual(cluster.writes, [2, null]);
    cluster.hear("fw2", [1], { epoch: 1001 });
    assert.deepEqual(cluster.writes, [1, "fw2 reads only 1"]);
    assert.equal(cluster.node.journal.number, cluster.own.messages.length, "no message beside those of the test");
  });

  it("does not count what another node or cluster reads", async () => {
    await using cluster = new Upgrade();
    await cluster.node.start();
    cluster.hear("fw2", [1, 2]);
    cluster.hear("fw3", [1, 2], { node: "fw4" });
    assert.deepEqual(cluster.writes, [1, "fw3 has not been heard"]);
    cluster.hear("fw3", [1, 2], { cluster: "core" });
    assert.deepEqual(cluster.writes, [1, "fw3 has not been heard"]);
  });

  it("follows the first mark of a peer's epoch, which comes before its daemon's first heartbeat", async () => {
    await using cluster = new Upgrade();
    await cluster.node.start();
    cluster.hear("fw2", [1, 2]);
    cluster.hear("fw3", [1, 2]);
    assert.deepEqual(cluster.writes, [2, null]);
    const fw3 = new StreamWriter("fw3");
    const begins = async (reads: readonly number[] | undefined): Promise<void> => {
      fw3.epoch = Math.max(1001, fw3.epoch + 1);
      fw3.number = 0;
      const versions = reads === undefined ? {} : { writes: 1, reads: [...reads] };
      const mark = fw3.mark({ type: "epoch", reason: "start", previousEpoch: 0, previousNumber: 0, ...versions });
      cluster.streams.fw3.publish(mark.kind, 0, mark.payload);
      const { followers } = cluster.node;
      await until("the mark is read", () => followers.some(({ begun }) => begun.epoch === fw3.epoch));
    };
    await begins([1]);
    assert.deepEqual(cluster.writes, [1, "fw3 reads only 1"]);
    await begins([1, 2]);
    assert.deepEqual(cluster.writes, [2, null]);
    // A build from before epoch marks had versions.
    await begins(undefined);
    assert.deepEqual(cluster.writes, [1, "fw3 has not been heard"]);
    cluster.hear("fw3", [1, 2], { epoch: fw3.epoch });
    assert.deepEqual(cluster.writes, [2, null]);
  });

  it("is in the first mark of its epoch, in heartbeats, and right in a snapshot that was asked for", async () => {
    await using cluster = new Upgrade();
    await cluster.node.start();
    const first = new MarkCodec().decode(cluster.own.messages[0]!.payload)?.mark;
    assert.deepEqual(first?.type === "epoch" ? [first.writes, first.reads] : null, [1, [1, 2]]);
    assert.deepEqual([cluster.beats[0]?.writes, cluster.beats[0]?.reads], [1, [1, 2]]);
    await until("the first snapshot", () => cluster.node.journal.counters.snapshots === 1);
    cluster.hear("fw2", [1, 2]);
    cluster.hear("fw3", [1, 2]);
    // Nobody looks before.
    cluster.snapshotAsked();
    await until("the second snapshot", () => cluster.node.journal.counters.snapshots === 2);
    const versions = cluster.own.messages.map(({ payload }) => versionOf(payload));
    assert.deepEqual(versions, [1, 1, 1, 1, 2, 2, 2]);
  });

  it("is told of no peer where a build knows one version only", async () => {
    await using cluster = new Upgrade(FORMATS);
    await cluster.node.start();
    assert.deepEqual(cluster.writes, [1, null]);
    cluster.hear("fw2", [2]);
    assert.deepEqual(cluster.writes, [1, null]);
  });
});

describe("a peer that writes a version that this node does not read", () => {
  it("is not asked for snapshots until it writes another", async () => {
    await using cluster = new Upgrade(FORMATS);
    await cluster.node.start();
    const [follower] = cluster.node.followers;
    await until("it is connected", () => follower!.state.connected);
    const ask = (): number => {
      const before = cluster.asked;
      follower!.catchUp();
      return cluster.asked - before;
    };
    assert.equal(ask(), 1);
    cluster.hear("fw2", [1, 2], { writes: 2 });
    assert.equal(ask(), 0);
    const before = cluster.asked;
    cluster.hear("fw2", [1, 2], { writes: 1 });
    assert.equal(cluster.asked, before + 1, "at once, however long the wait has become");
  });

  /** fw2's flows 1 to 3 of a snapshot in this version. */
  function snapshot(fw2: StreamWriter, version: number): WrittenMessage[] {
    fw2.format = formatOf(version);
    const id = fw2.number;
    const flows = [1, 2, 3];
    return [
      fw2.mark({ type: "snapshot-begin", id, flows: flows.length }),
      fw2.chunk(0, ALL, (batch) => {
        for (const flow of flows) batch.addNew(flow, tcpRecord(flow), 0, null, null);
      }),
      fw2.mark({ type: "snapshot-end", id, flows: flows.length }),
    ];
  }

  function applier(formats?: Formats): Applier {
    const hybridClock = new HybridClock(systemClock);
    const external = new ExternalCache(100);
    return new Applier({ node: "fw2", external, local: null, ...(formats && { formats }), hybridClock, log });
  }

  it("is followed in its place, is not exact, and is again from a snapshot that can be read", () => {
    const reader = applier();
    const fw2 = new StreamWriter("fw2");
    const read = (...messages: readonly WrittenMessage[]): void => {
      for (const message of messages) reader.apply(message, 0);
    };
    read(...snapshot(fw2, 1));
    assert.equal(reader.exact, true);
    fw2.format = FORMAT_2;
    read(fw2.events((batch) => batch.addNew(9, tcpRecord(9), 0, null, null)));
    assert.equal(reader.exact, false);
    assert.deepEqual(reader.refusals, { refused: 1, reason: "a message is of format 2", noRoom: 0 });
    assert.deepEqual(reader.position, { epoch: 10, number: 4 });
    read(...snapshot(fw2, 2));
    assert.deepEqual([reader.exact, reader.inSnapshot, reader.refusals.refused], [false, false, 4]);
    // The version went back in the middle of a snapshot.
    read(fw2.mark({ type: "snapshot-begin", id: 77, flows: 0 }));
    fw2.format = formatOf(1);
    read(
      fw2.chunk(0, ALL, () => undefined),
      fw2.mark({ type: "snapshot-end", id: 77, flows: 0 }),
    );
    assert.equal(reader.exact, false);
    read(...snapshot(fw2, 1));
    assert.deepEqual([reader.exact, reader.flows, reader.refusals.refused], [true, 3, 0]);
    assert.equal(reader.counters.holes, 0);
  });

  it("is exact all along for a build that reads both, also through a snapshot in two versions", () => {
    const reader = applier(FORMATS_2);
    const fw2 = new StreamWriter("fw2");
    const read = (message: WrittenMessage): void => assert.equal(reader.apply(message, 0), true);
    read(fw2.mark({ type: "snapshot-begin", id: 5, flows: 2 }));
    read(fw2.chunk(0, 5, (batch) => batch.addNew(1, tcpRecord(1), 0, null, null)));
    fw2.format = FORMAT_2;
    read(fw2.events((batch) => batch.addNew(2, tcpRecord(2), 0, null, null)));
    read(fw2.chunk(5, ALL, (batch) => batch.addNew(7, tcpRecord(7), 0, null, null)));
    read(fw2.mark({ type: "snapshot-end", id: 5, flows: 3 }));
    fw2.format = formatOf(1);
    read(fw2.events((batch) => batch.addDestroy(2, tcpRecord(2), 0, undefined)));
    assert.deepEqual([reader.exact, reader.flows, reader.refusals.refused], [true, 2, 0]);
  });

  it("begins an epoch that does not go on with the flow ids of the last one", () => {
    const reader = applier();
    const fw2 = new StreamWriter("fw2");
    for (const message of snapshot(fw2, 1)) reader.apply(message, 0);
    fw2.format = FORMAT_2;
    reader.apply(fw2.restart(true), 0);
    assert.deepEqual([reader.exact, reader.position, reader.counters.epochs], [false, { epoch: 11, number: 1 }, 1]);
    fw2.format = formatOf(1);
    reader.apply(
      fw2.events((batch) => batch.addDestroy(1, tcpRecord(1), 0, undefined)),
      0,
    );
    assert.equal(reader.flows, 3, "the flow id may stand for another flow");
  });
});

describe("an own stream that a newer build wrote", () => {
  it("says where it ended, and its table is made anew", async () => {
    const clock = { wallMs: () => 1_800_000_000_000 };
    const restart = async (lastVersion: number, formats: Formats) => {
      const stream = new MemoryStream();
      const fw1 = new StreamWriter("fw1");
      fw1.epoch = 1_799_999_999_000;
      fw1.stamp = stampOfMs(1_800_003_600_000);
      fw1.snapshotSequence = 1;
      const write = ({ kind, payload }: WrittenMessage): void => stream.publish(kind, 0, payload);
      write(fw1.mark({ type: "snapshot-begin", id: 5, flows: 1 }));
      write(fw1.chunk(0, ALL, (batch) => batch.addNew(1, tcpRecord(1), 0, null, null)));
      write(fw1.mark({ type: "snapshot-end", id: 5, flows: 1 }));
      fw1.format = formatOf(lastVersion);
      if (lastVersion === 2) write(fw1.mark({ type: "stop" }));
      // With this one, the last mark is of version 1 and what follows it is not.
      else fw1.format = FORMAT_2;
      write(fw1.events((batch) => batch.addNew(2, tcpRecord(2), 0, null, null)));
      const lastMark = (await stream.readLast("mark"))!.payload;
      const internal = new InternalCache(100);
      const hybridClock = new HybridClock(clock);
      const tail = { lastMark, last: stream.messages.at(-1)!.payload, lastSequence: stream.messages.length };
      const parts = { node: "fw1", internal, formats, clock, hybridClock, log };
      const past = await readOwnPast(stream, tail, parts, AbortSignal.timeout(5000));
      assert.ok(hybridClock.next() > fw1.stamp, "its stamps go on");
      return { past, reason: epochReason(past), flows: internal.table.size, lastEpoch: fw1.epoch };
    };
    for (const lastVersion of [1, 2]) {
      const back = await restart(lastVersion, FORMATS);
      assert.deepEqual([back.past.continues, back.flows], [null, 0]);
      assert.deepEqual([back.past.lastEpoch, back.reason], [back.lastEpoch, "start without the last table"]);
      const same = await restart(lastVersion, FORMATS_2);
      assert.deepEqual([same.past.continues?.epoch, same.flows, same.reason], [same.lastEpoch, 2, "start"]);
    }
  });
});
