import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  AF_INET,
  AF_INET6,
  type FlowEnd,
  HAS_COUNTERS,
  HAS_TIMES,
  type RareAttributes,
  RECORD_WORDS,
  W_CREATED,
  W_MARK,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_PROTOINFO_C,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
  W_ZONE,
} from "../../src/flow/record.js";
import { BatchDecoder, BatchEncoder, readNewRow, readUpdateRow } from "../../src/stream/format/batch.js";
import { BATCH_ROWS_MAX, MEASURED_COUNTERS, MEASURED_TIMES } from "../../src/stream/format/columns.js";
import { readPlain } from "../support/msgpack.js";
import {
  anyRecord,
  carriedByNew,
  PROTOCOLS4,
  PROTOCOLS6,
  Random,
  randomRare,
  randomRecord,
  tcpRecord,
} from "../support/records.js";

const ENVELOPE = { node: "fw-1", epoch: 3, number: 4, stamp: 2 ** 52 + 1, wallMs: 1_800_000_000_123 };

/** A row that states what was claimed before. */
const STATED = { stamp: 2 ** 52 - 1 };

/** A record of rubbish, so that a word which the reader forgets to write is seen. */
function rubbish(): Uint32Array {
  return new Uint32Array(RECORD_WORDS).fill(0xdeadbeef);
}

/** Zeroes the words that do not come over the wire. */
function withoutOwn(words: Uint32Array): Uint32Array {
  for (const i of [23, 27, 30, 31]) words[i] = 0;
  return words;
}

function decoded(payload: Uint8Array): BatchDecoder {
  const decoder = new BatchDecoder();
  assert.deepEqual(decoder.decode(payload), ENVELOPE);
  return decoder;
}

function assertNewRow(decoder: BatchDecoder, family: number, row: number, expected: Uint32Array): void {
  const words = rubbish();
  readNewRow(family === AF_INET ? decoder.new4 : decoder.new6, row, words);
  assert.deepEqual(withoutOwn(words), expected);
}

describe("batch codec, new rows", () => {
  for (const family of [AF_INET, AF_INET6]) {
    for (const protocol of family === AF_INET ? PROTOCOLS4 : PROTOCOLS6) {
      it(`carries protocol ${protocol} of family ${family}, translated or not`, () => {
        const random = new Random(family * 1000 + protocol);
        const encoder = new BatchEncoder();
        const records = Array.from({ length: 100 }, () => randomRecord(random, family, protocol));
        for (const [i, words] of records.entries())
          encoder.addNew(1000 + i, words, 0, null, i % 2 === 0 ? STATED : null);
        const decoder = decoded(encoder.encode(ENVELOPE, null));
        const section = family === AF_INET ? decoder.new4 : decoder.new6;
        assert.equal(section.rows, 100);
        for (const [i, words] of records.entries()) {
          assert.equal(section.flowId[i], 1000 + i);
          assertNewRow(decoder, family, i, carriedByNew(words, i % 2 === 0));
        }
      });
    }
  }

  it("carries every bit of the words that it carries", () => {
    for (const [family, protocol] of [
      [AF_INET6, 17],
      [AF_INET6, 6],
      [AF_INET6, 33],
    ] as const) {
      for (let word = 0; word < RECORD_WORDS; word++) {
        const words = new Uint32Array(RECORD_WORDS);
        words[W_PROTO] = (family << 8) | protocol;
        const mask = word === W_STATUS ? 0xffff : word === W_PROTOINFO ? 0x000f0fff : 0xffffffff;
        if (word === W_PROTO || word === 29) continue;
        if (protocol === 6 && word === W_PROTOINFO_C) continue;
        words[word] = mask;
        const encoder = new BatchEncoder();
        encoder.addNew(0, words, 0, null, STATED);
        assertNewRow(decoded(encoder.encode(ENVELOPE, null)), family, 0, carriedByNew(words, true));
      }
    }
  });

  it("reads records at any base", () => {
    const words = new Uint32Array(2 * RECORD_WORDS);
    const record = anyRecord(new Random(5));
    words.set(record, RECORD_WORDS);
    const encoder = new BatchEncoder();
    encoder.addNew(1, words, RECORD_WORDS, null, STATED);
    assertNewRow(decoded(encoder.encode(ENVELOPE, null)), record[W_PROTO]! >>> 8, 0, carriedByNew(record, true));
  });

  it("carries the age of a flow and the stamp of its claim where it states what was claimed before", () => {
    const words = tcpRecord(1);
    words[W_CREATED] = 77;
    const encoder = new BatchEncoder();
    encoder.addNew(1, words, 0, null, null);
    encoder.addNew(2, words, 0, null, STATED);
    encoder.addNew(3, words, 0, null, { stamp: Number.MAX_SAFE_INTEGER });
    const { new4 } = decoded(encoder.encode(ENVELOPE, null));
    assert.deepEqual([...new4.created.subarray(0, 3)], [0, 77, 77]);
    assert.deepEqual([...new4.stamp.subarray(0, 3)], [0, STATED.stamp, Number.MAX_SAFE_INTEGER]);
    encoder.addNew(1, words, 0, null, null);
    const { n4 } = readPlain(encoder.encode(ENVELOPE, null)) as { n4: object };
    assert.ok(!("h" in n4) && !("c" in n4), "an event's claim is the message's own");
  });
});

