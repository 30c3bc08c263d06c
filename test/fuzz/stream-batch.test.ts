import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { RECORD_WORDS } from "../../src/flow/record.js";
import { BatchDecoder, BatchEncoder, readNewRow, readUpdateRow } from "../../src/stream/format/batch.js";
import { BATCH_ROWS_MAX } from "../../src/stream/format/columns.js";
import { createPackr } from "../../src/stream/format/envelope.js";
import { createEnvelopeReader, MarkCodec } from "../../src/stream/format/mark.js";
import { type Plain, readPlain, writePlain } from "../support/msgpack.js";
import { anyRecord, Random, randomRare, tcpRecord } from "../support/records.js";

const ENVELOPE = { node: "fw-1", epoch: 3, number: 4, stamp: 2 ** 52 + 1, wallMs: 1_800_000_000_123 };

/** A message with every section, some rows in each. */
function fullMessage(seed: number, rows: number): Uint8Array {
  const random = new Random(seed);
  const encoder = new BatchEncoder();
  for (let i = 0; i < rows; i++) {
    encoder.addNew(i, anyRecord(random), 0, randomRare(random), { stamp: 2 ** 52 });
    encoder.addUpdate(i, anyRecord(random), 0, randomRare(random));
    encoder.addDestroy(i, anyRecord(random), 0, {
      has: 0x60,
      counters: Float64Array.of(1, 2, 3, 4),
      timesMicros: Float64Array.of(5, 6),
    });
    encoder.addMoved(i, `fw-${2 + (i % 3)}`, 2 ** 52 + i);
  }
  return Uint8Array.from(encoder.encode(ENVELOPE, { from: 0, to: 100 }));
}

type Fields = { [key: string]: Plain };

function plainMap(payload: Uint8Array): Fields {
  return readPlain(payload) as Fields;
}

function section(map: Fields, key: string): Fields {
  return map[key] as Fields;
}

/** Decodes, and reads every row of what was sound. A malformed payload leaves the decoder empty. */
class Target {
  readonly #decoder = new BatchDecoder();
  readonly #marks = new MarkCodec();
  readonly #envelope = createEnvelopeReader();
  readonly #words = new Uint32Array(RECORD_WORDS);
  readonly #good = fullMessage(77, 3);

