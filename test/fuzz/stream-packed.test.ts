/** Messages that are looked through without being unpacked: found malformed, and holding the same rows, just where msgpackr says so. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { BatchEncoder } from "../../src/stream/format/batch.js";
import { BatchView, createMessageOpener } from "../../src/stream/format/batch-view.js";
import { createPackr, envelopeOf, type OpenedMessage, unpackMessage } from "../../src/stream/format/envelope.js";
import { type Mark, MarkCodec } from "../../src/stream/format/mark.js";
import { PackedOpener } from "../../src/stream/format/packed-message.js";
import { FORMATS } from "../../src/stream/format/versions.js";
import { expectationArbitrary } from "../support/expectation-arbitrary.js";
import { readPlain, writePlain } from "../support/msgpack.js";
import { anyRecord, Random, randomRare } from "../support/records.js";

const ROWS_MAX = 12;
const NAMES = ["fw2", "fw-3", "a-node-with-the-longest-name_32b"];
const packr = createPackr();

function anyMessage(random: Random, expectations: Parameters<BatchEncoder["addExpectation"]>[0][]): Uint8Array {
  const number = random.below(70_000);
  const envelope = { node: random.pick(NAMES), epoch: 3, number, stamp: 2 ** 52 + number, wallMs: 1_800_000_000_123 };
  if (random.oneIn(8)) {
    const mark: Mark = { type: "epoch", reason: "a test", previousEpoch: 2, previousNumber: number };
    return Uint8Array.from(new MarkCodec().encode(envelope, mark, number, random.oneIn(2) ? "primary" : "unknown"));
  }
  const encoder = new BatchEncoder();
  const rare = () => (random.oneIn(3) ? randomRare(random) : null);
  const rows = () => (random.oneIn(3) ? 0 : random.below(ROWS_MAX));
  for (let i = rows(); i > 0; i--)
    encoder.addNew(i, anyRecord(random), 0, rare(), random.oneIn(2) ? null : { stamp: i });
  for (let i = rows(); i > 0; i--) encoder.addUpdate(i, anyRecord(random), 0, rare());
  const end = { has: 0x60, counters: Float64Array.of(1, 2, 3, 4), timesMicros: Float64Array.of(5, 6) };
  for (let i = rows(); i > 0; i--) encoder.addDestroy(i, anyRecord(random), 0, random.oneIn(2) ? end : undefined);
  for (let i = rows(); i > 0; i--) encoder.addMoved(i, random.pick(NAMES), 2 ** 52 + i);
  for (const expectation of expectations) encoder.addExpectation(expectation, 9, 7, random.oneIn(2) ? null : 99);
  return Uint8Array.from(encoder.encode(envelope, random.oneIn(3) ? { from: 0, to: random.word() } : null));
}

/** Cut off, with other bytes, with bytes too many or too few in the middle, or as another library packs it. */
function changed(random: Random, payload: Uint8Array): Uint8Array {
  const at = random.below(payload.length);
  switch (random.below(5)) {
    case 0:
      return payload.subarray(0, at);
    case 1:
      return Uint8Array.from([...payload.subarray(0, at), random.below(256), ...payload.subarray(at)]);
    case 2:
      return Uint8Array.from([...payload.subarray(0, at), ...payload.subarray(at + 1 + random.below(4))]);
    case 3:
      return writePlain(readPlain(payload));
    default: {
      const bytes = Uint8Array.from(payload);
      for (let i = random.below(3); i >= 0; i--) bytes[random.below(bytes.length)] = random.below(256);
      return bytes;
    }
  }
}

/** What msgpackr makes of it. */
function unpacked(payload: Uint8Array): OpenedMessage | null {
  const parts = unpackMessage(packr, payload, FORMATS);
  const envelope = parts === null ? null : envelopeOf(parts);
  const kind = parts?.k;
  if (parts === null || envelope === null || (kind !== "ev" && kind !== "snap" && kind !== "mark")) return null;
  return { kind, envelope, payload, parts };
}

const views = { packed: new BatchView(), unpacked: new BatchView() };

/** All that a view tells of a message. */
function shown(message: OpenedMessage | null, view = views.packed): unknown {
  if (message === null) return null;
  const loaded = message.kind !== "mark" && view.load(message);
  if (!loaded) return { kind: message.kind, envelope: message.envelope, loaded };
  const sections = [view.newRows(0), view.newRows(1), view.updates(), view.destroys(), view.moved()].map((section) => {
    if (section === null) return null;
    section.takeAll();
    return section.columns.map(({ values, perRow }) => Array.from(values.subarray(0, section.rows * perRow)));
  });
  const rare = ([0, 1, 2] as const).map((section) =>
    Array.from({ length: ROWS_MAX }, (_, row) => view.rare(section, row)),
  );
  const movedTo = NAMES.map((_, index) => view.movedTo(index));
  const { kind, envelope } = message;
  return { kind, envelope, loaded, rows: view.rows, range: view.range, damaged: view.damaged, sections, rare, movedTo };
}

describe("packed messages", () => {
  const expectations = fc.array(expectationArbitrary, { maxLength: 3 });

  it("are opened without msgpackr, to what it makes of them", () => {
    fc.assert(
      fc.property(fc.integer(), expectations, (seed, list) => {
        const payload = anyMessage(new Random(seed), list);
        const message = new PackedOpener().open(payload);
        assert.notEqual(message, null);
        assert.deepEqual(shown(message), shown(unpacked(payload), views.unpacked));
      }),
      { numRuns: 300 },
    );
  });

  it("are malformed where msgpackr finds them so, whatever was done to them", () => {
    const open = createMessageOpener();
    fc.assert(
      fc.property(fc.integer(), expectations, (seed, list) => {
        const random = new Random(seed);
        const payload = anyMessage(random, list);
        for (let i = 0; i < 40; i++) {
          const bytes = changed(random, payload);
          assert.deepEqual(
            shown(open(bytes)),
            shown(unpacked(bytes), views.unpacked),
            Buffer.from(bytes).toString("hex"),
          );
        }
      }),
      { numRuns: Number(process.env.PACKED_RUNS ?? 200) },
    );
  });

  it("of any bytes at all are told as msgpackr tells them", () => {
    const open = createMessageOpener();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (tail) => {
        const bytes = Uint8Array.from([0xde, 0, 8, 0xa1, 0x76, 1, ...tail]);
        assert.deepEqual(shown(open(bytes)), shown(unpacked(bytes), views.unpacked));
      }),
      { numRuns: 2000 },
    );
  });
});
