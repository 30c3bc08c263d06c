import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { FlowTable, ROW_LIVE } from "../../src/flow/flow-table.js";
import {
  AF_INET,
  AF_INET6,
  RECORD_WORDS,
  W_HAS,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_REPLY_SRC,
  W_ZONE,
} from "../../src/flow/record.js";
import { SlotMap } from "../../src/flow/slot-map.js";
import { readStamp, writeStamp } from "../../src/flow/stamp.js";
import { anyRecord, Random, randomRecord, tcpRecord } from "../support/records.js";

const SEED = 7;

/** A FlowTable beside a Map: every operation is made on both and compared. */
class Model {
  readonly table: FlowTable;
  readonly #keys: readonly Uint32Array[];
  readonly #slotOfKey = new Map<number, number>();
  readonly #markOfSlot = new Map<number, number>();
  readonly #unlinked = new Set<number>();
  #marks = 0;

  constructor(keys: readonly Uint32Array[], flowsMax: number) {
    this.table = new FlowTable(flowsMax, SEED);
    this.#keys = keys;
  }

  find(key: number): void {
    assert.equal(this.table.find(this.#keys[key]!, 0), this.#slotOfKey.get(key) ?? -1);
  }

  insert(key: number): void {
    if (this.#slotOfKey.has(key)) return;
    const words = this.#keys[key]!;
    words[W_MARK] = ++this.#marks;
    const slot = this.table.insert(words, 0);
    if (this.#markOfSlot.size >= this.table.flowsMax) {
      assert.equal(slot, -1, "full");
      return;
    }
    assert.ok(slot >= 0 && slot < this.table.slotsUsed);
    assert.ok(!this.#markOfSlot.has(slot), "a slot in use is not given twice");
    this.#slotOfKey.set(key, slot);
    this.#markOfSlot.set(slot, this.#marks);
  }

  unlink(key: number): void {
    const slot = this.#slotOfKey.get(key);
    if (slot === undefined) return;
    this.table.unlink(slot);
    this.#slotOfKey.delete(key);
    this.#unlinked.add(slot);
  }

  free(): void {
    for (const slot of this.#unlinked) {
      this.#unlinked.delete(slot);
      this.#markOfSlot.delete(slot);
      this.table.free(slot);
      assert.equal(this.table.isLive(slot), false);
      return;
    }
  }

  /** Everything that the table holds is as the model has it. */
  check(): void {
    assert.equal(this.table.size, this.#slotOfKey.size);
    assert.ok(this.table.slotsUsed <= this.table.flowsMax);
    for (let key = 0; key < this.#keys.length; key++) this.find(key);
    for (let slot = 0; slot < this.table.slotsUsed; slot++) {
      assert.equal(this.table.isLive(slot), this.#markOfSlot.has(slot));
    }
    for (const [slot, mark] of this.#markOfSlot) {
      assert.equal(this.table.slab(slot)[this.table.base(slot) + W_MARK], mark, "a record stays in its slot");
    }
  }
}

function runModel(keys: readonly Uint32Array[], flowsMax: number, operations: number, seed: number): void {
  const random = new Random(seed);
  const model = new Model(keys, flowsMax);
  for (let i = 0; i < operations; i++) {
    // The table fills and empties in turns.
    const filling = i % 20_000 < 12_000;
    const what = random.below(8);
    const key = random.below(keys.length);
    if (what < 2) model.find(key);
    else if (what < (filling ? 6 : 4)) model.insert(key);
    else if (what < 7) model.unlink(key);
    else model.free();
    if (i % 10_000 === 0) model.check();
  }
  model.check();
}

describe("FlowTable", () => {
  it("does as a Map does over 200,000 operations in any order", () => {
    const random = new Random(2);
    runModel(
      Array.from({ length: 3000 }, () => anyRecord(random)),
      1000,
      200_000,
      3,
    );
  });

  it("does as a Map does when neighbouring tuples crowd a small table", () => {
    runModel(
      Array.from({ length: 64 }, (_, i) => tcpRecord(i)),
      40,
      50_000,
      4,
    );
  });

  it("does as a Map does when all hashes are equal", () => {
    const keys = collidingRecords(SEED, 200);
    runModel(keys, 150, 60_000, 5);
  });

  it("finds each of 400,000 flows while it grows and while it empties", () => {
    const count = 400_000;
    const table = new FlowTable(count, SEED);
    const words = tcpRecord(0);
    const setKey = (i: number): void => {
      words[W_ORIG_SRC] = (0x0a000000 + (i >>> 8)) >>> 0;
      words[W_ORIG_L4] = (((i & 0xff) << 16) | 80) >>> 0;
      words[W_MARK] = i;
    };
    const find = (i: number): number => {
      setKey(i);
      return table.find(words, 0);
    };
    for (let i = 0; i < count; i++) {
      setKey(i);
      if (table.insert(words, 0) !== i) assert.fail(`insert ${i}`);
      if (i % 7 === 0 && find(i >>> 1) !== i >>> 1) assert.fail(`lost ${i >>> 1} at ${i}`);
    }
    assert.equal(table.size, count);
    assert.equal(table.insert(tcpRecord(1), 0), -1, "full");
    for (let i = 0; i < count; i += 2) table.unlink(find(i));
    assert.equal(table.size, count / 2);
    for (let i = 0; i < count; i++) {
      if (find(i) !== (i % 2 === 0 ? -1 : i)) assert.fail(`find ${i} after half were unlinked`);
    }
  });

  it("keeps a record readable and its slot reserved between unlink and free", () => {
    const table = new FlowTable(2, SEED);
    const words = tcpRecord(1);
    const slot = table.insert(words, 0);
    table.rare.set(slot, { helper: "ftp" });
    table.unlink(slot);
    assert.equal(table.find(words, 0), -1);
    assert.equal(table.size, 0);
    assert.ok(table.isLive(slot));
    assert.equal(table.slab(slot)[table.base(slot) + W_ORIG_SRC], words[W_ORIG_SRC]);
    assert.deepEqual(table.rare.get(slot), { helper: "ftp" });
    const again = table.insert(words, 0);
    assert.notEqual(again, slot);
    assert.equal(table.insert(tcpRecord(2), 0), -1, "an unlinked flow still takes its place");
    table.free(slot);
    assert.equal(table.rare.has(slot), false);
    assert.equal(table.insert(tcpRecord(2), 0), slot);
  });

  it("starts a row as ROW_LIVE with empty table words, whatever the record held there", () => {
    const table = new FlowTable(2, SEED);
    const words = tcpRecord(1);
    words[W_HAS] = 0xffff_01ff;
    words[30] = 5;
    words[31] = 6;
    const slot = table.insert(words, 0);
    const row = table.slab(slot).subarray(table.base(slot), table.base(slot) + RECORD_WORDS);
    assert.equal(row[W_HAS], ROW_LIVE | 0x1ff);
    assert.equal(row[30], 0);
    assert.equal(row[31], 0);
  });

  it("has family, protocol, zone of the original direction and every word of the original tuple in its key", () => {
    const table = new FlowTable(100, SEED);
    const random = new Random(9);
    for (const family of [AF_INET, AF_INET6]) {
      const words = randomRecord(random, family, 17);
      words[W_ZONE] = 0;
      const slot = table.insert(words, 0);
      const width = family === AF_INET ? 1 : 4;
      const inKey = [W_PROTO, W_ORIG_L4];
      for (let i = 0; i < width; i++) inKey.push(W_ORIG_SRC + i, W_ORIG_DST + i);
      for (const word of inKey) {
        for (const bit of [1, 0x80]) {
          const other = Uint32Array.from(words);
          other[word] = (other[word]! ^ bit) >>> 0;
          assert.equal(table.find(other, 0), -1, `word ${word} is in the key`);
        }
      }
      for (const word of [W_REPLY_SRC, W_MARK, W_HAS, 30]) {
        const other = Uint32Array.from(words);
        other[word] = ~other[word]! >>> 0;
        assert.equal(table.find(other, 0), slot, `word ${word} is not in the key`);
      }
      const zoned = Uint32Array.from(words);
      zoned[W_ZONE] = 1 << 16;
      assert.equal(table.find(zoned, 0), -1, "the zone of the original direction is in the key");
      zoned[W_ZONE] = 1;
      assert.equal(table.find(zoned, 0), slot, "the zone of the reply direction is not in the key");
      zoned[W_ZONE] = 0xffff_0000;
      const inZone = table.insert(zoned, 0);
      assert.notEqual(inZone, slot);
      assert.equal(table.find(zoned, 0), inZone);
      assert.equal(table.find(words, 0), slot);
    }
  });

  it("tells the same words of IPv4 and IPv6 apart", () => {
    const table = new FlowTable(4, SEED);
    const four = tcpRecord(1);
    const six = tcpRecord(1);
    six[W_PROTO] = (AF_INET6 << 8) | 6;
    const slot4 = table.insert(four, 0);
    const slot6 = table.insert(six, 0);
    assert.equal(table.find(four, 0), slot4);
    assert.equal(table.find(six, 0), slot6);
  });

  it("reads records at any base", () => {
    const table = new FlowTable(4, SEED);
    const two = new Uint32Array(2 * RECORD_WORDS);
    two.set(tcpRecord(1), 0);
    two.set(tcpRecord(2), RECORD_WORDS);
    const slot = table.insert(two, RECORD_WORDS);
    assert.equal(table.find(tcpRecord(2), 0), slot);
    assert.equal(table.find(two, 0), -1);
    assert.equal(table.find(two, RECORD_WORDS), slot);
  });

  it("holds nothing when it may hold nothing", () => {
    const table = new FlowTable(0, SEED);
    assert.equal(table.insert(tcpRecord(1), 0), -1);
    assert.equal(table.find(tcpRecord(1), 0), -1);
    assert.equal(table.isLive(0), false);
  });
});

describe("FlowTable, adopted flows", () => {
  it("have the slots they are given, and the slots in between are the next that are taken", () => {
    const table = new FlowTable(10_000, SEED);
    const slots = [4097, 3, 0, 8200, 5];
    for (const slot of slots) assert.ok(table.adopt(slot, tcpRecord(slot), 0));
    table.sealAdopted();
    assert.deepEqual([table.size, table.slotsUsed], [5, 8201]);
    for (const slot of slots) assert.equal(table.find(tcpRecord(slot), 0), slot);
    const taken = new Set(slots);
    for (let i = 0; i < 9995; i++) {
      const slot = table.insert(tcpRecord(20_000 + i), 0);
      if (slot < 0 || slot >= 10_000 || taken.has(slot)) assert.fail(`slot ${slot} at ${i}`);
      if (i === 0) assert.equal(slot, 1, "the lowest first: peers keep dense maps of them");
      taken.add(slot);
    }
    assert.equal(table.insert(tcpRecord(1), 0), -1, "full");
    for (const slot of slots) assert.equal(table.find(tcpRecord(slot), 0), slot);
  });

  it("are refused in a slot that is taken and beyond the bounds", () => {
    const table = new FlowTable(10, SEED);
    assert.ok(table.adopt(9, tcpRecord(1), 0));
    assert.equal(table.adopt(9, tcpRecord(2), 0), false);
    for (const slot of [10, 2 ** 26, 0xffff_ffff]) assert.equal(table.adopt(slot, tcpRecord(2), 0), false);
    table.sealAdopted();
    assert.deepEqual([table.size, table.slotsUsed], [1, 10]);
    assert.equal(table.find(tcpRecord(2), 0), -1);
  });

  it("begin as ROW_LIVE with empty table words, from any base", () => {
    const table = new FlowTable(10, SEED);
    const two = new Uint32Array(2 * RECORD_WORDS).fill(0xffff_ffff);
    two.set(tcpRecord(1), RECORD_WORDS);
    two[RECORD_WORDS + W_HAS] = 0xffff_01ff;
    two[RECORD_WORDS + 30] = 5;
    two[RECORD_WORDS + 31] = 6;
    table.adopt(2, two, RECORD_WORDS);
    table.sealAdopted();
    const row = table.slab(2).subarray(table.base(2), table.base(2) + RECORD_WORDS);
    assert.deepEqual([row[W_HAS], row[30], row[31]], [ROW_LIVE | 0x1ff, 0, 0]);
    assert.deepEqual([table.isLive(1), table.isLive(2)], [false, true]);
  });

  it("are unlinked and freed as any other", () => {
    const table = new FlowTable(10, SEED);
    table.adopt(6, tcpRecord(1), 0);
    table.sealAdopted();
    table.unlink(6);
    assert.equal(table.find(tcpRecord(1), 0), -1);
    table.free(6);
    assert.equal(table.insert(tcpRecord(2), 0), 6);
  });

  it("may be none", () => {
    const table = new FlowTable(10, SEED);
    table.sealAdopted();
    assert.deepEqual([table.slotsUsed, table.insert(tcpRecord(1), 0)], [0, 0]);
  });
});

describe("SlotMap", () => {
  it("does as a Map does", () => {
    const random = new Random(11);
    const slots = new SlotMap();
    const model = new Map<number, number>();
    const ids = Array.from({ length: 500 }, () => random.below(random.oneIn(10) ? 2 ** 26 : 20_000));
    for (let i = 0; i < 50_000; i++) {
      const id = random.pick(ids);
      const what = random.below(3);
      if (what === 0) {
        const slot = random.below(1_000_000);
        slots.set(id, slot);
        model.set(id, slot);
      } else if (what === 1) {
        slots.delete(id);
        model.delete(id);
      } else assert.equal(slots.get(id), model.get(id) ?? -1);
      assert.equal(slots.size, model.size);
      if (i % 20_000 === 19_999) {
        slots.clear();
        model.clear();
        assert.equal(slots.length, 0);
      }
    }
    for (const id of model.keys()) assert.ok(id < slots.length);
  });

  it("keeps no flow id beyond its limit", () => {
    const slots = new SlotMap();
    slots.set(2 ** 26, 1);
    slots.set(0xffffffff, 1);
    assert.equal(slots.get(2 ** 26), -1);
    assert.equal(slots.get(0xffffffff), -1);
    assert.equal(slots.length, 0);
    slots.set(2 ** 26 - 1, 1);
    assert.equal(slots.get(2 ** 26 - 1), 1);
  });
});

describe("stamp", () => {
  it("comes back as written, up to 53 bits", () => {
    const slab = new Uint32Array(2 * RECORD_WORDS);
    for (const stamp of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 52 + 12345, Number.MAX_SAFE_INTEGER]) {
      writeStamp(slab, RECORD_WORDS, stamp);
      assert.equal(readStamp(slab, RECORD_WORDS), stamp);
    }
    assert.ok(slab.subarray(0, RECORD_WORDS).every((word) => word === 0));
  });
});

/**
 * IPv4 tuples with one and the same hash under `seed`: MurmurHash3 of the words, with the last word solved for. Should
 * the table hash otherwise one day, these are merely different tuples.
 */
function collidingRecords(seed: number, count: number): Uint32Array[] {
  const first = tcpRecord(0);
  const target = (beforeLast(seed, first) ^ scramble(first[W_ORIG_DST]!)) >>> 0;
  return Array.from({ length: count }, (_, i) => {
    const words = tcpRecord(0);
    words[W_ORIG_SRC] = (words[W_ORIG_SRC]! + i) >>> 0;
    words[W_ORIG_DST] = unscramble((beforeLast(seed, words) ^ target) >>> 0);
    return words;
  });
}

function beforeLast(seed: number, words: Uint32Array): number {
  let h = seed;
  for (const word of [words[W_PROTO]!, words[W_ORIG_L4]!, words[W_ORIG_SRC]!]) {
    h ^= scramble(word);
    h = (Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64) | 0;
  }
  return h;
}

function scramble(word: number): number {
  const k = Math.imul(word, 0xcc9e2d51);
  return Math.imul((k << 15) | (k >>> 17), 0x1b873593);
}

function unscramble(value: number): number {
  const k = Math.imul(value, inverse(0x1b873593));
  return Math.imul((k >>> 15) | (k << 17), inverse(0xcc9e2d51)) >>> 0;
}

/** The inverse of an odd number modulo 2^32, by Newton. */
function inverse(odd: number): number {
  let x = odd;
  for (let i = 0; i < 5; i++) x = Math.imul(x, 2 - Math.imul(odd, x));
  return x;
}
