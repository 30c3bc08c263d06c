/**
 * A store that a power cut tore. nats-server 2.9 appends to a bad block, acknowledges, and never gives the new messages back: so
 * what was acknowledged is read, and what cannot be is made anew.
 */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ExternalCache } from "../../src/cache/external.js";
import { HybridClock } from "../../src/flow/clock.js";
import { systemClock } from "../../src/os/system-clock.js";
import { type BrokerConnection, connectBroker } from "../../src/stream/connection.js";
import { createEnvelopeReader } from "../../src/stream/format/mark.js";
import { FORMATS } from "../../src/stream/format/versions.js";
import { readLastOf } from "../../src/stream/own-stream.js";
import { Publisher } from "../../src/stream/publisher.js";
import type { PublisherLimits, PublisherOptions } from "../../src/stream/publisher-options.js";
import { StreamReader } from "../../src/stream/reader.js";
import { inspectCopy, Replica } from "../../src/stream/replica.js";
import { Applier } from "../../src/sync/in/applier.js";
import { Follower } from "../../src/sync/in/follower.js";
import type { CopySource } from "../../src/sync/ports/peer-stream.js";
import {
  natsServerMissing,
  silentLogger,
  startNatsServer,
  type TestNatsServer,
  until,
} from "../support/nats-server.js";
import { tcpRecord } from "../support/records.js";
import { StreamWriter } from "../support/stream-writer.js";
import { DAMAGES, spoilMessage, tear, tearMessage } from "../support/torn-store.js";

const RETENTION = { maxAgeMs: 3_600_000, bytesMax: 1024 ** 3 };
const MESSAGES = 500;

/** Two messages: a mark, then a batch of one flow. */
function pair(writer: StreamWriter, index: number) {
  return [
    writer.mark({ type: "gap", reason: "test" }),
    writer.events((batch) => batch.addNew(index, tcpRecord(index), 0, null, null)),
  ];
}

function publishPair(publisher: Publisher, writer: StreamWriter, index: number): void {
  for (const { kind, payload } of pair(writer, index)) {
    publisher.publish(kind, kind === "mark" ? writer.number - 1 : writer.number, payload);
  }
}

function publisherOf(
  node: string,
  writer: StreamWriter,
  connection: BrokerConnection,
  more: Partial<PublisherOptions> = {},
): Publisher {
  const read = createEnvelopeReader();
  return new Publisher({
    node,
    epoch: writer.epoch,
    connection,
    retention: RETENTION,
    readNumber: (message) => read(message.payload),
    log: silentLogger(),
    ...more,
  });
}

async function assertReadable(server: TestNatsServer, node: string, number: number): Promise<void> {
  const read = createEnvelopeReader();
  const event = await server.manage((jsm) => readLastOf(jsm, node, "ev"));
  assert.equal(event === null ? null : read(event.payload)?.number, number, "the last event that was confirmed");
  const mark = await server.manage((jsm) => readLastOf(jsm, node, "mark"));
  assert.equal(mark === null ? null : read(mark.payload)?.number, number - 1, "the last mark that was confirmed");
}

/** A follower of fw2 with a table of its own, and a copy on this node's broker. */
function follow(toOwn: BrokerConnection, toPeer: BrokerConnection, limits: Partial<PublisherLimits> = {}) {
  const log = silentLogger();
  const external = new ExternalCache(10_000);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock: new HybridClock(systemClock), log });
  const reader = (connection: BrokerConnection) => new StreamReader({ connection, node: "fw2", log });
  const copy: CopySource = {
    inspect: () => inspectCopy(toOwn, "fw2"),
    open: (onLost, anew) => {
      const options = { node: "fw2", connection: toOwn, retention: RETENTION, formats: FORMATS, log, limits };
      return Replica.open({ ...options, onLost, anew });
    },
    stream: reader(toOwn),
  };
  const asks = { count: 0 };
  const ask = (): boolean => {
    asks.count++;
    return true;
  };
  const options = { stream: reader(toPeer), copy, applier, whole: false, ask, clock: systemClock, log };
  return { external, asks, follower: new Follower(options) };
}