describe("batch codec, update rows", () => {
  it("carries the changeable state into a record that has the tuples", () => {
    const random = new Random(8);
    const records = Array.from({ length: 500 }, () => anyRecord(random));
    const encoder = new BatchEncoder();
    for (const [i, words] of records.entries()) encoder.addUpdate(0xffffffff - i, words, 0, null);
    const decoder = decoded(encoder.encode(ENVELOPE, null));
    assert.equal(decoder.updates.rows, 500);
    for (const [i, words] of records.entries()) {
      assert.equal(decoder.updates.flowId[i], 0xffffffff - i);
      const expected = carriedByNew(words, false);
      const slab = new Uint32Array(3 * RECORD_WORDS).fill(0xdeadbeef);
      slab[RECORD_WORDS + W_PROTO] = words[W_PROTO]!;
      readUpdateRow(decoder.updates, i, slab, RECORD_WORDS);
      const state = [W_STATUS, W_TIMEOUT, W_MARK, W_PROTOINFO, W_PROTOINFO_B, W_PROTOINFO_C];
      for (const word of state) assert.equal(slab[RECORD_WORDS + word], expected[word], `word ${word}`);
      const touched = slab.filter((word) => word !== 0xdeadbeef).length;
      assert.ok(touched <= state.length + 1, "nothing else is written");
    }
  });
});

