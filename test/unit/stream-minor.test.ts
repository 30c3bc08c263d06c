/** A newer build of the same format version adds keys. Both readers skip them, and nothing is refused or asked for again. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { HybridClock } from "../../src/flow/clock.js";
import { createMessageOpener } from "../../src/stream/format/batch-view.js";
import { createPackr } from "../../src/stream/format/envelope.js";
import { PackedOpener } from "../../src/stream/format/packed-message.js";
import { Applier } from "../../src/sync/in/applier.js";
import { type Plain, readPlain, writePlain } from "../support/msgpack.js";
import { tcpRecord } from "../support/records.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";

type Fields = { [key: string]: Plain };

const SECTIONS = ["n4", "n6", "u", "d", "mv"];
/** Values of every kind under keys of every length. */
const ADDED: Fields = {
  Z: 1,
  zz: "text",
  zzz: [1, { z: null }],
  "a key of many characters": { z: true },
};
const COLUMN = { Z: new Uint8Array(9), ZZ: new Uint8Array(300), later: new Uint8Array(1) };

function grown(value: Plain | undefined, more: Fields): Plain {
  return { ...(value as Fields), ...more };
}

/** The message with keys added in every map that it has. */
function newer({ kind, payload }: WrittenMessage): Fields {
  const map = readPlain(payload) as Fields;
  for (const key of SECTIONS) if (map[key] !== undefined) map[key] = grown(map[key], COLUMN);
  if (map.r !== undefined) {
    map.r = (map.r as Plain[][]).map(([section, row, rare]) => [section!, row!, grown(rare, ADDED)]);
  }
  if (kind === "mark") map.m = grown(map.m, ADDED);
  return { ...ADDED, ...map, Q: 2, "another key": 3 };
}

/** A whole snapshot, and then one message with every section. */
function written(): WrittenMessage[] {
  const fw2 = new StreamWriter("fw2");
  const add = (flowId: number) => (batch: Parameters<Parameters<StreamWriter["events"]>[0]>[0]) =>
    batch.addNew(flowId, tcpRecord(flowId), 0, { helper: "ftp" }, null);
  return [
    fw2.mark({ type: "epoch", reason: "start", previousEpoch: 0, previousNumber: 0, writes: 1, reads: [1] }),
    fw2.mark({ type: "snapshot-begin", id: 5, flows: 1 }),
    fw2.chunk(0, 0xffffffff, add(1)),
    fw2.mark({ type: "snapshot-end", id: 5, flows: 1 }),
    fw2.events((batch) => {
      for (const flowId of [2, 3, 4]) add(flowId)(batch);
      batch.addUpdate(1, tcpRecord(1), 0, { helper: "sip" });
      batch.addDestroy(2, tcpRecord(2), 0, undefined);
      batch.addMoved(3, "fw3", 900);
    }),
    fw2.mark({ type: "role", role: "primary" }),
  ];
}

function applied(messages: readonly WrittenMessage[]) {
  const external = new ExternalCache(100);
  const hybridClock = new HybridClock({ wallMs: () => 1_800_000_000_000 });
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock, log: pino({ level: "silent" }) });
  for (const message of messages) assert.equal(applier.apply(message, 0), true);
  const flows = [1, 2, 3, 4].map((tuple) => external.table.find(tcpRecord(tuple), 0));
  const helpers = flows.map((slot) => (slot < 0 ? null : (external.table.rare.get(slot)?.helper ?? null)));
  const { exact, flows: owned, refusals, counters, position, begun } = applier;
  return { exact, owned, refusals, counters, position, begun, helpers };
}

describe("keys that a newer build adds", () => {
  const packr = createPackr();
  const ways: Readonly<Record<string, (map: Fields) => Uint8Array>> = {
    "as conntrail packs them": (map) => Uint8Array.from(packr.pack(map)),
    "as another library packs them": (map) => writePlain(map),
  };
  for (const [way, pack] of Object.entries(ways)) {
    const before = written();
    const after = before.map((message) => ({ ...message, payload: pack(newer(message)) }));

    it(`are skipped by a node, which stays in sync: ${way}`, () => {
      const found = applied(after);
      assert.deepEqual(found, applied(before));
      assert.deepEqual([found.exact, found.refusals.refused, found.counters.holes], [true, 0, 0]);
      // The third waits for the claim of fw3.
      assert.deepEqual(found.helpers, ["sip", null, "ftp", "ftp"]);
    });

    it(`are skipped by the history: ${way}`, () => {
      const open = createMessageOpener();
      for (const [index, { payload }] of after.entries()) {
        const found = open(payload);
        assert.notEqual(found, null);
        const { kind, envelope } = open(before[index]!.payload)!;
        assert.deepEqual([found?.kind, found?.envelope], [kind, envelope]);
        if (way === "as conntrail packs them") assert.notEqual(new PackedOpener().open(payload), null, "unpacked");
      }
    });
  }
});
