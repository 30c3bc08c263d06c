import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { ConntrailError } from "../../src/errors.js";
import { connectBroker } from "../../src/stream/connection.js";
import { readLastOf } from "../../src/stream/own-stream.js";
import { Publisher } from "../../src/stream/publisher.js";
import type { PublisherOptions } from "../../src/stream/publisher-options.js";
import {
  natsServerMissing,
  silentLogger,
  startNatsServer,
  type TestNatsServer,
  until,
} from "../support/nats-server.js";

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

function setUp(server: TestNatsServer, options: Partial<PublisherOptions> = {}) {
  const log = silentLogger();
  const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log });
  const publisher = new Publisher({
    node: "fw1",
    epoch: EPOCH,
    connection,
    retention: { maxAgeMs: 3_600_000, bytesMax: 1024 ** 3 },
    readNumber: (message) => readNumber(message.payload),
    log,
    ...options,
  });
  return {
    connection,
    publisher,
    async [Symbol.asyncDispose]() {
      publisher.close();
      await connection.close();
    },
  };
}

/** Every number in the stream, in its order. */
async function numbersIn(server: TestNatsServer): Promise<number[]> {
  const client = await server.client();
  try {
    const consumer = await client.jetstream().consumers.get("CT_fw1");
    const numbers: number[] = [];
    let left = (await consumer.info(true)).num_pending;
    while (left > 0) {
      for await (const message of await consumer.fetch({ max_messages: Math.min(left, 1000), expires: 2000 })) {
        numbers.push(readNumber(message.data)!.number);
        left--;
      }
    }
    return numbers;
  } finally {
    await client.close();
  }
}

function upTo(last: number): number[] {
  return Array.from({ length: last }, (_, i) => i + 1);
}