describe("batch codec, destroy rows", () => {
  const measured: [string, number, number][] = [
    ["neither", 0, 0],
    ["counters", HAS_COUNTERS, MEASURED_COUNTERS],
    ["times", HAS_TIMES, MEASURED_TIMES],
    ["counters and times", HAS_COUNTERS | HAS_TIMES, MEASURED_COUNTERS | MEASURED_TIMES],
  ];
  for (const [name, has, bits] of measured) {
    it(`carries ${name}`, () => {
      const end: FlowEnd = {
        has,
        counters: Float64Array.of(1, 2 ** 52, 3, 4e15),
        timesMicros: Float64Array.of(1_800_000_000_000_000, 1_800_000_000_000_001),
      };
      const encoder = new BatchEncoder();
      encoder.addDestroy(5, tcpRecord(1), 0, has === 0 ? undefined : end);
      encoder.addDestroy(6, tcpRecord(2), 0, undefined);
      const { destroys } = decoded(encoder.encode(ENVELOPE, null));
      assert.equal(destroys.rows, 2);
      assert.deepEqual([...destroys.flowId.subarray(0, 2)], [5, 6]);
      assert.deepEqual([...destroys.measured.subarray(0, 2)], [bits, 0]);
      assert.equal(destroys.protocolState[0], 3);
      const counters = [
        destroys.packetsOriginal[0],
        destroys.bytesOriginal[0],
        destroys.packetsReply[0],
        destroys.bytesReply[0],
      ];
      assert.deepEqual(counters, (has & HAS_COUNTERS) !== 0 ? [1, 2 ** 52, 3, 4e15] : [0, 0, 0, 0]);
      const times = [destroys.startMicros[0], destroys.stopMicros[0]];
      assert.deepEqual(times, (has & HAS_TIMES) !== 0 ? [...end.timesMicros] : [0, 0]);
      assert.deepEqual([destroys.bytesReply[1], destroys.stopMicros[1]], [0, 0]);
    });
  }

  it("tells counters of zero from counters that were not kept", () => {
    const encoder = new BatchEncoder();
    const zero = { has: HAS_COUNTERS, counters: new Float64Array(4), timesMicros: new Float64Array(2) };
    encoder.addDestroy(1, tcpRecord(1), 0, zero);
    assert.equal(decoded(encoder.encode(ENVELOPE, null)).destroys.measured[0], MEASURED_COUNTERS);
  });
});

describe("batch codec, moved rows", () => {
  it("carries flow id, owner and the whole stamp of its claim, each owner's name once", () => {
    const random = new Random(21);
    const encoder = new BatchEncoder();
    const rows = Array.from({ length: 700 }, (_, i) => ({
      flowId: i === 0 ? 0xffffffff : random.word(),
      owner: random.pick(["fw-2", "fw-3", "a-node-with-a-long-name", "N_9"]),
      stamp: i === 1 ? Number.MAX_SAFE_INTEGER : random.word() * 2 ** 21 + random.below(2 ** 21),
    }));
    for (const { flowId, owner, stamp } of rows) encoder.addMoved(flowId, owner, stamp);
    assert.equal(encoder.rows, 700);
    const payload = Uint8Array.from(encoder.encode(ENVELOPE, null));
    const { moved, movedTo } = decoded(payload);
    assert.equal(moved.rows, 700);
    const read = rows.map((_, row) => ({
      flowId: moved.flowId[row],
      owner: movedTo[moved.owner[row]!],
      stamp: moved.stamp[row],
    }));
    assert.deepEqual(read, rows);
    const plain = readPlain(payload) as { mo: string[] };
    assert.deepEqual(plain.mo.toSorted(), [...new Set(rows.map(({ owner }) => owner))].toSorted());
  });

  it("stands behind the ended flows, its names behind it, and is absent where nothing moved", () => {
    const encoder = new BatchEncoder();
    encoder.addMoved(5, "fw-2", 7);
    encoder.addDestroy(6, tcpRecord(1), 0, undefined);
    encoder.addUpdate(7, tcpRecord(1), 0, { helper: "ftp" });
    const keys = Object.keys(readPlain(encoder.encode(ENVELOPE, null)) as object);
    assert.deepEqual(keys, ["v", "o", "e", "n", "h", "w", "k", "u", "d", "mv", "mo", "r"]);
    encoder.addDestroy(6, tcpRecord(1), 0, undefined);
    const without = readPlain(encoder.encode(ENVELOPE, null)) as object;
    assert.ok(!("mv" in without) && !("mo" in without));
  });

  it("leaves no name behind for the next message, on either side", () => {
    const encoder = new BatchEncoder();
    const decoder = new BatchDecoder();
    encoder.addMoved(5, "fw-2", 7);
    const first = Uint8Array.from(encoder.encode(ENVELOPE, null));
    encoder.addMoved(6, "fw-3", 8);
    const second = Uint8Array.from(encoder.encode(ENVELOPE, null));
    encoder.addMoved(7, "fw-4", 9);
    encoder.reset();
    const third = Uint8Array.from(encoder.encode(ENVELOPE, null));
    decoder.decode(first);
    assert.deepEqual(decoder.movedTo, ["fw-2"]);
    decoder.decode(second);
    assert.deepEqual([decoder.moved.rows, decoder.moved.owner[0], decoder.movedTo], [1, 0, ["fw-3"]]);
    decoder.decode(third);
    assert.deepEqual([decoder.moved.rows, decoder.movedTo], [0, []]);
  });

  it("names as many owners as a table can have", () => {
    const encoder = new BatchEncoder();
    for (let i = 0; i < 255; i++) encoder.addMoved(i, `fw-${i}`, 1);
    const { moved, movedTo } = decoded(encoder.encode(ENVELOPE, null));
    assert.equal(movedTo[moved.owner[254]!], "fw-254");
  });

  it("counts towards a full message", () => {
    const encoder = new BatchEncoder();
    for (let i = 0; i < BATCH_ROWS_MAX; i++) {
      assert.equal(encoder.full, false);
      encoder.addMoved(i, "fw-2", 1);
    }
    assert.equal(encoder.full, true);
    assert.equal(decoded(encoder.encode(ENVELOPE, null)).moved.rows, BATCH_ROWS_MAX);
    assert.equal(encoder.full, false);
  });
});

