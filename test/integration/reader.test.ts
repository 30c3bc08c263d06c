import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { connectBroker } from "../../src/stream/connection.js";
import type { MessageKind } from "../../src/stream/format/subjects.js";
import { type ReaderItem, StreamReader, type StreamReaderOptions } from "../../src/stream/reader.js";
import {
  freePort,
  natsServerMissing,
  silentLogger,
  startNatsServer,
  TestNatsServer,
  temporaryDirectory,
  until,
} from "../support/nats-server.js";

function setUp(address: string, options: Partial<StreamReaderOptions> = {}) {
  const connection = connectBroker({ servers: [address], node: "fw2", purpose: "test", log: silentLogger() });
  const reader = new StreamReader({ connection, node: "fw1", log: silentLogger(), ...options });
  const stop = new AbortController();
  return {
    connection,
    reader,
    stop,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await connection.close();
    },
  };
}

/** Reads in the background and keeps what came. */
function collect(reader: StreamReader, startSequence: number, signal: AbortSignal) {
  const items: ReaderItem[] = [];
  const sequences: number[] = [];
  const done = (async () => {
    for await (const batch of reader.read(startSequence, signal)) {
      for (const item of batch) {
        if (item.type === "message") sequences.push(item.sequence);
        else items.push(item);
      }
    }
  })();
  return { items, sequences, done };
}

async function createStream(server: TestNatsServer, more: object = {}): Promise<void> {
  await server.manage((jsm) =>
    jsm.streams.add({ name: "CT_fw1", subjects: ["ct.fw1.>"], allow_direct: true, ...more }),
  );
}

