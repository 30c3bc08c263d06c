/** Fail today: copy to test/unit/ and mend src/sync/applier.ts and src/sync/restore.ts. */

import assert from "node:assert/strict";
import { it } from "node:test";
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock } from "../../src/flow/clock.js";
import { FORMATS } from "../../src/stream/format/versions.js";
import { Applier } from "../../src/sync/in/applier.js";
import { restoreInternal } from "../../src/sync/in/restore.js";
import { Journal } from "../../src/sync/out/journal.js";
import { MemoryStream } from "../support/memory-stream.js";
import { decodedFlow, tcpRecord } from "../support/records.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";

const log = pino({ level: "silent" });
const clock = { wallMs: () => 1_800_000_000_000 };
const hybridClock = new HybridClock(clock);

it("a snapshot that a crash cut short is over with the next epoch, also when that goes on", () => {
  const external = new ExternalCache(100);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock, log });
  const fw2 = new StreamWriter("fw2");
  const read = (message: WrittenMessage): void => assert.ok(applier.apply(message, 0));
  read(fw2.mark({ type: "snapshot-begin", id: 5, flows: 0 }));
  read(fw2.restart(true));
  assert.equal(applier.inSnapshot, false, "or nobody asks for another one");
});

it("of equal stamps the lesser name is newer, also between a peer and this node", () => {
  const internal = new InternalCache(10);
  const external = new ExternalCache(10);
  const local = { node: "fw2", internal, sinceStamp: 0 };
  const slot = internal.upsert(decodedFlow(tcpRecord(1)), 0);
  internal.settle(1, 1010);
  for (const [peer, wins] of [
    ["fw3", false],
    ["fw1", true],
  ] as const) {
    const writer = new StreamWriter(peer);
    const applier = new Applier({ node: peer, external, local, hybridClock, log });
    applier.apply(
      writer.events((batch) => batch.addNew(7, tcpRecord(1), 0, null, null)),
      0,
    );
    assert.equal(internal.isSuperseded(slot), wins, peer);
  }
});

it("a restart does not take back flows that it gave up, nor lose those that have their flow ids now", async () => {
  const stream = new MemoryStream();
  const internal = new InternalCache(100);
  const journal = new Journal({
    node: "fw1",
    epoch: 10,
    continues: null,
    internal,
    sink: stream,
    clock,
    hybridClock,
    log,
  });
  await journal.writeSnapshot(new AbortController().signal);
  const gone = internal.upsert(decodedFlow(tcpRecord(1)), 0);
  internal.upsert(decodedFlow(tcpRecord(2)), 0);
  journal.writePending();
  internal.supersede(gone, { node: "fw2", stamp: hybridClock.next() });
  journal.writePending();
  const restored = async (): Promise<(number | boolean)[]> => {
    const again = new InternalCache(100);
    const tail = { lastMark: (await stream.readLast("mark"))!.payload, lastSequence: stream.messages.length };
    await restoreInternal(
      stream,
      tail,
      { node: "fw1", internal: again, formats: FORMATS, hybridClock, log },
      AbortSignal.timeout(5000),
    );
    return [1, 2, 3].map((tuple) => {
      const slot = again.table.find(tcpRecord(tuple), 0);
      return slot >= 0 && !again.isSuperseded(slot) ? slot : -1;
    });
  };
  assert.deepEqual(await restored(), [-1, 1, -1], "fw2 carries it, whatever this kernel still has");
  internal.destroy(decodedFlow(tcpRecord(1)), 0);
  journal.writePending();
  assert.equal(internal.upsert(decodedFlow(tcpRecord(3)), 0), gone, "the flow id stands for another flow now");
  journal.writePending();
  assert.deepEqual(await restored(), [-1, 1, gone]);
});