describe("batch codec, rare attributes", () => {
  it("make a message full before its rows do: they are large", () => {
    const encoder = new BatchEncoder();
    for (let i = 0; i < 512; i++) {
      assert.equal(encoder.full, false);
      encoder.addUpdate(i, tcpRecord(i), 0, { helper: "ftp" });
    }
    assert.equal(encoder.full, true);
    assert.equal(decoded(encoder.encode(ENVELOPE, null)).rare[2]!.size, 512);
    assert.equal(encoder.full, false);
  });

  it("carries those of new rows by family and of updates, row by row", () => {
    const random = new Random(12);
    const encoder = new BatchEncoder();
    const expected: Map<number, RareAttributes>[] = [new Map(), new Map(), new Map()];
    const rows = [0, 0, 0];
    for (let i = 0; i < 600; i++) {
      const section = random.below(3);
      const rare = random.oneIn(2) ? randomRare(random) : null;
      const words = randomRecord(random, section === 1 ? AF_INET6 : AF_INET, 6);
      if (section === 2) encoder.addUpdate(i, words, 0, rare);
      else encoder.addNew(i, words, 0, rare, null);
      if (rare !== null) expected[section]!.set(rows[section]!, rare);
      rows[section]!++;
    }
    assert.deepEqual(decoded(encoder.encode(ENVELOPE, null)).rare, expected);
  });

  it("carries texts up to the kernel's limits: what a writer writes, a reader takes", () => {
    const rare = { helper: "h".repeat(15), secctx: `u:r:t:s0:${"c".repeat(247)}` };
    const encoder = new BatchEncoder();
    encoder.addNew(1, tcpRecord(1), 0, rare, null);
    assert.deepEqual(decoded(encoder.encode(ENVELOPE, null)).rare[0]!.get(0), rare);
  });

  it("leaves a longer security context out, which no kernel takes on create", () => {
    const encoder = new BatchEncoder();
    encoder.addNew(1, tcpRecord(1), 0, { helper: "ftp", secctx: `u:r:t:s0:${"c1,".repeat(1300)}` }, null);
    assert.deepEqual(decoded(encoder.encode(ENVELOPE, null)).rare[0]!.get(0), { helper: "ftp" });
  });

  it("refuses a helper that no kernel can have", () => {
    const encoder = new BatchEncoder();
    encoder.addNew(1, tcpRecord(1), 0, { helper: "h".repeat(16) }, null);
    assert.equal(new BatchDecoder().decode(encoder.encode(ENVELOPE, null)), null);
  });

  it("does not hand out views of the payload", () => {
    const encoder = new BatchEncoder();
    encoder.addNew(1, tcpRecord(1), 0, { labels: new Uint8Array(16).fill(9) }, null);
    const payload = Uint8Array.from(encoder.encode(ENVELOPE, null));
    const decoder = decoded(payload);
    payload.fill(0);
    assert.deepEqual(decoder.rare[0]!.get(0), { labels: new Uint8Array(16).fill(9) });
    assertNewRow(decoder, AF_INET, 0, carriedByNew(tcpRecord(1), false));
  });
});