/** A first epoch with an empty snapshot, and then flows, a mark before each. */
function publishTable(publisher: Publisher, writer: StreamWriter, flows: number): void {
  const begin = [
    writer.mark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 }),
    writer.mark({ type: "snapshot-begin", id: 1, flows: 0 }),
    writer.mark({ type: "snapshot-end", id: 1, flows: 0 }),
  ];
  writer.snapshotSequence = 2;
  for (const [index, { kind, payload }] of begin.entries()) publisher.publish(kind, index + 1, payload);
  for (let i = 0; i < flows; i++) publishPair(publisher, writer, i);
}

describe("a torn store", { skip: natsServerMissing() }, () => {
  for (const damage of DAMAGES) {
    it(`own stream, ${damage}: what is confirmed afterwards can be read, and what is gone is reported`, async () => {
      await using server = await startNatsServer();
      const log = silentLogger();
      const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log });
      const lost: [number, number][] = [];
      const writer = new StreamWriter("fw1");
      const publisher = publisherOf("fw1", writer, connection, { onLost: (first, last) => lost.push([first, last]) });
      try {
        await connection.ready(30_000);
        await publisher.start();
        for (let i = 0; i < MESSAGES / 2; i++) publishPair(publisher, writer, i);
        assert.equal(await publisher.flush(30_000), true);
        await server.kill();
        tear(server.directory, "CT_fw1", damage);
        publishPair(publisher, writer, MESSAGES);
        await server.start();
        await until("publishing to resume", () => publisher.state === "up");
        publishPair(publisher, writer, MESSAGES + 1);
        assert.equal(await publisher.flush(30_000), true);
        assert.equal(publisher.confirmedNumber, writer.number);
        await assertReadable(server, "fw1", writer.number);
        assert.equal(lost.length, 1, "said once");
        const [first, last] = lost[0] ?? [0, 0];
        assert.ok(first <= MESSAGES && last >= first && last <= MESSAGES, `lost ${first} to ${last}`);
      } finally {
        publisher.close();
        await connection.close();
      }
    });

    it(`a copy, ${damage}: it takes messages again that can be read, from the place that it names`, async () => {
      await using server = await startNatsServer();
      const log = silentLogger();
      const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log });
      let lost = 0;
      const open = (): Promise<Replica> =>
        Replica.open({ node: "fw2", connection, retention: RETENTION, formats: FORMATS, log, onLost: () => lost++ });
      const writer = new StreamWriter("fw2");
      let sequence = 5000;
      const append = (replica: Replica, index: number): void => {
        for (const message of pair(writer, index)) {
          replica.append({ type: "message", ...message, sequence: ++sequence, timeMs: 0, pending: 0 });
        }
      };
      try {
        let replica = await open();
        for (let i = 0; i < MESSAGES / 2; i++) append(replica, i);
        assert.equal(await replica.flush(30_000), true);
        await server.kill();
        tear(server.directory, "CT_fw2", damage);
        await server.start();
        await until("the copy is seen to have lost messages", () => lost > 0);
        replica = await open();
        assert.ok(replica.originSequence < sequence, "it goes on from before the damage");
        append(replica, MESSAGES);
        assert.equal(await replica.flush(30_000), true);
        await assertReadable(server, "fw2", writer.number);
        replica.close();
      } finally {
        await connection.close();
      }
    });
  }

  for (const damage of DAMAGES) {
    it(`a copy, ${damage}, and the peer is dead: what can be read is restored; when it is back all of it is copied again`, async () => {
      await using own = await startNatsServer();
      await using peer = await startNatsServer();
      const log = silentLogger();
      const writer = new StreamWriter("fw2");
      const toOwn = connectBroker({ servers: [own.address], node: "fw1", purpose: "test", log });
      const toPeer = connectBroker({ servers: [peer.address], node: "fw1", purpose: "test", log });
      const publisher = publisherOf("fw2", writer, toPeer);
      const end = new AbortController();
      let running: Promise<void> | null = null;
      try {
        await toPeer.ready(30_000);
        await publisher.start();
        publishTable(publisher, writer, MESSAGES / 2);
        assert.equal(await publisher.flush(30_000), true);
        // The first daemon copies it, and dies with everything else.
        const first = new AbortController();
        const one = follow(toOwn, toPeer);
        const followed = one.follower.run(first.signal);
        await until("the first daemon has it", () => one.external.table.size === MESSAGES / 2);
        first.abort();
        await followed;
        await peer.kill("SIGTERM");
        await own.kill();
        tear(own.directory, "CT_fw2", damage);
        await own.start();
        const two = follow(toOwn, toPeer);
        await two.follower.restore(AbortSignal.timeout(30_000));
        const restored = two.external.table.size;
        // nats-server 2.9 gives nothing of a stream whose last sequence it takes for 0.
        const least = damage === "zeroed from a sequence on" ? 0 : 20;
        assert.ok(restored >= least && restored < MESSAGES / 2, `${restored} flows restored`);
        // The peer is back.
        running = two.follower.run(end.signal);
        await peer.start();
        await until("all flows are here", () => two.external.table.size === MESSAGES / 2);
        await until("the copy is whole", async () => (await inspectCopy(toOwn, "fw2")).damaged === false);
        await until("all of the peer's stream is copied again", async () => {
          const { state } = await own.manage((jsm) => jsm.streams.info("CT_fw2"));
          // A copy that is begun takes the peer's stream from its last snapshot on: all but the first message. One made anew takes all.
          const whole = state.last_seq - state.first_seq + 1 === state.messages;
          return whole && (state.messages === writer.number || state.messages === writer.number - 1);
        });
        await assertReadable(own, "fw2", writer.number);
      } finally {
        end.abort();
        await running;
        publisher.close();
        await Promise.all([toOwn.close(), toPeer.close()]);
      }
    });
  }

  it("a copy with a bad message in its middle: what is behind it would be lost with the next crash, so it is made anew", async () => {
    await using own = await startNatsServer();
    await using peer = await startNatsServer();
    const log = silentLogger();
    const writer = new StreamWriter("fw2");
    const toOwn = connectBroker({ servers: [own.address], node: "fw1", purpose: "test", log });
    const toPeer = connectBroker({ servers: [peer.address], node: "fw1", purpose: "test", log });
    const publisher = publisherOf("fw2", writer, toPeer);
    const end = new AbortController();
    let running: Promise<void> | null = null;
    try {
      await toPeer.ready(30_000);
      await publisher.start();
      publishTable(publisher, writer, MESSAGES / 2);
      assert.equal(await publisher.flush(30_000), true);
      const first = new AbortController();
      const one = follow(toOwn, toPeer);
      const followed = one.follower.run(first.signal);
      await until("the first daemon has it", () => one.external.table.size === MESSAGES / 2);
      first.abort();
      await followed;
      await own.kill("SIGTERM");
      // Begin and end of the snapshot, then marks and events in turn: an event.
      spoilMessage(own.directory, "CT_fw2", MESSAGES / 2 + 1);
      await own.start();
      assert.equal((await inspectCopy(toOwn, "fw2")).damaged, false, "its end can be read");
      const two = follow(toOwn, toPeer);
      await two.follower.restore(AbortSignal.timeout(30_000));
      assert.equal(two.external.table.size, MESSAGES / 2 - 1);
      running = two.follower.run(end.signal);
      await until("every message of the copy can be read", async () => {
        return own.manage(async (jsm) => {
          const { state } = await jsm.streams.info("CT_fw2");
          if (state.messages < MESSAGES || state.messages !== state.last_seq - state.first_seq + 1) return false;
          for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
            if ((await jsm.streams.getMessage("CT_fw2", { seq }).catch(() => null)) === null) return false;
          }
          return true;
        });
      });
      // The flow itself comes with a snapshot.
      await until("it asks the peer for one", () => two.asks.count > 0);
    } finally {
      end.abort();
      await running;
      publisher.close();
      await Promise.all([toOwn.close(), toPeer.close()]);
    }
  });

  it("a copy with a bad message before its last snapshot: found by reading back, and all of it is copied again", async () => {
    await using own = await startNatsServer();
    await using peer = await startNatsServer();
    const log = silentLogger();
    const writer = new StreamWriter("fw2");
    const toOwn = connectBroker({ servers: [own.address], node: "fw1", purpose: "test", log });
    const toPeer = connectBroker({ servers: [peer.address], node: "fw1", purpose: "test", log });
    const publisher = publisherOf("fw2", writer, toPeer);
    const end = new AbortController();
    let running: Promise<void> | null = null;
    try {
      await toPeer.ready(30_000);
      await publisher.start();
      publishTable(publisher, writer, MESSAGES / 2);
      assert.equal(await publisher.flush(30_000), true);
      const first = new AbortController();
      const one = follow(toOwn, toPeer);
      const followed = one.follower.run(first.signal);
      await until("the first daemon has its table", () => one.external.table.size === MESSAGES / 2);
      const begin = writer.mark({ type: "snapshot-begin", id: 2, flows: 0 });
      const sequence = writer.number;
      publisher.publish(begin.kind, sequence, begin.payload);
      writer.snapshotSequence = sequence;
      const after = writer.mark({ type: "snapshot-end", id: 2, flows: 0 });
      publisher.publish(after.kind, writer.number, after.payload);
      await until("the first daemon has the snapshot", () => one.follower.counters.snapshots === 2);
      first.abort();
      await followed;
      await own.kill("SIGTERM");
      spoilMessage(own.directory, "CT_fw2", 10);
      await own.start();
      const two = follow(toOwn, toPeer, { readBackIntervalMs: 50 });
      await two.follower.restore(AbortSignal.timeout(30_000));
      assert.equal(two.follower.isExact, true, "the last snapshot and what follows can be read");
      running = two.follower.run(end.signal);
      await until("the damage is found", () => two.follower.counters.copyDamaged === 1);
      await until("every message of the copy can be read", async () => {
        return own.manage(async (jsm) => {
          const { state } = await jsm.streams.info("CT_fw2");
          if (state.messages < sequence || state.messages !== state.last_seq - state.first_seq + 1) return false;
          for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
            if ((await jsm.streams.getMessage("CT_fw2", { seq }).catch(() => null)) === null) return false;
          }
          return two.follower.state.copyTrouble === null;
        });
      });
      assert.equal(two.follower.isExact, true);
    } finally {
      end.abort();
      await running;
      publisher.close();
      await Promise.all([toOwn.close(), toPeer.close()]);
    }
  });

  it("a confirmed message is torn while the server runs, and what follows can be read: the stream is made anew", async () => {
    await using server = await startNatsServer();
    const log = silentLogger();
    const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log });
    const lost: [number, number, string][] = [];
    const writer = new StreamWriter("fw1");
    const publisher = publisherOf("fw1", writer, connection, {
      // What comes behind the torn message stays unconfirmed, and the server has time to drop the block from its memory.
      limits: { readBackIntervalMs: 12_000, askIntervalMs: 600_000 },
      onLost: (...report) => lost.push(report),
    });
    try {
      await connection.ready(30_000);
      await publisher.start();
      for (let i = 0; i < 5; i++) publishPair(publisher, writer, i);
      const last = writer.mark({ type: "gap", reason: "test" });
      await publisher.publishAcked(last.kind, writer.number, last.payload);
      const confirmed = writer.number;
      await until("the message to be on the disk", () => tearMessage(server.directory, "CT_fw1", last.payload));
      publishPair(publisher, writer, 6);
      await until("the damage is found", () => publisher.counters.readBacksFailed > 0, 90_000);
      await until("publishing to resume", () => publisher.state === "up");
      assert.equal(publisher.counters.damaged, 1);
      assert.deepEqual(lost, [[1, confirmed, "the broker's store was damaged"]]);
      const mark = writer.mark({ type: "gap", reason: "test" });
      const event = writer.events((batch) => batch.addNew(7, tcpRecord(7), 0, null, null));
      publisher.publish(mark.kind, writer.number - 1, mark.payload);
      await publisher.publishAcked(event.kind, writer.number, event.payload);
      await assertReadable(server, "fw1", writer.number);
      assert.equal((await server.messagesIn("CT_fw1")).length, 4);
    } finally {
      publisher.close();
      await connection.close();
    }
  });

  it("taken away while the server runs: found by reading back, not by the next start", async () => {
    await using server = await startNatsServer();
    const log = silentLogger();
    const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log });
    const lost: [number, number][] = [];
    const writer = new StreamWriter("fw1");
    const publisher = publisherOf("fw1", writer, connection, {
      limits: { readBackIntervalMs: 50 },
      onLost: (first, last) => lost.push([first, last]),
    });
    try {
      await connection.ready(30_000);
      await publisher.start();
      const { kind, payload } = writer.mark({ type: "gap", reason: "test" });
      await publisher.publishAcked(kind, writer.number, payload);
      // Somebody with the right to do so takes away what was confirmed; the server goes on as if nothing were.
      await server.manage(async (jsm) => {
        const { config } = await jsm.streams.info("CT_fw1");
        await jsm.streams.delete("CT_fw1");
        await jsm.streams.add(config);
      });
      await until("the loss is reported", () => lost.length > 0);
      assert.deepEqual(lost, [[1, 1]]);
    } finally {
      publisher.close();
      await connection.close();
    }
  });
});
