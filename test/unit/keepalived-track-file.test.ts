/** When a node lowers its priority, and that it never does so for long, alone, or as primary. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pino } from "pino";
import { Standing, type TrackedPeer, TrackFile } from "../../src/keepalived/track-file.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-track-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));

function peer(reason: string | null, { isHeard = true, isPrimary = true } = {}): TrackedPeer {
  return { node: "fw1", isHeard, isPrimary, reason };
}

const BEHIND = [peer("waiting for a complete snapshot of it")];
const IN_SYNC = [peer(null)];
const SILENT = [peer("its daemon has been silent for 9 s", { isHeard: false })];

/** Looks once a second, with what is so in each second from 1; gives the seconds in which the node is lowered. */
function lowered(standing: Standing, seconds: readonly (readonly TrackedPeer[])[], isPrimary = false): number[] {
  return seconds.flatMap((peers, index) => {
    standing.look(isPrimary, peers, (index + 1) * 1000);
    return standing.isLowered ? [index + 1] : [];
  });
}

function times<T>(count: number, value: T): T[] {
  return Array.from({ length: count }, () => value);
}

test("a node that starts is lowered until it has what the primary has", () => {
  const standing = new Standing(false, 0);
  assert.equal(standing.isLowered, true);
  assert.deepEqual(lowered(standing, [...times(3, BEHIND), ...times(3, IN_SYNC)]), [1, 2, 3]);
});

test("a node that finds no primary has its full priority after five seconds", () => {
  assert.deepEqual(lowered(new Standing(false, 0), times(7, [])), [1, 2, 3, 4]);
  assert.deepEqual(lowered(new Standing(false, 0), times(7, SILENT)), [1, 2, 3, 4]);
  const backups = [peer("waiting for its daemon", { isPrimary: false })];
  assert.deepEqual(lowered(new Standing(false, 0), times(7, backups)), [1, 2, 3, 4], "two nodes that boot together");
});

test("the last node left takes its priority back, however far behind it is", () => {
  const seconds = [...times(6, BEHIND), ...times(6, SILENT)];
  assert.deepEqual(lowered(new Standing(false, 0), seconds), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
});

test("a primary is never lowered", () => {
  assert.deepEqual(lowered(new Standing(true, 0), times(6, BEHIND), true), []);
  const standing = new Standing(false, 0);
  assert.deepEqual(lowered(standing, times(2, BEHIND), true), []);
});

test("a short trouble of a node that was in sync lowers nothing", () => {
  const standing = new Standing(false, 0);
  const seconds = [...times(2, IN_SYNC), ...times(3, BEHIND), ...times(2, IN_SYNC), ...times(6, BEHIND)];
  assert.deepEqual(lowered(standing, seconds), [11, 12, 13]);
});

test("after two minutes a node is not lowered any more, until it was in sync again", () => {
  const standing = new Standing(false, 0);
  const seconds = [...times(300, BEHIND), ...times(2, IN_SYNC), ...times(5, BEHIND)];
  assert.deepEqual(lowered(standing, seconds), [...Array.from({ length: 119 }, (_, i) => i + 1), 306, 307]);
});

test("the file has what keepalived multiplies by its weight", () => {
  const path = join(directory, "run", "behind");
  const read = () => readFileSync(path, "utf8");
  const file = new TrackFile(path, false, 0, pino({ level: "silent" }));
  assert.equal(read(), "1\n");
  file.look(false, IN_SYNC, 1000);
  assert.equal(read(), "0\n");
  assert.deepEqual(file.counters, { lowered: 0, raised: 1, writesFailed: 0 });
  assert.equal(new TrackFile(path, true, 0, pino({ level: "silent" })).counters.raised, 0);
  assert.equal(read(), "0\n");
  assert.throws(
    () => new TrackFile(directory, false, 0, pino({ level: "silent" })),
    /^ConntrailError: keepalived\.track_file: /,
  );
});
