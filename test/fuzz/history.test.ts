/** Damaged streams through the whole history: it answers, counts what it passed over, and never throws. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import type { Connection } from "../../src/history/connection.js";
import { History } from "../../src/history/scan/history.js";
import { BatchDecoder } from "../../src/stream/format/batch.js";
import { BatchView, createMessageOpener } from "../../src/stream/format/batch-view.js";
import { HistoryCluster } from "../support/history-cluster.js";
import { Random } from "../support/records.js";

const never = new AbortController().signal;

function clusterOf(seed: number): HistoryCluster {
  const cluster = new HistoryCluster(["fw1", "fw2"]);
  const random = new Random(seed);
  for (let i = 0; i < 40; i++) cluster.step(new Random(random.word()));
  return cluster;
}

function damage(random: Random, payload: Uint8Array): Uint8Array {
  if (random.oneIn(4)) return payload.subarray(0, random.below(payload.length));
  const bytes = Uint8Array.from(payload);
  for (let i = random.below(4); i >= 0; i--) bytes[random.below(bytes.length)] = random.below(256);
  return bytes;
}

describe("damaged streams", () => {
  it("are answered from all the same", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), fc.boolean(), async (seed, filtered) => {
        const random = new Random(seed);
        const cluster = clusterOf(seed);
        for (const { stream } of cluster.members) {
          for (const message of stream.messages) {
            if (random.oneIn(8)) message.payload = damage(random, message.payload);
          }
        }
        const history = await History.open({ streams: cluster, nodes: null });
        const filter = filtered ? { host: "10.0.0.0/24", nat: false } : {};
        const answer = history.connections({ sinceMs: null, untilMs: null, filter, nodes: null, limit: null }, never);
        const found: Connection[] = [];
        for await (const batch of answer.connections) found.push(...batch);
        for (const { startMs, endMs, path, uid } of found) {
          assert.ok(Number.isFinite(startMs) && (endMs === null || Number.isFinite(endMs)));
          assert.ok(path.length > 0 && uid.length === 18);
        }
        answer.gaps();
      }),
      { numRuns: 300 },
    );
  });

  it("open to the same rows as the decoder takes from them, or to none", () => {
    const open = createMessageOpener();
    const view = new BatchView();
    const decoder = new BatchDecoder();
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const random = new Random(seed);
        for (const { stream } of clusterOf(seed).members) {
          for (const { kind, payload } of stream.messages) {
            if (kind === "mark") continue;
            const bytes = random.oneIn(2) ? payload : damage(random, payload);
            const decoded = decoder.decode(bytes);
            const message = open(bytes);
            if (decoded === null) continue;
            assert.ok(message !== null && view.load(message));
            assert.deepEqual(message.envelope, decoded);
            assert.deepEqual(view.range, decoder.range);
            const sections = [
              [view.newRows(0), decoder.new4],
              [view.newRows(1), decoder.new6],
              [view.updates(), decoder.updates],
              [view.destroys(), decoder.destroys],
              [view.moved(), decoder.moved],
            ] as const;
            for (const [section, wanted] of sections) {
              section?.takeAll();
              assert.equal(section?.rows ?? 0, wanted.rows);
              for (const [i, { values, perRow }] of (section?.columns ?? []).entries()) {
                const length = wanted.rows * perRow;
                assert.deepEqual(values.subarray(0, length), wanted.columns[i]!.values.subarray(0, length));
              }
            }
          }
        }
      }),
      { numRuns: 40 },
    );
  });
});
