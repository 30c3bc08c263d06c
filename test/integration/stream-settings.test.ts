/** Whoever reaches the broker may change any setting of a stream: all of them are put right, and publishing goes on. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { JetStreamManager, StreamConfig } from "nats";
import { connectBroker } from "../../src/stream/connection.js";
import { ensureStream } from "../../src/stream/own-stream.js";
import { Publisher } from "../../src/stream/publisher.js";
import { natsServerMissing, silentLogger, startNatsServer, until } from "../support/nats-server.js";

const RETENTION = { maxAgeMs: 3_600_000, bytesMax: 1024 ** 3 };

const CHANGES: readonly (readonly [what: string, change: Partial<StreamConfig>])[] = [
  ["one message of each subject is kept", { max_msgs_per_subject: 1 }],
  ["ten messages are kept", { max_msgs: 10 }],
  ["small messages only are taken", { max_msg_size: 10 }],
  ["nothing is acknowledged", { no_ack: true }],
  ["a full stream refuses in place of removing", { discard: "new" as StreamConfig["discard"] }],
  ["a minute is kept", { max_age: 60_000_000_000, duplicate_window: 60_000_000_000 }],
  ["other subjects are taken as well", { subjects: ["ct.fw1.>", "other.>"] }],
  ["nothing can be asked for directly", { allow_direct: false }],
  ["roll-ups remove what was before", { allow_rollup_hdrs: true }],
];

/** What an update cannot do: the stream is another one of that name. */
const REPLACED: readonly (readonly [what: string, change: Partial<StreamConfig>])[] = [
  ["it is sealed", { sealed: true }],
  ["it lies in memory", { storage: "memory" as StreamConfig["storage"], max_bytes: 1024 ** 2 }],
  ["messages go to another subject as well", { republish: { src: "ct.fw1.ev", dest: "elsewhere" } }],
  ["it is a work queue", { retention: "workqueue" as StreamConfig["retention"] }],
  ["it cannot be emptied", { deny_purge: true }],
];

async function meddle(jsm: JetStreamManager, change: Partial<StreamConfig>, anew: boolean): Promise<void> {
  const { config } = await jsm.streams.info("CT_fw1");
  if (!anew || change.sealed === true) {
    await jsm.streams.update("CT_fw1", { ...config, ...change });
    return;
  }
  await jsm.streams.delete("CT_fw1");
  await jsm.streams.add({ ...config, ...change });
}

describe("the settings of a stream", { skip: natsServerMissing() }, () => {
  it("a stream that nobody touched is left alone, whatever this server adds to its settings", async () => {
    await using server = await startNatsServer();
    await server.manage(async (jsm) => {
      assert.equal(await ensureStream(jsm, "fw1", RETENTION), null);
      assert.equal(await ensureStream(jsm, "fw1", RETENTION), null);
      await jsm.streams.update("CT_fw1", { description: "of somebody" });
      assert.equal(await ensureStream(jsm, "fw1", RETENTION), null);
    });
  });

  for (const [what, change] of [...CHANGES, ...REPLACED]) {
    it(`${what}: put right when the broker is there again`, async () => {
      await using server = await startNatsServer();
      const log = silentLogger();
      const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log });
      const lost: number[] = [];
      const publisher = new Publisher({
        node: "fw1",
        epoch: 1,
        connection,
        retention: RETENTION,
        readNumber: ({ payload }) => ({ epoch: 1, number: Buffer.from(payload).readUInt32BE(0) }),
        log,
        onLost: (first) => lost.push(first),
      });
      const payload = (number: number): Uint8Array => {
        const bytes = Buffer.alloc(64);
        bytes.writeUInt32BE(number, 0);
        return bytes;
      };
      try {
        await connection.ready(30_000);
        await publisher.start();
        assert.equal(await publisher.publishAcked("ev", 1, payload(1)), 1);
        const before = await server.manage((jsm) => jsm.streams.info("CT_fw1"));
        await server.manage((jsm) =>
          meddle(
            jsm,
            change,
            REPLACED.some(([other]) => other === what),
          ),
        );
        await server.kill("SIGTERM");
        await server.start();
        await until("publishing to resume", () => publisher.state === "up");
        assert.ok((await publisher.publishAcked("mark", 2, payload(2))) !== null);
        const after = await server.manage((jsm) => jsm.streams.info("CT_fw1"));
        assert.deepEqual(after.config, before.config);
        if (REPLACED.some(([other]) => other === what)) assert.deepEqual(lost, [1]);
      } finally {
        publisher.close();
        await connection.close();
      }
    });
  }
});
