/** The copy of a peer's stream on the own broker: a real nats-server each. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { StoreWatch } from "../../src/daemon/store-watch.js";
import { type BrokerConnection, connectBroker } from "../../src/stream/connection.js";
import { createEnvelopeReader, type Mark } from "../../src/stream/format/mark.js";
import { FORMATS } from "../../src/stream/format/versions.js";
import { PUBLISHER_LIMITS } from "../../src/stream/publisher-options.js";
import type { StreamMessage } from "../../src/stream/reader.js";
import { StreamReader } from "../../src/stream/reader.js";
import { Replica } from "../../src/stream/replica.js";
import { natsServerMissing, silentLogger, startNatsServer, TestNatsServer, until } from "../support/nats-server.js";
import { tcpRecord } from "../support/records.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";

const RETENTION = { maxAgeMs: 3_600_000, bytesMax: 1024 ** 3 };

/** The peer's stream: messages with their places there, which need not begin at 1. */
class Peer {
  readonly writer = new StreamWriter("fw2");
  readonly messages: StreamMessage[] = [];
  /** Sequence of the last message. */
  sequence = 5000;

  events(count: number): void {
    for (let i = 0; i < count; i++) {
      this.#add(this.writer.events((batch) => batch.addNew(i, tcpRecord(i), 0, null, null)));
    }
  }

  chunk(): void {
    this.#add(this.writer.chunk(0, 0xffff_ffff, (batch) => batch.addNew(1, tcpRecord(1), 0, null, { stamp: 1 })));
  }

  mark(mark: Mark): void {
    this.#add(this.writer.mark(mark));
  }

  snapshot(id: number): void {
    this.mark({ type: "snapshot-begin", id, flows: 1 });
    this.events(2);
    this.chunk();
    this.mark({ type: "snapshot-end", id, flows: 1 });
  }

  #add({ kind, payload }: WrittenMessage): void {
    this.messages.push({ type: "message", kind, payload, sequence: ++this.sequence, timeMs: 0, pending: 0 });
  }
}

/** A peer whose stream this node copies, and this node's side: its broker and its connection to that. */
class Edge implements AsyncDisposable {
  readonly peer = new Peer();
  readonly server: TestNatsServer;
  readonly log = silentLogger();
  readonly lost: number[] = [];
  connection: BrokerConnection;

  private constructor(server: TestNatsServer) {
    this.server = server;
    this.connection = this.#connect();
  }

  static async start(): Promise<Edge> {
    return new Edge(await startNatsServer());
  }

  /** Another connection, as the next daemon has it. */
  reconnect(): void {
    this.connection = this.#connect();
  }

