import assert from "node:assert/strict";
import { test } from "node:test";
import { ExternalCache } from "../../src/cache/external.js";
import { W_REPLY_L4 } from "../../src/flow/record.js";
import { CommitEnds } from "../../src/sync/out/commit-ends.js";
import { tcpRecord } from "../support/records.js";

const BIRTH = 50;

/** A flow that its owner has ended since the commit began. */
function ended(): { ends: CommitEnds; external: ExternalCache } {
  const external = new ExternalCache(10);
  const ends = new CommitEnds(external);
  const owner = external.origin("fw2");
  external.upsert(owner, 1, tcpRecord(1), null, 100, BIRTH);
  ends.begin();
  assert.equal(ends.birth(tcpRecord(1)), -1, "it is alive");
  external.destroy(owner, 1);
  return { ends, external };
}

test("a flow that ends while a commit runs is known by its birth until the commit was read back", () => {
  const { ends } = ended();
  assert.equal(ends.birth(tcpRecord(1)), BIRTH);
  assert.equal(ends.birth(tcpRecord(2)), -1);
  ends.end();
  assert.equal(ends.birth(tcpRecord(1)), -1);
});

test("packets that begin its tuple anew, with another translation, begin another connection", () => {
  const { ends } = ended();
  const words = tcpRecord(1);
  words[W_REPLY_L4]! ^= 0x10;
  assert.equal(ends.birth(words), -1);
});

test("what its owner publishes anew of the tuple is alive", () => {
  const { ends, external } = ended();
  external.upsert(external.origin("fw2"), 2, tcpRecord(1), null, 200);
  assert.equal(ends.birth(tcpRecord(1)), -1);
});