describe("publisher", { skip: natsServerMissing() }, () => {
  it("creates its stream, confirms what it sends and finds the last mark again", async () => {
    await using server = await startNatsServer();
    await using edge = setUp(server);
    const { publisher, connection } = edge;
    await connection.ready(30_000);
    await publisher.start();
    assert.equal(publisher.state, "up");
    assert.equal(await server.manage((jsm) => readLastOf(jsm, "fw1", "mark")), null);
    assert.equal(publisher.publish("ev", 1, payload(1)), "sent");
    assert.equal(await publisher.publishAcked("mark", 2, payload(2)), 2);
    assert.equal(publisher.publish("ev", 3, payload(3)), "sent");
    assert.equal(await publisher.flush(30_000), true);
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
    await using edge = setUp(server);
    const { publisher, connection } = edge;
    await connection.ready(30_000);
    await publisher.start();
    for (let n = 1; n <= 5000; n++) publisher.publish("ev", n, payload(n));
    await until("the confirmation of all", () => publisher.confirmedNumber === 5000);
    assert.ok(publisher.counters.confirms < 20, `${publisher.counters.confirms} confirms`);
    assert.deepEqual(await numbersIn(server), upTo(5000));
  });

  it("loses nothing, repeats nothing and keeps the order when the server is killed in mid stream", async () => {
    await using server = await startNatsServer();
    const lost: number[][] = [];
    await using edge = setUp(server, { onLost: (first, last) => lost.push([first, last]) });
    const { publisher, connection } = edge;
    await connection.ready(30_000);
    await publisher.start();
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
    assert.equal(await publisher.flush(30_000), true);
    assert.deepEqual(lost, []);
    assert.ok(publisher.counters.resent > 0);
    assert.deepEqual(await numbersIn(server), upTo(number));
  });

  it("neither repeats nor loses when a frozen server wakes with an old connection's messages in its socket", async () => {
    await using server = await startNatsServer();
    await using edge = setUp(server, { limits: { ackTimeoutMs: 500 } });
    const { publisher, connection } = edge;
    await connection.ready(30_000);
    await publisher.start();
    for (let n = 1; n <= 100; n++) publisher.publish("ev", n, payload(n));
    assert.equal(await publisher.flush(30_000), true);
    server.pause();
    for (let n = 101; n <= 1500; n++) publisher.publish("ev", n, payload(n, 512));
    await until("the connection to be given up", () => !connection.connected);
    server.resume();
    await until("publishing to resume", () => publisher.state === "up");
    for (let n = 1501; n <= 1600; n++) publisher.publish("ev", n, payload(n));
    assert.equal(await publisher.flush(30_000), true);
    assert.deepEqual(await numbersIn(server), upTo(1600));
  });

  it("holds while the broker is away, drops the oldest beyond its bounds and says which are lost", async () => {
    await using server = await startNatsServer();
    const lost: number[][] = [];
    const states: string[] = [];
    let number = 0;
    await using edge = setUp(server, {
      limits: { ringMessagesMax: 100, ringBytesMax: 1_000_000, windowMessagesMax: 40, askMessages: 20 },
      onLost: (first, last) => {
        lost.push([first, last]);
        publisher.publish("mark", ++number, payload(number));
      },
      onStateChange: (state) => states.push(state),
    });
    const { publisher, connection } = edge;
    await connection.ready(30_000);
    await publisher.start();
    while (number < 10) publisher.publish("ev", ++number, payload(number));
    assert.equal(await publisher.flush(30_000), true);
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
    assert.equal(await publisher.flush(30_000), true);
    assert.deepEqual(await numbersIn(server), [...upTo(10), ...upTo(202).slice(101)]);
    assert.deepEqual(states, ["up", "down", "up"]);
  });

  it("starts the stream anew when it was deleted, and reports what went with it", async () => {
    await using server = await startNatsServer();
    const lost: number[][] = [];
    await using edge = setUp(server, { onLost: (first, last) => lost.push([first, last]) });
    const { publisher, connection } = edge;
    await connection.ready(30_000);
    await publisher.start();
    for (let n = 1; n <= 10; n++) publisher.publish("ev", n, payload(n));
    assert.equal(await publisher.flush(30_000), true);
    await server.manage((jsm) => jsm.streams.delete("CT_fw1"));
    assert.equal(await publisher.publishAcked("mark", 11, payload(11)), 1);
    assert.deepEqual(lost, [[1, 10]]);
    publisher.publish("ev", 12, payload(12));
    assert.equal(await publisher.flush(30_000), true);
    assert.deepEqual(await numbersIn(server), [11, 12]);
  });

  it("goes on after a purge without reporting a loss", async () => {
    await using server = await startNatsServer();
    const lost: number[][] = [];
    await using edge = setUp(server, { onLost: (first, last) => lost.push([first, last]) });
    const { publisher, connection } = edge;
    await connection.ready(30_000);
    await publisher.start();
    for (let n = 1; n <= 10; n++) publisher.publish("ev", n, payload(n));
    assert.equal(await publisher.flush(30_000), true);
    await server.manage((jsm) => jsm.streams.purge("CT_fw1"));
    await server.kill("SIGTERM");
    await until("the loss to be seen", () => publisher.state === "down");
    await server.start();
    assert.equal(await publisher.publishAcked("mark", 11, payload(11)), 11);
    assert.deepEqual(lost, []);
  });

  it("notices another writer at once and keeps its own order", async () => {
    await using server = await startNatsServer();
    await using edge = setUp(server);
    const { publisher, connection } = edge;
    await connection.ready(30_000);
    await publisher.start();
    publisher.publish("ev", 1, payload(1));
    assert.equal(await publisher.flush(30_000), true);
    const other = await server.client();
    await other.jetstream().publish("ct.fw1.ev", payload(1, 64, 99));
    await other.close();
    assert.equal(await publisher.publishAcked("mark", 2, payload(2)), 3);
    assert.ok(publisher.counters.holes >= 1);
  });

  it("refuses a stream that does not fit the store, in one line", async () => {
    await using server = await startNatsServer({ maxFileStore: 10_000_000 });
    await using edge = setUp(server);
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
      await using edge = setUp(server, { retention: { maxAgeMs: 60_000, bytesMax } });
      await edge.connection.ready(30_000);
      await edge.publisher.start();
      const { config } = await server.manage((jsm) => jsm.streams.info("CT_fw1"));
      assert.equal(config.max_bytes, bytesMax);
    }
  });
});
