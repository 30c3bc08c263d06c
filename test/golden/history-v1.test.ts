/** Messages of format version 1 through the history: what streams held before today is answered from for ever. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { formatAddress } from "../../src/flow/address.js";
import { W_PROTO } from "../../src/flow/record.js";
import { Projection } from "../../src/history/scan/projection.js";
import { compileRowFilter } from "../../src/history/scan/row-filter.js";
import { createMessageOpener } from "../../src/stream/format/batch-view.js";

function read(...names: readonly string[]): { projection: Projection; ended: number } {
  let ended = 0;
  const listener = { ended: () => ended++, changed: null };
  const projection = new Projection({ filter: compileRowFilter({}), sinceMs: null, listener });
  for (const name of names) {
    const hex = readFileSync(join("test", "golden", "stream-batch-v1", `${name}.hex`), "utf8");
    const message = createMessageOpener()(Buffer.from(hex.replace(/\s/g, ""), "hex"));
    assert.ok(message);
    // Each golden message has the same number.
    projection.apply(projection.node("fw-a"), message, true);
  }
  assert.equal(projection.counters.malformed, 0);
  return { projection, ended };
}

function alive({ projection }: { projection: Projection }) {
  return [...projection.open()].map(({ words, startMs, uid, rare }) => {
    const family = words[W_PROTO]! >>> 8;
    return [
      formatAddress(words, 0, family),
      words[W_PROTO]! & 0xff,
      startMs,
      uid,
      rare === null ? 0 : Object.keys(rare).length,
    ];
  });
}

describe("the history of messages of version 1", () => {
  it("takes events", () => {
    assert.deepEqual(alive(read("events")), [
      ["192.0.2.10", 6, 1_800_000_001_000, "C1Ai0fWXUxoXZDw6Ts", 7],
      ["10.0.0.5", 17, 1_800_000_001_000, "C0kg2RxH6BZkGVmjcr", 0],
      ["2001:db8::1", 132, 1_800_000_001_000, "C0m6TXsck2FOHkxj1W", 2],
    ]);
  });

  it("takes a snapshot's chunk, of a time when rows had no birth", () => {
    assert.deepEqual(
      alive(read("snapshot")).map((row) => row.slice(0, 2)),
      [
        ["10.0.0.5", 17],
        ["192.0.2.10", 6],
        ["2001:db8::1", 132],
      ],
    );
  });

  it("takes moved rows, expectations and marks of every type", () => {
    const names = ["commit", "epoch", "gap", "gap-counted", "role", "snapshot-begin", "snapshot-end", "stop"];
    const { projection } = read(
      "moved",
      "expectations",
      "expectations-snapshot",
      ...names.map((name) => `mark-${name}`),
    );
    const reasons = projection.gaps(0, Number.POSITIVE_INFINITY).map(({ reason, events }) => [reason, events]);
    assert.deepEqual(reasons, [
      ["event socket overrun", null],
      ["messages dropped", 12_345],
      ["the daemon was stopped", null],
    ]);
  });
});
