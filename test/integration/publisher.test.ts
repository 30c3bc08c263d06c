import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { ConntrailError } from "../../src/errors.js";
import { type BrokerConnection, connectBroker } from "../../src/stream/connection.js";
import { readLastOf } from "../../src/stream/own-stream.js";
import { Publisher } from "../../src/stream/publisher.js";
import type { PublisherOptions } from "../../src/stream/publisher-options.js";
import { natsServerMissing, silentLogger, startNatsServer, TestNatsServer, until } from "../support/nats-server.js";

const EPOCH = 7;

/** Epoch and number in the first eight bytes. */
function payload(number: number, bytes = 64, epoch = EPOCH): Uint8Array {
  const buffer = Buffer.alloc(bytes);
  buffer.writeUInt32BE(epoch, 0);
  buffer.writeUInt32BE(number, 4);
  return buffer;
}

function readNumber(bytes: Uint8Array): { epoch: number; number: number } | null {
  if (bytes.length < 8) return null;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  return { epoch: buffer.readUInt32BE(0), number: buffer.readUInt32BE(4) };
}

/** A node with a broker of its own, and a publisher that has yet to start. */
class Edge implements AsyncDisposable {
  readonly server: TestNatsServer;
  readonly connection: BrokerConnection;
  readonly publisher: Publisher;
  /** First and last number of each report of a loss. */
  readonly lost: number[][] = [];

  constructor(server: TestNatsServer, options: Partial<PublisherOptions> = {}) {
    const log = silentLogger();
    this.server = server;
    this.connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log });
    this.publisher = new Publisher({
      node: "fw1",
      epoch: EPOCH,
      connection: this.connection,
      retention: { maxAgeMs: 3_600_000, bytesMax: 1024 ** 3 },
      readNumber: (message) => readNumber(message.payload),
      log,
      onLost: (first, last) => this.lost.push([first, last]),
      ...options,
    });
  }

  /** Resolves when the publisher has started. */
  async start(): Promise<void> {
    await this.connection.ready(30_000);
    await this.publisher.start();
  }

  /** Publishes events with the numbers `first` to `last`. */
  publish(first: number, last: number, bytes = 64): void {
    for (let number = first; number <= last; number++) this.publisher.publish("ev", number, payload(number, bytes));
  }

  /** Resolves when all is confirmed. */
  async flushed(): Promise<void> {
    assert.equal(await this.publisher.flush(30_000), true);
  }

  /** Every number in the stream, in its order. */
  async numbers(): Promise<number[]> {
    return (await this.server.messagesIn("CT_fw1")).map(({ data }) => readNumber(data)!.number);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.publisher.close();
    await this.connection.close();
  }
}

function upTo(last: number): number[] {
  return Array.from({ length: last }, (_, i) => i + 1);
}

