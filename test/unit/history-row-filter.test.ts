import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { formatAddress } from "../../src/flow/address.js";
import { compileFlowQuery, type FlowQuery } from "../../src/flow/filter.js";
import {
  AF_INET,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_REPLY_DST,
  W_REPLY_L4,
} from "../../src/flow/record.js";
import { compileRowFilter, compileWhoFilter, type RowFilter } from "../../src/history/scan/row-filter.js";
import { BatchEncoder } from "../../src/stream/format/batch.js";
import { BatchView, createMessageOpener } from "../../src/stream/format/batch-view.js";
import { BATCH_ROWS_MAX } from "../../src/stream/format/columns.js";
import { anyRecord, Random, tcpRecord } from "../support/records.js";

const ENVELOPE = { node: "fw1", epoch: 1, number: 1, stamp: 1, wallMs: 1 };

/** The records of a message that a filter lets through by its columns: `[family, row]` to index of the record. */
function candidatesOf(filter: RowFilter, records: readonly Uint32Array[]): Set<number> {
  const encoder = new BatchEncoder();
  const places: number[][] = [[], []];
  for (const [i, words] of records.entries()) {
    encoder.addNew(i, words, 0, null, null);
    places[words[W_PROTO]! >>> 8 === AF_INET ? 0 : 1]!.push(i);
  }
  const message = createMessageOpener()(encoder.encode(ENVELOPE, null));
  assert.ok(message);
  const view = new BatchView();
  assert.ok(view.load(message));
  const found = new Set<number>();
  for (const family of [0, 1] as const) {
    const section = view.newRows(family);
    if (section === null) continue;
    const rows = new Uint16Array(BATCH_ROWS_MAX);
    const count = filter.candidates(section, rows);
    for (const row of rows.subarray(0, count)) found.add(places[family]![row]!);
  }
  return found;
}

/** A question about one of the records, so that something is found. */
function queryAbout(random: Random, words: Uint32Array): FlowQuery {
  const family = words[W_PROTO]! >>> 8;
  const prefix = random.oneIn(2) ? "" : `/${random.below(family === AF_INET ? 33 : 129)}`;
  const query: FlowQuery = {};
  if (random.oneIn(3)) query.src = formatAddress(words, W_ORIG_SRC, family) + prefix;
  if (random.oneIn(3)) query.dst = formatAddress(words, W_ORIG_DST, family) + prefix;
  if (random.oneIn(3))
    query.host = formatAddress(words, random.pick([W_ORIG_SRC, W_ORIG_DST, W_REPLY_DST]), family) + prefix;
  if (random.oneIn(4)) query.port = words[random.pick([W_ORIG_L4, W_REPLY_L4])]! >>> 16;
  if (query.port === undefined && random.oneIn(4)) query.proto = String(words[W_PROTO]! & 0xff);
  if (random.oneIn(4)) query.nat = random.oneIn(2);
  if (random.oneIn(6)) query.mark = words[W_MARK]!;
  return query;
}

describe("filters on columns", () => {
  it("let nothing out that the predicate on records would keep", () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const random = new Random(seed);
        const records = Array.from({ length: 1 + random.below(40) }, () => anyRecord(random));
        const query = queryAbout(random, random.pick(records));
        const keeps = compileFlowQuery(query);
        const found = candidatesOf(compileRowFilter(query), records);
        for (const [i, words] of records.entries()) if (keeps(words, 0)) assert.ok(found.has(i), JSON.stringify(query));
      }),
      { numRuns: 500 },
    );
  });

  it("pass over all that differs in an address, a protocol or a translation", () => {
    const records = [tcpRecord(1), tcpRecord(60_001), tcpRecord(120_002)];
    records[2]![W_REPLY_DST] = 0xc6336401;
    const of = (query: FlowQuery) => [...candidatesOf(compileRowFilter(query), records)];
    assert.deepEqual(of({ src: "10.0.0.0" }), [0]);
    assert.deepEqual(of({ src: "10.0.0.0/31" }), [0, 1]);
    assert.deepEqual(of({ host: "198.51.100.1" }), [2]);
    assert.deepEqual(of({ host: "2001:db8::1" }), []);
    assert.deepEqual(of({ nat: true }), [2]);
    assert.deepEqual(of({ nat: false }), [0, 1]);
    assert.deepEqual(of({ proto: "udp" }), []);
    assert.deepEqual(of({ port: 1025 }), [0, 1]);
    assert.deepEqual(of({}), [0, 1, 2]);
  });

  it("follow a flow whatever its mark, which may come later", () => {
    const filter = compileRowFilter({ mark: 7 });
    assert.deepEqual([...candidatesOf(filter, [tcpRecord(1)])], [0]);
    assert.equal(filter.matches(tcpRecord(1), 0), true);
    assert.equal(filter.accepts(tcpRecord(1), 0), false);
  });
});

describe("who", () => {
  const question = { address: "198.51.100.1", port: 4000, protocol: null, sinceMs: 0, untilMs: 0 };

  it("finds the host inside whose packets left with that address and port", () => {
    const inside = tcpRecord(1);
    inside[W_REPLY_DST] = 0xc6336401;
    inside[W_REPLY_L4] = ((443 << 16) | 4000) >>> 0;
    const other = Uint32Array.from(inside);
    other[W_REPLY_L4] = ((443 << 16) | 4001) >>> 0;
    const filter = compileWhoFilter(question);
    assert.equal(filter.matches(inside, 0), true);
    assert.equal(filter.matches(other, 0), false);
    assert.deepEqual([...candidatesOf(filter, [tcpRecord(2), inside])], [1]);
    assert.equal(compileWhoFilter({ ...question, protocol: 17 }).matches(inside, 0), false);
  });

  it("finds the host inside that connections to that address and port are sent on to, and no server outside", () => {
    const inbound = tcpRecord(1);
    inbound[W_ORIG_DST] = 0xc6336401;
    inbound[W_ORIG_L4] = ((1025 << 16) | 4000) >>> 0;
    const filter = compileWhoFilter(question);
    assert.equal(filter.matches(inbound, 0), true);
    const server = Uint32Array.from(tcpRecord(1));
    assert.equal(compileWhoFilter({ ...question, address: "192.0.2.1", port: 443 }).matches(server, 0), false);
  });

  it("refuses an address that is none", () => {
    assert.throws(() => compileWhoFilter({ ...question, address: "198.51.100" }), /198\.51\.100/);
  });
});