describe("batch codec, messages", () => {
  it("carries the envelope, and the slots of a snapshot chunk", () => {
    const encoder = new BatchEncoder();
    encoder.addNew(70, tcpRecord(1), 0, null, STATED);
    const decoder = decoded(encoder.encode(ENVELOPE, { from: 64, to: 0xffffffff }));
    assert.deepEqual(decoder.range, { from: 64, to: 0xffffffff });
    assert.equal(decoder.new4.rows, 1);
    decoder.decode(encoder.encode(ENVELOPE, null));
    assert.equal(decoder.range, null);
  });

  it("carries an empty batch and an empty chunk", () => {
    const encoder = new BatchEncoder();
    const batch = decoded(encoder.encode(ENVELOPE, null));
    const rows = [batch.new4, batch.new6, batch.updates, batch.destroys].map((section) => section.rows);
    assert.deepEqual(rows, [0, 0, 0, 0]);
    assert.deepEqual(decoded(encoder.encode(ENVELOPE, { from: 5, to: 5 })).range, { from: 5, to: 5 });
  });

  it("has its sections in the order in which they are applied, after the version", () => {
    const encoder = new BatchEncoder();
    const six = randomRecord(new Random(1), AF_INET6, 17);
    encoder.addDestroy(1, six, 0, undefined);
    encoder.addUpdate(2, six, 0, { helper: "ftp" });
    encoder.addNew(3, six, 0, null, null);
    encoder.addNew(4, tcpRecord(1), 0, null, null);
    const map = readPlain(encoder.encode(ENVELOPE, { from: 0, to: 9 }));
    const keys = ["v", "o", "e", "n", "h", "w", "k", "a", "b", "n4", "n6", "u", "d", "r"];
    assert.deepEqual(Object.keys(map as object), keys);
  });

  it("is plain msgpack: no extension, no record structure", () => {
    const random = new Random(3);
    const encoder = new BatchEncoder();
    for (let i = 0; i < 50; i++) {
      for (let k = 0; k < 20; k++) encoder.addNew(k, anyRecord(random), 0, randomRare(random), STATED);
      for (let k = 0; k < 20; k++) encoder.addUpdate(k, anyRecord(random), 0, randomRare(random));
      const map = readPlain(encoder.encode({ ...ENVELOPE, number: i }, null)) as Record<string, unknown>;
      assert.deepEqual([map.v, map.n, map.h], [1, i, ENVELOPE.stamp]);
    }
  });

  it("leaves out columns of zeros", () => {
    const encoder = new BatchEncoder();
    const words = tcpRecord(1);
    encoder.addNew(1, words, 0, null, null);
    const plain = readPlain(encoder.encode(ENVELOPE, null)) as { n4: object };
    assert.deepEqual(Object.keys(plain.n4), ["n", "f", "s", "d", "l", "p", "S", "t", "i", "ws", "fl"]);
    words[W_ZONE] = 1;
    words[W_REPLY_SRC] = words[W_REPLY_SRC]! ^ 1;
    encoder.addNew(1, words, 0, null, null);
    const translated = readPlain(encoder.encode(ENVELOPE, null)) as { n4: Record<string, unknown> };
    assert.ok("rs" in translated.n4 && "z" in translated.n4 && !("rd" in translated.n4) && !("rl" in translated.n4));
    encoder.addNew(0, new Uint32Array(RECORD_WORDS), 0, null, null);
    const empty = readPlain(encoder.encode(ENVELOPE, null)) as { n4: object };
    assert.deepEqual(empty.n4, { n: 1 });
  });

  it("spends 27 bytes on a plain IPv4 TCP row", () => {
    const encoder = new BatchEncoder();
    for (let i = 0; i < BATCH_ROWS_MAX; i++) encoder.addNew(i, tcpRecord(i), 0, null, null);
    const bytes = encoder.encode(ENVELOPE, null).length / BATCH_ROWS_MAX;
    // Flow id, two addresses, ports: 16; protocol 1, status 2, timeout 4, state 1, window scales 1, flags 2: 11.
    assert.ok(bytes >= 27 && bytes < 27.2, `${bytes} bytes a row`);
  });

  it("is empty again after encode and after reset, and does not touch what it has handed out", () => {
    const encoder = new BatchEncoder();
    const six = randomRecord(new Random(1), AF_INET6, 132);
    const fill = (): void => {
      encoder.addNew(1, tcpRecord(1), 0, { helper: "ftp" }, STATED);
      encoder.addNew(2, six, 0, null, STATED);
      encoder.addUpdate(3, six, 0, null);
      encoder.addDestroy(4, six, 0, undefined);
      assert.equal(encoder.rows, 4);
    };
    const emptyBytes = encoder.encode(ENVELOPE, null).length;
    fill();
    const payload = encoder.encode(ENVELOPE, null);
    const copy = Uint8Array.from(payload);
    assert.equal(encoder.rows, 0);
    fill();
    encoder.reset();
    assert.equal(encoder.rows, 0);
    assert.equal(encoder.encode(ENVELOPE, null).length, emptyBytes);
    for (let i = 0; i < 500; i++) {
      fill();
      encoder.encode(ENVELOPE, null);
    }
    assert.deepEqual(Uint8Array.from(payload), copy);
  });

  it("forgets the last message when it decodes the next", () => {
    const encoder = new BatchEncoder();
    const decoder = new BatchDecoder();
    const full = new Random(4);
    for (let i = 0; i < 100; i++) encoder.addNew(i, anyRecord(full), 0, { helper: "ftp" }, STATED);
    decoder.decode(encoder.encode(ENVELOPE, { from: 0, to: 9 }));
    const words = new Uint32Array(RECORD_WORDS);
    words[W_PROTO] = (AF_INET << 8) | 17;
    encoder.addNew(0, words, 0, null, null);
    decoder.decode(encoder.encode(ENVELOPE, null));
    assert.deepEqual(
      [decoder.new4.rows, decoder.new6.rows, decoder.rare[0]!.size, decoder.rare[1]!.size],
      [1, 0, 0, 0],
    );
    assertNewRow(decoder, AF_INET, 0, carriedByNew(words, false));
  });

  it("holds BATCH_ROWS_MAX rows, of one section or of all, the last one alive and dead at once", () => {
    const random = new Random(6);
    const encoder = new BatchEncoder();
    for (const only of [0, 1, 2, 3, -1]) {
      const records: Uint32Array[] = [];
      while (!encoder.full) {
        const section = only < 0 ? random.below(4) : only;
        const words = randomRecord(random, section === 1 ? AF_INET6 : AF_INET, 6);
        const id = records.push(words) - 1;
        if (section < 2) encoder.addNew(id, words, 0, null, null);
        else if (section === 2) encoder.addUpdate(id, words, 0, null);
        if (section === 3 || encoder.rows === BATCH_ROWS_MAX - 1) encoder.addDestroy(id, words, 0, undefined);
      }
      const { rows } = encoder;
      assert.ok(rows === BATCH_ROWS_MAX || rows === BATCH_ROWS_MAX + 1);
      const { new4, new6, updates, destroys } = decoded(encoder.encode(ENVELOPE, null));
      assert.equal(new4.rows + new6.rows + updates.rows + destroys.rows, rows);
      assert.equal(
        [new4, new6, updates, destroys].some((section) => section.rows > BATCH_ROWS_MAX),
        false,
      );
    }
  });
});