async function publish(server: TestNatsServer, count: number, bytes = 100, kind: MessageKind = "ev"): Promise<void> {
  const client = await server.client();
  const js = client.jetstream();
  const body = new Uint8Array(bytes).fill(7);
  for (let sent = 0; sent < count; sent += 200) {
    const some = Math.min(200, count - sent);
    await Promise.all(Array.from({ length: some }, () => js.publish(`ct.fw1.${kind}`, body)));
  }
  await client.close();
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

async function consumersOf(server: TestNatsServer): Promise<number> {
  return (await server.manage((jsm) => jsm.streams.info("CT_fw1"))).state.consumer_count;
}

describe("reader", { skip: natsServerMissing() }, () => {
  it("reads what is there and what comes, from a given place, and leaves no consumer behind", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await publish(server, 50);
    await using edge = setUp(server.address);
    const { sequences, items, done } = collect(edge.reader, 11, edge.stop.signal);
    await until("the stored messages", () => sequences.length === 40);
    await publish(server, 5, 100, "mark");
    await until("the new messages", () => sequences.length === 45);
    assert.deepEqual(sequences, range(11, 55));
    assert.deepEqual(items, [{ type: "state", connected: true }]);
    assert.equal(await consumersOf(server), 1);
    edge.stop.abort();
    await done;
    assert.equal(await consumersOf(server), 0);
  });

  it("leaves no consumer behind when its caller breaks off, and tells kind, time and what is pending", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await publish(server, 3, 100, "snap");
    await using edge = setUp(server.address);
    for await (const batch of edge.reader.read(0, edge.stop.signal)) {
      const first = batch.find((item) => item.type === "message");
      if (first?.type !== "message") continue;
      assert.equal(first.kind, "snap");
      assert.equal(first.pending, 2);
      assert.ok(Math.abs(first.timeMs - Date.now()) < 60_000);
      assert.deepEqual([...first.payload], new Array(100).fill(7));
      break;
    }
    assert.equal(await consumersOf(server), 0);
  });

  it("tells of the places of messages that are none of ours, so that their end is seen", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await using edge = setUp(server.address);
    await publish(server, 1);
    const client = await server.client();
    for (let i = 0; i < 3; i++) await client.jetstream().publish("ct.fw1.other", "");
    await client.close();
    const items: ReaderItem[] = [];
    for await (const batch of edge.reader.read(1, edge.stop.signal)) {
      items.push(...batch.filter(({ type }) => type !== "state"));
      const last = items.at(-1);
      if (last?.type === "skipped" && last.pending === 0) edge.stop.abort();
    }
    assert.equal(items[0]?.type, "message");
    assert.deepEqual(items.at(-1), { type: "skipped", sequence: 4, pending: 0 });
    assert.equal(edge.reader.counters.malformed, 3);
  });

  it("finds the last message of a kind", async () => {
    await using server = await startNatsServer();
    await using edge = setUp(server.address);
    assert.equal(await edge.reader.readLast("mark"), null);
    await createStream(server);
    assert.equal(await edge.reader.readLast("mark"), null);
    await publish(server, 2, 10, "mark");
    await publish(server, 2, 20, "ev");
    const last = await edge.reader.readLast("mark");
    assert.equal(last?.sequence, 2);
    assert.equal(last?.kind, "mark");
    assert.equal(last?.payload.length, 10);
  });

  it("waits for a broker and a stream that are not there yet", async () => {
    await using directory = await temporaryDirectory();
    await using server = new TestNatsServer(directory.path, await freePort(), {});
    await using edge = setUp(server.address);
    const { sequences, done } = collect(edge.reader, 1, edge.stop.signal);
    const last = edge.reader.readLast("mark", edge.stop.signal);
    await server.start();
    assert.equal(await last, null);
    await until("the connection", () => edge.connection.connected);
    await createStream(server);
    await publish(server, 3);
    await until("the messages", () => sequences.length === 3);
    edge.stop.abort();
    await done;
  });

  it("goes on without loss or repetition when the server is killed again and again", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await using edge = setUp(server.address, { windowMessagesMax: 64 });
    const { sequences, items, done } = collect(edge.reader, 1, edge.stop.signal);
    for (let round = 1; round <= 3; round++) {
      const publishing = publish(server, 2000, 1000).catch(() => undefined);
      await until("messages", () => sequences.length > (round - 1) * 2000 + 300);
      await publishing;
      await server.kill();
      await until("the loss to be told", () => items.at(-1)?.type === "state" && !edge.connection.connected);
      await server.start();
      await until("all of the round", () => sequences.length === round * 2000);
    }
    assert.deepEqual(sequences, range(1, 6000));
    edge.stop.abort();
    await done;
    assert.equal(edge.reader.counters.resets, 0);
    assert.equal(edge.reader.counters.missedHeartbeats, 0);
  });

  it("makes a new consumer when its own is deleted", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await publish(server, 10);
    await using edge = setUp(server.address);
    const { sequences, done } = collect(edge.reader, 1, edge.stop.signal);
    await until("the messages", () => sequences.length === 10);
    await server.manage(async (jsm) => {
      for await (const consumer of jsm.consumers.list("CT_fw1")) await jsm.consumers.delete("CT_fw1", consumer.name);
    });
    await publish(server, 10);
    await until("the later messages", () => sequences.length === 20);
    assert.deepEqual(sequences, range(1, 20));
    edge.stop.abort();
    await done;
  });

  it("ends with a reset when the stream was deleted and made anew", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await publish(server, 10);
    await using edge = setUp(server.address);
    const { sequences, items, done } = collect(edge.reader, 1, edge.stop.signal);
    await until("the messages", () => sequences.length === 10);
    await server.manage((jsm) => jsm.streams.delete("CT_fw1"));
    await createStream(server);
    await publish(server, 20);
    await done;
    assert.deepEqual(items.at(-1), { type: "reset", reason: "recreated" });
    assert.deepEqual(sequences, range(1, 10));
  });

  it("ends with a reset when its place was trimmed away or lies beyond the end", async () => {
    await using server = await startNatsServer();
    await createStream(server, { max_msgs: 10 });
    await publish(server, 30);
    await using edge = setUp(server.address);
    for (const [start, reason] of [
      [5, "trimmed"],
      [40, "truncated"],
    ] as const) {
      const { sequences, items, done } = collect(edge.reader, start, edge.stop.signal);
      await done;
      assert.deepEqual(items, [{ type: "reset", reason }]);
      assert.deepEqual(sequences, []);
    }
    const whole = collect(edge.reader, 1, edge.stop.signal);
    await until("what there is", () => whole.sequences.length === 10);
    assert.deepEqual(whole.sequences, range(21, 30));
  });

  it("ends with a reset when messages are trimmed away under a slow reader", async () => {
    await using server = await startNatsServer();
    await createStream(server, { max_msgs: 100 });
    await publish(server, 20);
    await using edge = setUp(server.address, { windowMessagesMax: 8 });
    const reading = edge.reader.read(1, edge.stop.signal)[Symbol.asyncIterator]();
    const sequences: number[] = [];
    let reset = "";
    const note = (items: readonly ReaderItem[]) => {
      for (const item of items) {
        if (item.type === "message") sequences.push(item.sequence);
        if (item.type === "reset") reset = item.reason;
      }
    };
    while (sequences.length === 0) note((await reading.next()).value ?? []);
    await publish(server, 300);
    for (let step = await reading.next(); !step.done; step = await reading.next()) note(step.value);
    assert.equal(reset, "trimmed");
    assert.deepEqual(sequences, range(1, sequences.length));
  });

  it("steps over a hole in the middle of a stream", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await publish(server, 10);
    await server.manage((jsm) => jsm.streams.deleteMessage("CT_fw1", 5));
    await using edge = setUp(server.address);
    const { sequences } = collect(edge.reader, 1, edge.stop.signal);
    await until("the messages", () => sequences.length === 9);
    assert.deepEqual(sequences, [...range(1, 4), ...range(6, 10)]);
    assert.equal(edge.reader.counters.sequenceHoles, 1);
  });

  it("keeps no more than a window in memory for a slow caller", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await publish(server, 1000, 16_384);
    const windowBytesMax = 512 * 1024;
    await using edge = setUp(server.address, { windowMessagesMax: 1000, windowBytesMax });
    let seen = 0;
    let most = 0;
    for await (const batch of edge.reader.read(1, edge.stop.signal)) {
      const received = edge.reader.counters.bytes;
      // A slow caller: what is under way has all the time to arrive.
      await new Promise((resolve) => setTimeout(resolve, 5));
      for (const item of batch) if (item.type === "message") seen += item.payload.length;
      most = Math.max(most, edge.reader.counters.bytes - (seen - batchBytes(batch)), received - seen);
      if (seen === 1000 * 16_384) break;
    }
    assert.ok(most <= windowBytesMax, `${most} bytes at a time`);
  });

  it("fetches a message that is larger than its window", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await publish(server, 2, 100);
    await publish(server, 2, 50_000);
    await publish(server, 2, 100);
    await using edge = setUp(server.address, { windowBytesMax: 10_000 });
    const { sequences } = collect(edge.reader, 1, edge.stop.signal);
    await until("the messages", () => sequences.length === 6);
    assert.deepEqual(sequences, range(1, 6));
  });

  it("ends within a second at the signal, also when the broker does not answer", async () => {
    const all: number[] = [];
    // One of three is quick: the machine may hold one up.
    while (all.length < 3 && !all.some((ms) => ms < 2000)) {
      await using server = await startNatsServer();
      await createStream(server);
      await publish(server, 5);
      await using edge = setUp(server.address);
      const { sequences, done } = collect(edge.reader, 1, edge.stop.signal);
      await until("the messages", () => sequences.length === 5);
      server.pause();
      const startedMs = performance.now();
      edge.stop.abort();
      await done;
      await edge.connection.close();
      all.push(performance.now() - startedMs);
    }
    assert.ok(all.at(-1)! < 2000, `${all.join(", ")} ms`);
  });

  it("notices a frozen server and reads on when it is back", async () => {
    await using server = await startNatsServer();
    await createStream(server);
    await publish(server, 5);
    await using edge = setUp(server.address);
    const { sequences, items } = collect(edge.reader, 1, edge.stop.signal);
    await until("the messages", () => sequences.length === 5);
    server.pause();
    await until("the loss to be told", () => items.some((item) => item.type === "state" && !item.connected));
    server.resume();
    await publish(server, 5);
    await until("the later messages", () => sequences.length === 10);
    assert.deepEqual(sequences, range(1, 10));
  });
});

function batchBytes(batch: readonly ReaderItem[]): number {
  return batch.reduce((sum, item) => sum + (item.type === "message" ? item.payload.length : 0), 0);
}