  #connect(): BrokerConnection {
    return connectBroker({ servers: [this.server.address], node: "fw1", purpose: "test", log: this.log });
  }

  open(): Promise<Replica> {
    const { connection, log } = this;
    return Replica.open({
      node: "fw2",
      connection,
      retention: RETENTION,
      formats: FORMATS,
      log,
      onLost: () => this.lost.push(1),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection.close();
    await this.server[Symbol.asyncDispose]();
  }
}

function append(replica: Replica, messages: readonly StreamMessage[]): void {
  for (const message of messages) replica.append(message);
}

/** Appends messages, and waits until the copy has them. */
async function copy(replica: Replica, messages: readonly StreamMessage[], timeoutMs = 30_000): Promise<void> {
  append(replica, messages);
  assert.equal(await replica.flush(timeoutMs), true);
}

interface Copied {
  readonly sequence: number;
  readonly kind: string;
  readonly payload: string;
  readonly origin: number;
  readonly snapshot: number;
}

/** Every message of the copy, with its headers. */
async function copyIn(server: TestNatsServer): Promise<Copied[]> {
  return (await server.messagesIn("CT_fw2")).map(({ seq, subject, data, headers }) => ({
    sequence: seq,
    kind: subject,
    payload: Buffer.from(data).toString("hex"),
    origin: Number(headers?.get("Ct-Origin")),
    snapshot: Number(headers?.get("Ct-Snapshot")),
  }));
}

/** The copy holds these messages of the peer, each once and in order, and says where they stood there. */
async function assertCopied(server: TestNatsServer, messages: readonly StreamMessage[]): Promise<void> {
  const read = createEnvelopeReader();
  const name = (payload: Uint8Array): string => `${read(payload)!.epoch}/${read(payload)!.number}`;
  const copied = await copyIn(server);
  assert.deepEqual(
    copied.map(({ payload, origin }) => `${name(Buffer.from(payload, "hex"))} ${origin}`),
    messages.map(({ payload, sequence }) => `${name(payload)} ${sequence}`),
  );
  for (const [i, { kind, payload }] of messages.entries()) {
    if (copied[i]!.payload !== Buffer.from(payload).toString("hex")) assert.fail(`message ${i} is another`);
    assert.equal(copied[i]!.kind, `ct.fw2.${kind}`);
  }
}

describe("replica", { skip: natsServerMissing() }, () => {
  it("copies each message once and in order, with its place in the peer's stream", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    const replica = await edge.open();
    assert.deepEqual([replica.tail, replica.originSequence, replica.lastSequence], [{ epoch: 0, number: 0 }, 0, 0]);
    peer.mark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 });
    peer.snapshot(7);
    peer.events(1000);
    await copy(replica, peer.messages);
    await assertCopied(server, peer.messages);
    assert.deepEqual(replica.tail, { epoch: 10, number: peer.messages.length });
    assert.deepEqual([replica.originSequence, replica.lastSequence], [peer.sequence, peer.messages.length]);
    assert.equal(replica.backlog.bytes, 0);
    replica.close();
  });

  it("keeps a payload though the reader's buffer changes", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    const replica = await edge.open();
    peer.events(50);
    for (const message of peer.messages) {
      const payload = Uint8Array.from(message.payload);
      replica.append({ ...message, payload });
      payload.fill(0);
    }
    assert.equal(await replica.flush(30_000), true);
    await assertCopied(server, peer.messages);
    replica.close();
  });

  it("skips what it has, and what is no message, and counts both", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    const replica = await edge.open();
    peer.events(10);
    append(replica, peer.messages);
    append(replica, peer.messages.slice(3));
    replica.append({ ...peer.messages[0]!, payload: Uint8Array.of(0x93, 1, 2, 3) });
    assert.deepEqual([replica.known, replica.malformed], [7, 1]);
    const first = peer.messages.length;
    peer.writer.restart(false);
    peer.events(3);
    append(replica, peer.messages.slice(first));
    append(replica, peer.messages);
    assert.equal(replica.known, 7 + 13, "those of an epoch that is over as well");
    assert.equal(await replica.flush(30_000), true);
    await assertCopied(server, peer.messages);
    replica.close();
  });

  it("knows after close and open how far it is, and goes on there", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    peer.events(5);
    for (let round = 0; round < 4; round++) {
      const replica = await edge.open();
      await copy(replica, peer.messages);
      replica.close();
      const again = await edge.open();
      assert.deepEqual([again.tail.epoch, again.tail.number], [peer.writer.epoch, peer.writer.number]);
      assert.deepEqual([again.originSequence, again.lastSequence], [peer.sequence, peer.messages.length]);
      again.close();
      if (round === 1) peer.writer.restart(true);
      peer.events(5);
    }
    await assertCopied(server, peer.messages.slice(0, -5));
  });

  it("knows after open where the last complete snapshot begins in the copy", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    const expected: number[] = [];
    const reopened = async (): Promise<number> => {
      const replica = await edge.open();
      append(replica, peer.messages.slice(replica.lastSequence));
      const before = replica.snapshotSequence;
      assert.equal(await replica.flush(30_000), true);
      replica.close();
      const again = await edge.open();
      again.close();
      assert.equal(again.snapshotSequence, before);
      return again.snapshotSequence;
    };
    peer.mark({ type: "role", role: "backup" });
    assert.equal(await reopened(), 0);
    peer.events(3);
    expected.push(peer.messages.length + 1);
    peer.snapshot(1);
    peer.events(3);
    assert.equal(await reopened(), expected[0]);
    peer.mark({ type: "snapshot-begin", id: 2, flows: 1 });
    peer.chunk();
    assert.equal(await reopened(), expected[0], "cut short so far");
    peer.mark({ type: "snapshot-end", id: 3, flows: 1 });
    assert.equal(await reopened(), expected[0], "the end of another one");
    expected.push(peer.messages.length + 1);
    peer.snapshot(4);
    assert.equal(await reopened(), expected[1]);
    const marks = (await copyIn(server)).filter(({ kind }) => kind === "ct.fw2.mark");
    assert.deepEqual(
      marks.map(({ snapshot }) => snapshot),
      [0, 0, expected[0], expected[0], expected[0], expected[0], expected[1]],
    );
    const begin = (await copyIn(server))[expected[1]! - 1]!;
    assert.equal(begin.kind, "ct.fw2.mark");
  });

  it("loses, repeats and swaps nothing when the own broker is killed in mid copy", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    const replica = await edge.open();
    let appended = 0;
    let running = true;
    const copying = (async () => {
      while (running) {
        if (replica.counters.messages - replica.counters.confirmedMessages < 8000) {
          peer.events(3);
          for (; appended < peer.messages.length; appended++) replica.append(peer.messages[appended]!);
        }
        await turn();
      }
    })();
    for (let round = 0; round < 3; round++) {
      const seen = replica.counters.confirmedMessages;
      await until("progress", () => replica.counters.confirmedMessages > seen + 500);
      await server.kill();
      const killedAt = appended;
      await until("messages while it is away", () => appended > killedAt + 100);
      await server.start();
      await until("the connection", () => edge.connection.connected);
    }
    running = false;
    await copying;
    assert.equal(await replica.flush(30_000), true);
    assert.ok(replica.counters.resent > 0);
    assert.deepEqual(edge.lost, []);
    await assertCopied(server, peer.messages);
    replica.close();
    const again = await edge.open();
    assert.equal(again.originSequence, peer.sequence);
    again.close();
  });

  it("goes on from what is confirmed when the daemon dies in mid copy, and its last messages may come late", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    peer.events(3000);
    for (let round = 0; round < 3; round++) {
      const replica = await edge.open();
      append(replica, peer.messages.slice(replica.lastSequence, 1000 * (round + 1)));
      // Neither flushed nor closed: what is on its way may arrive or not.
      await edge.connection.close();
      replica.close();
      edge.reconnect();
    }
    const replica = await edge.open();
    assert.equal(replica.originSequence, replica.lastSequence === 0 ? 0 : 5000 + replica.lastSequence);
    await copy(replica, peer.messages);
    await assertCopied(server, peer.messages);
    replica.close();
  });

  it("leaves out what the peer cannot have written, and goes on behind it", async () => {
    await using edge = await Edge.start();
    const { peer } = edge;
    const replica = await edge.open();
    peer.events(4);
    const { length } = peer.messages;
    append(replica, peer.messages);
    for (const [node, epoch] of [
      ["fw9", peer.writer.epoch + 1],
      ["fw2", Number.MAX_SAFE_INTEGER - 1],
    ] as const) {
      const writer = new StreamWriter(node);
      writer.epoch = epoch;
      writer.number = 1_000_000;
      replica.append({ ...peer.messages[length - 1]!, ...writer.mark({ type: "gap", reason: "poison" }) });
    }
    peer.events(4);
    await copy(replica, peer.messages.slice(length));
    assert.deepEqual([replica.malformed, replica.known], [2, 0]);
    assert.deepEqual(replica.tail, { epoch: peer.writer.epoch, number: peer.writer.number });
    assert.equal((await copyIn(edge.server)).length, peer.messages.length);
  });

  it("is told when the broker has lost the copy's tail, and copies it again after open", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    peer.events(20);
    const replica = await edge.open();
    await copy(replica, peer.messages.slice(0, 15));
    await server.manage((jsm) => jsm.streams.delete("CT_fw2"));
    append(replica, peer.messages.slice(15));
    await until("the report", () => edge.lost.length > 0);
    assert.equal(edge.lost.length, 1);
    replica.close();
    await server.manage((jsm) => jsm.streams.delete("CT_fw2"));
    const again = await edge.open();
    assert.deepEqual([again.tail, again.originSequence], [{ epoch: 0, number: 0 }, 0]);
    await copy(again, peer.messages);
    await assertCopied(server, peer.messages);
    again.close();
  });

  it("begins anew when all of it was removed by age, its places going on", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    peer.snapshot(1);
    const replica = await edge.open();
    await copy(replica, peer.messages);
    replica.close();
    await server.manage((jsm) => jsm.streams.purge("CT_fw2"));
    const again = await edge.open();
    assert.deepEqual(
      [again.tail, again.originSequence, again.snapshotSequence, again.lastSequence],
      [{ epoch: 0, number: 0 }, 0, 0, 5],
    );
    peer.snapshot(2);
    await copy(again, peer.messages);
    assert.equal(again.snapshotSequence, 11);
    await assertCopied(server, peer.messages);
    again.close();
  });

  it("can be read as any stream, from the snapshot that it names", async () => {
    await using edge = await Edge.start();
    const { peer } = edge;
    const replica = await edge.open();
    peer.events(3);
    peer.snapshot(1);
    peer.events(3);
    await copy(replica, peer.messages);
    const reader = new StreamReader({ connection: edge.connection, node: "fw2", log: edge.log });
    const read: string[] = [];
    const stop = new AbortController();
    for await (const items of reader.read(replica.snapshotSequence, stop.signal)) {
      for (const item of items) {
        if (item.type !== "message") continue;
        read.push(Buffer.from(item.payload).toString("hex"));
        if (item.pending === 0) stop.abort();
      }
    }
    assert.deepEqual(
      read,
      peer.messages.slice(3).map(({ payload }) => Buffer.from(payload).toString("hex")),
    );
    replica.close();
  });

  it("is told that the copy is gone, also when nothing was appended since it was opened", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    peer.snapshot(1);
    const first = await edge.open();
    await copy(first, peer.messages);
    first.close();
    const replica = await edge.open();
    await server.manage((jsm) => jsm.streams.delete("CT_fw2"));
    await server.kill();
    await until("the loss to be seen", () => !edge.connection.connected);
    await server.start();
    await until("the connection", () => edge.connection.connected);
    peer.events(1);
    replica.append(peer.messages.at(-1)!);
    await replica.flush(5000);
    assert.equal(edge.lost.length, 1);
  });

  it("has no hole after a report, when everything is appended again", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    const replica = await edge.open();
    peer.events(10);
    await copy(replica, peer.messages);
    await server.kill();
    await until("the loss to be seen", () => !edge.connection.connected);
    peer.events(PUBLISHER_LIMITS.ringMessagesMax + 5);
    append(replica, peer.messages.slice(10));
    await server.start();
    await until("the report", () => edge.lost.length > 0);
    replica.close();
    const again = await edge.open();
    for (const [index, message] of peer.messages.entries()) {
      again.append(message);
      if (index % 4096 === 4095) await until("room", () => again.flush(1000));
    }
    await until("the copy", () => again.flush(1000));
    const read = createEnvelopeReader();
    const numbers = (await copyIn(server)).map(({ payload }) => read(Buffer.from(payload, "hex"))!.number);
    assert.equal(numbers.length, peer.messages.length);
    again.close();
  });

  it("knows a snapshot that began before it was opened and ended after", async () => {
    await using edge = await Edge.start();
    const { peer } = edge;
    peer.mark({ type: "snapshot-begin", id: 1, flows: 1 });
    peer.chunk();
    const first = await edge.open();
    append(first, peer.messages);
    await first.flush(5000);
    first.close();
    peer.mark({ type: "snapshot-end", id: 1, flows: 1 });
    const again = await edge.open();
    append(again, peer.messages);
    await again.flush(5000);
    again.close();
    assert.equal(again.snapshotSequence, 1);
  });

  it("says that its broker refuses it, which restarts the server, and is whole afterwards", async () => {
    await using edge = await Edge.start();
    const { server, peer } = edge;
    const replica = await edge.open();
    peer.events(10);
    await copy(replica, peer.messages);
    await server.kill();
    // This broker answers every question, and drops what is published into the copy.
    const denied =
      'no_auth_user: n\nauthorization { users = [{ user: n, password: n, permissions: { publish: { deny: "ct.>" } } }] }';
    const deaf = new TestNatsServer(server.directory, server.port, { more: denied });
    const restarts: string[] = [];
    const watch = new StoreWatch({
      path: server.directory,
      publisher: null,
      broker: { restart: (reason) => restarts.push(reason) },
      log: edge.log,
      room: async () => ({ free: 2 ** 30, total: 2 ** 31 }),
    });
    watch.watchCopies(() => (replica.trouble === null ? [] : [replica.trouble]));
    try {
      await deaf.start();
      peer.events(10);
      append(replica, peer.messages);
      await until("the server is restarted", async () => {
        await watch.look();
        return restarts.length > 0;
      });
    } finally {
      await deaf.kill();
    }
    assert.match(restarts[0] ?? "", /^it takes no messages \(.*\), though the disk has room$/);
    await server.start();
    assert.equal(await replica.flush(30_000), true);
    assert.equal(replica.trouble, null);
    await assertCopied(server, peer.messages);
    replica.close();
  });

  it("does not take a snapshot with a hole for complete", async () => {
    await using edge = await Edge.start();
    const { peer } = edge;
    peer.snapshot(1);
    const begin = peer.messages.length + 1;
    peer.mark({ type: "snapshot-begin", id: 2, flows: 1 });
    peer.writer.number++;
    peer.mark({ type: "snapshot-end", id: 2, flows: 1 });
    const replica = await edge.open();
    append(replica, peer.messages);
    await replica.flush(5000);
    replica.close();
    assert.notEqual(replica.snapshotSequence, begin);
    assert.equal(replica.snapshotSequence, 1);
  });
});
