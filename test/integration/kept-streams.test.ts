/** What `status` says of the streams that a broker keeps. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { connectBroker } from "../../src/stream/connection.js";
import { subject } from "../../src/stream/format/subjects.js";
import { keptStreams } from "../../src/stream/kept-streams.js";
import { ensureStream } from "../../src/stream/own-stream.js";
import { natsServerMissing, silentLogger, startNatsServer } from "../support/nats-server.js";

it("streams are told with what there is of them and what was cut off", { skip: natsServerMissing() }, async () => {
  await using server = await startNatsServer();
  const connection = connectBroker({
    servers: [server.address],
    node: "fw1",
    purpose: "test",
    log: silentLogger(),
  });
  try {
    const client = await connection.ready(30_000);
    const jsm = await client.jetstreamManager({ checkAPI: false });
    assert.deepEqual(await keptStreams(connection), []);
    await ensureStream(jsm, "fw2", { maxAgeMs: 3_600_000, bytesMax: 64 * 1024 });
    await ensureStream(jsm, "fw1", { maxAgeMs: 3_600_000, bytesMax: 1024 ** 2 });
    const before = Date.now();
    for (let i = 0; i < 40; i++) await client.jetstream().publish(subject("fw2", "ev"), new Uint8Array(4096));
    const [fw1, fw2] = await keptStreams(connection);
    assert.deepEqual(fw1, { node: "fw1", messages: 0, bytes: 0, sinceMs: null, cut: 0 });
    assert.ok(fw2!.messages > 5 && fw2!.cut > 5 && fw2!.messages + fw2!.cut === 40, JSON.stringify(fw2));
    assert.ok(fw2!.bytes > 4096 && fw2!.bytes <= 64 * 1024);
    assert.ok(fw2!.sinceMs! >= before - 1 && fw2!.sinceMs! <= Date.now());
  } finally {
    await connection.close();
  }
});