  /** True when the payload was taken. */
  takes(payload: Uint8Array): boolean {
    const decoder = this.#decoder;
    this.#marks.decode(payload);
    this.#envelope(payload);
    const envelope = decoder.decode(payload);
    const { new4, new6, updates, destroys, moved, movedTo } = decoder;
    const sections = [new4, new6, updates, destroys, moved];
    if (envelope === null) {
      assert.ok(sections.every(({ rows }) => rows === 0) && decoder.rare.every(({ size }) => size === 0));
      assert.deepEqual([decoder.range, movedTo, decoder.expectations], [null, [], []]);
      return false;
    }
    for (const { rows } of sections) assert.ok(Number.isInteger(rows) && rows >= 0 && rows <= BATCH_ROWS_MAX);
    for (const part of [new4, new6]) for (let row = 0; row < part.rows; row++) readNewRow(part, row, this.#words);
    for (let row = 0; row < updates.rows; row++) readUpdateRow(updates, row, this.#words, 0);
    for (let row = 0; row < moved.rows; row++) assert.equal(typeof movedTo[moved.owner[row]!], "string");
    return true;
  }

  /** A sound message is decoded as ever after whatever came before. */
  assertUnharmed(): void {
    assert.deepEqual(this.#decoder.decode(this.#good), ENVELOPE);
    assert.deepEqual(this.#envelope(this.#good), ENVELOPE);
    assert.equal(this.#decoder.updates.rows, 3);
    assert.deepEqual([...this.#decoder.updates.flowId.subarray(0, 3)], [0, 1, 2]);
  }
}

describe("batch decoder on malformed payloads", () => {
  it("refuses a message cut off at any byte, and one with a byte too many", () => {
    const target = new Target();
    for (const payload of [fullMessage(1, 1), fullMessage(2, 5)]) {
      assert.ok(target.takes(payload));
      for (let end = 0; end < payload.length; end++) {
        assert.equal(target.takes(payload.subarray(0, end)), false, `cut at ${end}`);
      }
      assert.equal(target.takes(Uint8Array.from([...payload, 0])), false);
      target.assertUnharmed();
    }
  });

  it("survives any one byte changed", () => {
    const target = new Target();
    const payload = fullMessage(3, 2);
    for (let at = 0; at < payload.length; at++) {
      const before = payload[at]!;
      for (const byte of [0, 0x7f, 0x80, 0x90, 0xc1, 0xd4, 0xdd, 0xdf, 0xff, before ^ 1, before ^ 0x80]) {
        payload[at] = byte;
        target.takes(payload);
      }
      payload[at] = before;
    }
    target.assertUnharmed();
  });

  it("survives random bytes and random msgpack", () => {
    const target = new Target();
    const packr = createPackr();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        assert.equal(target.takes(bytes), false);
      }),
      { numRuns: 3000, seed: 1 },
    );
    fc.assert(
      fc.property(fc.object({ maxDepth: 4 }), (value) => {
        assert.equal(target.takes(packr.pack(value)), false);
        target.takes(packr.pack({ v: 1, o: "a", e: 1, n: 1, h: 1, w: 1, k: "ev", ...value }));
      }),
      { numRuns: 2000, seed: 2 },
    );
    target.assertUnharmed();
  });

  it("refuses any other version", () => {
    const target = new Target();
    const map = plainMap(fullMessage(4, 1));
    assert.ok(target.takes(writePlain(map)));
    for (const v of [0, 2, -1, 1.5, "1", null, true, [1], {}]) {
      assert.equal(target.takes(writePlain({ ...map, v })), false, `v: ${JSON.stringify(v)}`);
    }
    const { v: _, ...without } = map;
    assert.equal(target.takes(writePlain(without)), false);
  });

  it("refuses wrong types in the envelope and the range", () => {
    const target = new Target();
    const map = plainMap(fullMessage(4, 1));
    const wrong: Record<string, Plain[]> = {
      o: [1, null, [], {}, new Uint8Array(2)],
      e: [-1, 1.5, 2 ** 53, "1", null, Number.NaN, Number.POSITIVE_INFINITY, []],
      n: [-1, 1.5, 2 ** 60, "1", null],
      h: [-1, 0.1, "x", null],
      w: [-1, 0.1, "x", null],
      k: ["mark", "", 1, null, "EV", []],
      a: [-1, 1.5, 2 ** 32, "0", null],
      b: [-1, 1.5, 2 ** 32, "0", null],
    };
    for (const [key, values] of Object.entries(wrong)) {
      const { [key]: _, ...without } = map;
      assert.equal(target.takes(writePlain(without)), false, `without ${key}`);
      for (const value of values) {
        assert.equal(target.takes(writePlain({ ...map, [key]: value })), false, `${key}: ${String(value)}`);
      }
    }
    assert.equal(target.takes(writePlain({ ...map, a: 5, b: 4 })), false, "a range that ends before it begins");
    assert.ok(target.takes(writePlain({ ...map, a: 0, b: 0xffffffff })));
  });

  it("refuses wrong types, lengths and row counts in every section", () => {
    const target = new Target();
    const map = plainMap(fullMessage(5, 4));
    for (const key of ["n4", "n6", "u", "d", "mv"]) {
      for (const value of [null, 1, "x", [], new Uint8Array(8), {}] as Plain[]) {
        assert.equal(target.takes(writePlain({ ...map, r: [], [key]: value })), false, `${key}: ${String(value)}`);
      }
      const fields = section(map, key);
      for (const n of [-1, -0.5, 1.5, 2049, 0xffffffff, 2 ** 40, -(2 ** 31), "4", null, [], Number.NaN] as Plain[]) {
        assert.equal(target.takes(writePlain({ ...map, r: [], [key]: { ...fields, n } })), false, `${key}.n: ${n}`);
      }
      for (const column of Object.keys(fields).filter((name) => name !== "n")) {
        const bytes = fields[column] as Uint8Array;
        const wrong: Plain[] = [
          null,
          0,
          "x",
          [...bytes],
          {},
          bytes.subarray(1),
          Uint8Array.from([...bytes, 0]),
          new Uint8Array(0),
        ];
        for (const value of wrong) {
          const payload = writePlain({ ...map, [key]: { ...fields, [column]: value } });
          assert.equal(target.takes(payload), false, `${key}.${column}`);
        }
      }
    }
    target.assertUnharmed();
  });

  it("takes a text of a column's length for what it is: no column", () => {
    const target = new Target();
    const encoder = new BatchEncoder();
    encoder.addNew(0x61616161, tcpRecord(1), 0, null, null);
    const map = plainMap(encoder.encode(ENVELOPE, null));
    assert.ok(target.takes(writePlain(map)));
    assert.equal(target.takes(writePlain({ ...map, n4: { ...section(map, "n4"), f: "aaaa" } })), false);
  });

  it("passes over keys of newer writers", () => {
    const target = new Target();
    const map = plainMap(fullMessage(5, 2));
    const newer = { ...map, u: { ...section(map, "u"), zz: new Uint8Array(3) }, future: [1, 2, { x: "y" }] };
    assert.ok(target.takes(writePlain(newer)));
    assert.ok(target.takes(writePlain({ ...map, r: [[2, 0, { helper: "ftp", zz: 1 }]] })));
  });

  it("refuses moved rows without their owners' names", () => {
    const target = new Target();
    const map = plainMap(fullMessage(5, 4));
    assert.deepEqual(map.mo, ["fw-2", "fw-3", "fw-4"]);
    const { mo: _, ...without } = map;
    assert.equal(target.takes(writePlain(without)), false);
    const names = (count: number): Plain[] => new Array<Plain>(count).fill("fw-2");
    const wrong: Plain[] = [null, 1, "fw-2", {}, [], names(1), names(2), ["fw-2", "fw-3", 4], ["fw-2", "fw-3", null]];
    for (const mo of [...wrong, names(257), [["fw-2"], "fw-3", "fw-4"]]) {
      assert.equal(target.takes(writePlain({ ...map, mo })), false, JSON.stringify(mo));
    }
    for (const count of [3, 4, 256]) assert.ok(target.takes(writePlain({ ...map, mo: names(count) })));
    const owner = Uint8Array.of(0, 1, 2, 3);
    assert.equal(
      target.takes(writePlain({ ...map, mv: { ...section(map, "mv"), o: owner } })),
      false,
      "beyond the list",
    );
    const { mv: __, ...unmoved } = map;
    assert.ok(target.takes(writePlain({ ...unmoved, mo: 5 })), "names that no row asks for say nothing");
    target.assertUnharmed();
  });

  it("refuses malformed rare attributes", () => {
    const target = new Target();
    const map = plainMap(fullMessage(6, 3));
    const take = (r: Plain): boolean => target.takes(writePlain({ ...map, r }));
    assert.ok(take([]));
    assert.ok(take([[2, 2, { so: [1, -5, 0xffffffff] }]]));
    const ok = { helper: "ftp" };
    const lists: Plain[] = [null, 1, "x", {}, [1], [null], ["x"], [[]], [[2]], [[2, 0]], [[2, 0, null]], [[2, 0, 5]]];
    for (const r of lists) assert.equal(take(r), false, JSON.stringify(r));
    for (const at of [3, -1, 0.5, "0", null, 9]) assert.equal(take([[at, 0, ok]]), false, `section ${at}`);
    for (const at of [3, -1, 0.5, "0", null, 2 ** 40]) assert.equal(take([[2, at, ok]]), false, `row ${at}`);
    assert.equal(take([[2, 0, []]]), false, "an array is no map");
    assert.equal(take([[2, 0, new Uint8Array(4)]]), false, "a binary is no map");
    const attributes: Record<string, Plain[]> = {
      helper: [1, null, [], {}, new Uint8Array(3)],
      secctx: [1, null, [], {}],
      labels: [1, null, "0123456789abcdef", [0], {}, new Uint8Array(17)],
      so: [1, null, "abc", {}, [], [1, 2], [1, 2, 3, 4], [1, 2, "3"], [1, 2, null], [1, 2, 0.5], [1, 2, 2 ** 32]],
      sr: [1, null, [1, 2], [1, 2, -(2 ** 31) - 1]],
      sp: [1, null, [1, 2]],
      ma: [1, null, [], new Array<Plain>(31).fill(0), new Array<Plain>(33).fill(0), new Uint8Array(32)],
    };
    for (const [key, values] of Object.entries(attributes)) {
      for (const value of values)
        assert.equal(take([[2, 0, { [key]: value }]]), false, `${key}: ${JSON.stringify(value)}`);
    }
    assert.equal(take(new Array<Plain>(3 * BATCH_ROWS_MAX + 1).fill([2, 0, ok])), false, "more than all rows");
    target.assertUnharmed();
  });

  it("is not harmed by keys of Object.prototype", () => {
    const target = new Target();
    const map = plainMap(fullMessage(7, 1));
    // The same length, so that the bytes around it stay as they are.
    const text = Buffer.from(writePlain({ ...map, zzzzzzzzz: { v: 1, rows: 9 } })).toString("latin1");
    target.takes(Buffer.from(text.replace("zzzzzzzzz", "__proto__"), "latin1"));
    for (const key of ["constructor", "toString", "hasOwnProperty", "valueOf"]) {
      assert.ok(target.takes(writePlain({ ...map, [key]: { v: 1 } })));
    }
    assert.equal(({} as Record<string, unknown>).v, undefined);
    target.assertUnharmed();
  });

  it("is not harmed by extensions, record structures among them", () => {
    const target = new Target();
    const good = fullMessage(8, 1);
    // Extension types: every one, with 1, 4 and 16 bytes; 0x72 would define a record structure for the byte 0x41.
    for (let type = 0; type < 256; type++) {
      target.takes(Uint8Array.from([0xd4, type, 0x41]));
      target.takes(Uint8Array.from([0xd4, type, 0x41, 0x92, 0xa1, 0x76, 0xa1, 0x6f, 0x01, 0x02]));
      target.takes(Uint8Array.from([0xd6, type, 0x92, 0x01, 0x90, 0x41]));
      target.takes(Uint8Array.from([0xd8, type, ...new Uint8Array(16).fill(0xa1)]));
      target.takes(Uint8Array.from([0xc7, 5, type, 0, 0, 0, 1, 0x91, ...good.subarray(0, 40)]));
    }
    target.assertUnharmed();
  });

  it("survives nesting of any depth", () => {
    const target = new Target();
    for (const byte of [0x91, 0x81]) {
      const deep = new Uint8Array(1_000_000).fill(byte);
      assert.equal(target.takes(deep), false);
    }
    target.assertUnharmed();
  });

  it("reserves no memory for lengths that a message merely claims", () => {
    const target = new Target();
    // Arrays of 32 million elements, one in the other: 256 MB each for a reader that believes them.
    const claims = new Uint8Array(5 * 200);
    for (let i = 0; i < 200; i++) claims.set([0xdd, 0x01, 0xff, 0xff, 0xf0], 5 * i);
    assert.equal(target.takes(claims), false);
    for (const tag of [0xc6, 0xc9, 0xdb, 0xdd, 0xdf]) {
      assert.equal(target.takes(Uint8Array.from([tag, 0xff, 0xff, 0xff, 0xff, 0x01])), false);
    }
    target.assertUnharmed();
  });
});