describe("publisher", { skip: natsServerMissing() }, () => {
  it("creates its stream, confirms what it sends and finds the last mark again", async () => {
    await using server = await startNatsServer();
    await using edge = new Edge(server);
    const { publisher } = edge;
    await edge.start();
    assert.equal(publisher.state, "up");
    assert.equal(await server.manage((jsm) => readLastOf(jsm, "fw1", "mark")), null);
    assert.equal(publisher.publish("ev", 1, payload(1)), "sent");
    assert.equal(await publisher.publishAcked("mark", 2, payload(2)), 2);
    assert.equal(publisher.publish("ev", 3, payload(3)), "sent");
    await edge.flushed();
    assert.equal(publisher.lastSequence, 3);
    assert.equal(publisher.confirmedNumber, 3);
    assert.deepEqual(publisher.backlog, { messages: 0, bytes: 0 });
    const mark = await server.manage((jsm) => readLastOf(jsm, "fw1", "mark"));
    assert.equal(mark?.sequence, 2);
    assert.deepEqual(readNumber(mark!.payload), { epoch: EPOCH, number: 2 });
    const { config } = await server.manage((jsm) => jsm.streams.info("CT_fw1"));
    assert.deepEqual(config.subjects, ["ct.fw1.>"]);
    assert.equal(config.deny_delete, true);
    assert.equal(config.allow_direct, true);
  });

  it("confirms a lone message by itself, with few answers for many", async () => {
    await using server = await startNatsServer();
    await using edge = new Edge(server);
    const { publisher } = edge;
    await edge.start();
    edge.publish(1, 5000);
    await until("the confirmation of all", () => publisher.confirmedNumber === 5000);
    assert.ok(publisher.counters.confirms < 20, `${publisher.counters.confirms} confirms`);
    assert.deepEqual(await edge.numbers(), upTo(5000));
  });

  it("loses nothing, repeats nothing and keeps the order when the server is killed in mid stream", async () => {
    await using server = await startNatsServer();
    await using edge = new Edge(server);
    const { publisher } = edge;
    await edge.start();
    let number = 0;
    let running = true;
    const writing = (async () => {
      while (running) {
        const most = publisher.state === "up" ? 2000 : 8000;
        for (let i = 0; i < 3 && publisher.backlog.messages < most; i++)
          publisher.publish("ev", ++number, payload(number, 1024));
        await turn();
      }
    })();
    for (let round = 0; round < 3; round++) {
      const seen = publisher.confirmedNumber;
      await until("progress", () => publisher.confirmedNumber > seen + 500);
      await server.kill();
      const killedAt = number;
      await until("messages while it is away", () => number > killedAt + 200);
      await server.start();
      await until("publishing to resume", () => publisher.state === "up");
    }
    running = false;
    await writing;
    await edge.flushed();
    assert.deepEqual(edge.lost, []);
    assert.ok(publisher.counters.resent > 0);
    assert.deepEqual(await edge.numbers(), upTo(number));
  });

  it("neither repeats nor loses when a frozen server wakes with an old connection's messages in its socket", async () => {
    await using server = await startNatsServer();
    await using edge = new Edge(server, { limits: { ackTimeoutMs: 500 } });
    const { publisher } = edge;
    await edge.start();
    edge.publish(1, 100);
    await edge.flushed();
    server.pause();
    edge.publish(101, 1500, 512);
    await until("the connection to be given up", () => !edge.connection.connected);
    server.resume();
    await until("publishing to resume", () => publisher.state === "up");
    edge.publish(1501, 1600);
    await edge.flushed();
    assert.deepEqual(await edge.numbers(), upTo(1600));
  });

  it("holds while the broker is away, drops the oldest beyond its bounds and says which are lost", async () => {
    await using server = await startNatsServer();
    const lost: number[][] = [];
    const states: string[] = [];
    let number = 0;
    await using edge = new Edge(server, {
      limits: { ringMessagesMax: 100, ringBytesMax: 1_000_000, windowMessagesMax: 40, askMessages: 20 },
      onLost: (first, last) => {
        lost.push([first, last]);
        publisher.publish("mark", ++number, payload(number));
      },
      onStateChange: (state) => states.push(state),
    });
    const { publisher } = edge;
    await edge.start();
    while (number < 10) publisher.publish("ev", ++number, payload(number));
    await edge.flushed();
    await server.kill();
    await until("the loss to be seen", () => publisher.state === "down");
    assert.equal(publisher.publish("ev", ++number, payload(number)), "held");
    while (number < 200) publisher.publish("ev", ++number, payload(number));
    assert.equal(publisher.publish("ev", ++number, payload(number)), "overflow");
    assert.equal(publisher.backlog.messages, 100);
    assert.equal(publisher.counters.droppedMessages, 91);
    await server.start();
    await until("the report", () => lost.length > 0);
    assert.deepEqual(lost, [[11, 101]]);
    await edge.flushed();
    assert.deepEqual(await edge.numbers(), [...upTo(10), ...upTo(202).slice(101)]);
    assert.deepEqual(states, ["up", "down", "up"]);
  });

  it("starts the stream anew when it was deleted, and reports what went with it", async () => {
    await using server = await startNatsServer();
    await using edge = new Edge(server);
    const { publisher } = edge;
    await edge.start();
    edge.publish(1, 10);
    await edge.flushed();
    await server.manage((jsm) => jsm.streams.delete("CT_fw1"));
    assert.equal(await publisher.publishAcked("mark", 11, payload(11)), 1);
    assert.deepEqual(edge.lost, [[1, 10]]);
    publisher.publish("ev", 12, payload(12));
    await edge.flushed();
    assert.deepEqual(await edge.numbers(), [11, 12]);
  });

  it("goes on after a purge without reporting a loss", async () => {
    await using server = await startNatsServer();
    await using edge = new Edge(server);
    const { publisher } = edge;
    await edge.start();
    edge.publish(1, 10);
    await edge.flushed();
    await server.manage((jsm) => jsm.streams.purge("CT_fw1"));
    await server.kill("SIGTERM");
    await until("the loss to be seen", () => publisher.state === "down");
    await server.start();
    assert.equal(await publisher.publishAcked("mark", 11, payload(11)), 11);
    assert.deepEqual(edge.lost, []);
  });

  it("notices another writer at once and keeps its own order", async () => {
    await using server = await startNatsServer();
    await using edge = new Edge(server);
    const { publisher } = edge;
    await edge.start();
    publisher.publish("ev", 1, payload(1));
    await edge.flushed();
    const other = await server.client();
    await other.jetstream().publish("ct.fw1.ev", payload(1, 64, 99));
    await other.close();
    assert.equal(await publisher.publishAcked("mark", 2, payload(2)), 3);
    assert.ok(publisher.counters.holes >= 1);
  });

  it("tells a broker that answers and stores nothing from one that is slow once", async () => {
    await using server = await startNatsServer();
    await using edge = new Edge(server, { limits: { ackTimeoutMs: 300 } });
    const { publisher } = edge;
    await edge.start();
    edge.publish(1, 10);
    await edge.flushed();
    await server.kill();
    // This broker answers every question, and drops what is published into the stream.
    const denied =
      'no_auth_user: n\nauthorization { users = [{ user: n, password: n, permissions: { publish: { deny: "ct.>" } } }] }';
    const deaf = new TestNatsServer(server.directory, server.port, { more: denied });
    try {
      await deaf.start();
      edge.publish(11, 20);
      const turns = publisher.counters.ackTimeouts;
      await until("the first timeout", () => publisher.counters.ackTimeouts > turns);
      assert.equal(publisher.trouble?.refused, false);
      await until("the broker is said to refuse", () => publisher.trouble?.refused === true);
    } finally {
      await deaf.kill();
    }
    await server.start();
    await edge.flushed();
    assert.equal(publisher.trouble, null);
    assert.equal((await edge.numbers()).length, 20);
  });

  it("refuses a stream that does not fit the store, in one line", async () => {
    await using server = await startNatsServer({ maxFileStore: 10_000_000 });
    await using edge = new Edge(server);
    await edge.connection.ready(30_000);
    await assert.rejects(edge.publisher.start(), (error: unknown) => {
      assert.ok(error instanceof ConntrailError);
      assert.equal(error.code, "STORE");
      assert.match(error.message, /broker\.max_bytes/);
      return true;
    });
  });

  it("brings the limits of a stream that is there up to date", async () => {
    await using server = await startNatsServer();
    for (const bytesMax of [50_000_000, 60_000_000]) {
      await using edge = new Edge(server, { retention: { maxAgeMs: 60_000, bytesMax } });
      await edge.start();
      const { config } = await server.manage((jsm) => jsm.streams.info("CT_fw1"));
      assert.equal(config.max_bytes, bytesMax);
    }
  });
});
