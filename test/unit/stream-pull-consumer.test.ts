import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Msg, NatsConnection } from "nats";
import { PullConsumer } from "../../src/stream/pull-consumer.js";
import type { StreamAccess } from "../../src/stream/stream-access.js";

/** A consumer with room for so much, and a broker that sends whatever the test says. */
async function setUp(room: { messages: number; bytes: number }) {
  let callback: (error: null, msg: Msg) => void = () => undefined;
  const taken: number[] = [];
  const failures: string[] = [];
  const client = {
    subscribe: (_: string, options: { callback: typeof callback }) => {
      callback = options.callback;
      return { unsubscribe: () => undefined };
    },
    publish: () => undefined,
    isClosed: () => true,
  };
  const consumer = new PullConsumer({
    client: client as unknown as NatsConnection,
    access: { consume: async () => "reading", release: async () => true } as unknown as StreamAccess,
    reader: "fw1",
    name: "fw2",
    startSequence: 1,
    // There is no more room until the caller has taken what came.
    room: () => (taken.length === 0 ? room : { messages: 0, bytes: 0 }),
    roomMin: { messages: 1, bytes: 1 },
    onMessage: (_, { sequence }) => {
      taken.push(sequence);
      return true;
    },
    onFailure: (failure) => failures.push(failure),
    onStray: () => undefined,
  });
  await consumer.start();
  let sequence = 0;
  const send = (bytes: number): void => {
    sequence++;
    const reply = `$JS.ACK.CT_fw2.reading.1.${sequence}.${sequence}.1769900000000000000.9`;
    callback(null, { subject: "ct.fw2.ev", reply, data: new Uint8Array(bytes) } as unknown as Msg);
  };
  return { consumer, taken, failures, send };
}

describe("pull consumer", () => {
  it("takes what it asked for, and ends at the first message beyond that", async () => {
    const { consumer, taken, failures, send } = await setUp({ messages: 3, bytes: 1000 });
    for (let i = 0; i < 3; i++) send(10);
    assert.deepEqual([taken, failures], [[1, 2, 3], []]);
    for (let i = 0; i < 1000; i++) send(10);
    assert.deepEqual([taken, failures], [[1, 2, 3], ["excess"]]);
    await consumer.delete(false);
  });

  it("ends at the first message that is larger than what it asked for", async () => {
    const { consumer, taken, failures, send } = await setUp({ messages: 100, bytes: 1000 });
    send(600);
    send(401);
    send(1);
    assert.deepEqual([taken, failures], [[1], ["excess"]]);
    await consumer.delete(false);
  });
});
