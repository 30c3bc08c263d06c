/** Which format version a node writes, and what readers make of the versions that they know and those that they do not. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { BatchDecoder, BatchEncoder } from "../../src/stream/format/batch.js";
import { createMessageOpener } from "../../src/stream/format/batch-view.js";
import { createPackr, foreignMessage } from "../../src/stream/format/envelope.js";
import { createEnvelopeReader, MarkCodec } from "../../src/stream/format/mark.js";
import {
  chooseFormat,
  FORMAT_1,
  FORMATS,
  type FormatVersion,
  versionNumbers,
} from "../../src/stream/format/versions.js";
import { FORMAT_2, FORMATS_2 } from "../support/format-2.js";
import { readPlain, writePlain } from "../support/msgpack.js";
import { tcpRecord } from "../support/records.js";

const ENVELOPE = { node: "fw2", epoch: 7, number: 3, stamp: 4_000_000, wallMs: 1_800_000_000_000 };
const FORMAT_3: FormatVersion = { version: 3, toWire: null, fromWire: null };

type Reads = readonly number[] | null;

/** What the peers fw2, fw3 … read, the version that this node then writes, and why. */
const CHOICES: readonly (readonly [
  writes: readonly FormatVersion[],
  reads: readonly Reads[],
  version: number,
  reason: string | null,
])[] = [
  [[FORMAT_1], [], 1, null],
  [[FORMAT_1], [null, [1, 2]], 1, null],
  [[FORMAT_1], [[2]], 1, null],
  [[FORMAT_1, FORMAT_2], [], 2, null],
  [
    [FORMAT_1, FORMAT_2],
    [
      [1, 2],
      [1, 2, 3],
    ],
    2,
    null,
  ],
  [[FORMAT_1, FORMAT_2], [[1, 2], [1]], 1, "fw3 reads only 1"],
  [[FORMAT_1, FORMAT_2], [null, [1, 2]], 1, "fw2 has not been heard"],
  [[FORMAT_1, FORMAT_2], [null, [1]], 1, "fw2 has not been heard, fw3 reads only 1"],
  [[FORMAT_1, FORMAT_2], [[2]], 2, null],
  [[FORMAT_1, FORMAT_2], [[2], [1]], 1, "fw3 reads only 1"],
  [[FORMAT_1, FORMAT_2], [[]], 1, "fw2 reads none"],
  [
    [FORMAT_1, FORMAT_2, FORMAT_3],
    [
      [1, 2],
      [1, 2, 3],
    ],
    2,
    "fw2 reads only 1 and 2",
  ],
  [
    [FORMAT_1, FORMAT_2, FORMAT_3],
    [
      [1, 3],
      [1, 2],
    ],
    1,
    "fw3 reads only 1 and 2",
  ],
  [[FORMAT_1, FORMAT_2, FORMAT_3], [[3], [2]], 1, "fw3 reads only 2"],
  [[FORMAT_2, FORMAT_3], [[1]], 2, "fw2 reads only 1"],
  [[FORMAT_2, FORMAT_3], [null, [2, 3]], 2, "fw2 has not been heard"],
  [
    [FORMAT_1, FORMAT_2],
    [[1], null, [1], [1], [1, 2], [1]],
    1,
    "fw2 reads only 1, fw3 has not been heard, fw4 reads only 1, 2 more",
  ],
];

describe("the version that a node writes", () => {
  for (const [writes, reads, version, reason] of CHOICES) {
    it(`is ${version} of ${versionNumbers(writes)} for peers that read ${JSON.stringify(reads)}`, () => {
      const readers = reads.map((known, index) => ({ node: `fw${index + 2}`, reads: known }));
      const choice = chooseFormat(writes, readers);
      assert.deepEqual([choice.format.version, choice.reason], [version, reason]);
    });
  }
});

/** A batch and a mark of a version. */
function messages(format: FormatVersion): { batch: Uint8Array; chunk: Uint8Array; mark: Uint8Array } {
  const encoder = new BatchEncoder();
  const fill = (): void => {
    encoder.addNew(5, tcpRecord(1), 0, { helper: "ftp" }, null);
    encoder.addUpdate(6, tcpRecord(2), 0, null);
    encoder.addDestroy(7, tcpRecord(3), 0, undefined);
    encoder.addMoved(8, "fw3", 3_000_000);
  };
  fill();
  const batch = Uint8Array.from(encoder.encode(ENVELOPE, null, format));
  fill();
  const chunk = Uint8Array.from(encoder.encode(ENVELOPE, { from: 0, to: 9 }, format));
  const mark = new MarkCodec().encode(ENVELOPE, { type: "role", role: "primary" }, 44, "primary", format);
  return { batch, chunk, mark: Uint8Array.from(mark) };
}

describe("a version of the format", () => {
  it("reads as any other where it is known", () => {
    for (const format of FORMATS_2.writes) {
      const { batch, chunk, mark } = messages(format);
      const decoder = new BatchDecoder(FORMATS_2);
      assert.deepEqual(decoder.decode(batch), ENVELOPE);
      const { new4, updates, destroys, moved, movedTo, rare } = decoder;
      assert.deepEqual([new4.rows, updates.rows, destroys.rows, moved.rows, movedTo], [1, 1, 1, 1, ["fw3"]]);
      assert.deepEqual([new4.flowId[0], rare[0].get(0)?.helper], [5, "ftp"]);
      assert.deepEqual(decoder.decode(chunk), ENVELOPE);
      assert.deepEqual(decoder.range, { from: 0, to: 9 });
      const opened = createMessageOpener(FORMATS_2);
      assert.deepEqual(
        [batch, chunk, mark].map((payload) => opened(payload)?.kind),
        ["ev", "snap", "mark"],
      );
      assert.deepEqual(new MarkCodec(FORMATS_2).decode(mark), {
        envelope: ENVELOPE,
        mark: { type: "role", role: "primary" },
        snapshotSequence: 44,
        role: "primary",
      });
    }
  });

  it("is refused where it is not known, and its envelope is read all the same", () => {
    const packr = createPackr();
    for (const payload of Object.values(messages(FORMAT_2))) {
      assert.equal(new BatchDecoder().decode(payload), null);
      assert.equal(new MarkCodec().decode(payload), null);
      assert.equal(createMessageOpener()(payload), null);
      assert.deepEqual(createEnvelopeReader()(payload), ENVELOPE);
      assert.deepEqual(foreignMessage(packr, payload, FORMATS), { version: 2, envelope: ENVELOPE });
      assert.equal(foreignMessage(packr, payload, FORMATS_2), null);
    }
    for (const payload of Object.values(messages(FORMAT_1))) {
      assert.equal(foreignMessage(packr, payload, FORMATS), null);
    }
  });

  it("of a message without a sound envelope is no version", () => {
    const packr = createPackr();
    const map = readPlain(messages(FORMAT_2).batch) as Record<string, never>;
    for (const wrong of [{ v: -1 }, { v: "2" }, { v: 1.5 }, { e: "x" }, { h: 2 ** 53 }]) {
      assert.equal(foreignMessage(packr, writePlain({ ...map, ...wrong }), FORMATS), null, JSON.stringify(wrong));
    }
    for (const payload of [new Uint8Array(), Uint8Array.of(0xc1), writePlain([2]), writePlain({ v: 2 })]) {
      assert.equal(foreignMessage(packr, payload, FORMATS), null);
      assert.equal(createEnvelopeReader()(payload), null);
    }
  });
});
