/** The copy of a peer's stream on the own broker: a real nats-server each. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { connectBroker } from "../../src/stream/connection.js";
import { createEnvelopeReader, type Mark } from "../../src/stream/mark.js";
import { PUBLISHER_LIMITS } from "../../src/stream/publisher-options.js";
import type { StreamMessage } from "../../src/stream/reader.js";
import { Replica } from "../../src/stream/replica.js";
import {
  natsServerMissing,
  silentLogger,
  startNatsServer,
  type TestNatsServer,
  until,
} from "../support/nats-server.js";
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

/** This node's side: its connection to its broker. */
function setUp(server: TestNatsServer) {
  const log = silentLogger();
  const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log });
  const lost: number[] = [];
  const open = (): Promise<Replica> =>
    Replica.open({ node: "fw2", connection, retention: RETENTION, log, onLost: () => lost.push(1) });
  return { connection, open, lost, log, [Symbol.asyncDispose]: () => connection.close() };
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
  const client = await server.client();
  try {
    const consumer = await client.jetstream().consumers.get("CT_fw2");
    const copied: Copied[] = [];
    let left = (await consumer.info(true)).num_pending;
    while (left > 0) {
      for await (const message of await consumer.fetch({ max_messages: Math.min(left, 1000), expires: 2000 })) {
        copied.push({
          sequence: message.seq,
          kind: message.subject,
          payload: Buffer.from(message.data).toString("hex"),
          origin: Number(message.headers?.get("Ct-Origin")),
          snapshot: Number(message.headers?.get("Ct-Snapshot")),
        });
        left--;
      }
    }
    return copied;
  } finally {
    await client.close();
  }
}

describe("a copy that lost its place", { skip: natsServerMissing() }, () => {
  it("is told that the copy is gone, also when nothing was appended since it was opened", async () => {
    await using server = await startNatsServer();
    await using edge = setUp(server);
    const peer = new Peer();
    peer.snapshot(1);
    const first = await edge.open();
    for (const message of peer.messages) first.append(message);
    assert.equal(await first.flush(5000), true);
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
    await using server = await startNatsServer();
    await using edge = setUp(server);
    const replica = await edge.open();
    const peer = new Peer();
    peer.events(10);
    for (const message of peer.messages) replica.append(message);
    assert.equal(await replica.flush(5000), true);
    await server.kill();
    await until("the loss to be seen", () => !edge.connection.connected);
    peer.events(PUBLISHER_LIMITS.ringMessagesMax + 5);
    for (const message of peer.messages.slice(10)) replica.append(message);
    await server.start();
    await until("the report", () => edge.lost.length > 0);
    replica.close();
    const again = await edge.open();
    for (const [index, message] of peer.messages.entries()) {
      again.append(message);
      if (index % 4096 === 4095) await until("room", () => again.flush(1000), 20_000);
    }
    await until("the copy", () => again.flush(1000), 20_000);
    const read = createEnvelopeReader();
    const numbers = (await copyIn(server)).map(({ payload }) => read(Buffer.from(payload, "hex"))!.number);
    assert.equal(numbers.length, peer.messages.length);
    again.close();
  });

  it("knows a snapshot that began before it was opened and ended after", async () => {
    await using server = await startNatsServer();
    await using edge = setUp(server);
    const peer = new Peer();
    peer.mark({ type: "snapshot-begin", id: 1, flows: 1 });
    peer.chunk();
    const first = await edge.open();
    for (const message of peer.messages) first.append(message);
    await first.flush(5000);
    first.close();
    peer.mark({ type: "snapshot-end", id: 1, flows: 1 });
    const again = await edge.open();
    for (const message of peer.messages) again.append(message);
    await again.flush(5000);
    again.close();
    assert.equal(again.snapshotSequence, 1);
  });

  it("does not take a snapshot with a hole for complete", async () => {
    await using server = await startNatsServer();
    await using edge = setUp(server);
    const peer = new Peer();
    peer.snapshot(1);
    const begin = peer.messages.length + 1;
    peer.mark({ type: "snapshot-begin", id: 2, flows: 1 });
    peer.writer.number++;
    peer.mark({ type: "snapshot-end", id: 2, flows: 1 });
    const replica = await edge.open();
    for (const message of peer.messages) replica.append(message);
    await replica.flush(5000);
    replica.close();
    assert.notEqual(replica.snapshotSequence, begin);
    assert.equal(replica.snapshotSequence, 1);
  });
});
