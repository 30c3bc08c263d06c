/** The record of a takeover, and the takeover of a node whose kernel has the peers' flows already. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import type { RequestBatch } from "../../src/ctnetlink/encode.js";
import type { BatchResult } from "../../src/ctnetlink/request-socket.js";
import type { Mark } from "../../src/stream/format/mark.js";
import type { Journal } from "../../src/sync/out/journal.js";
import type { Replicator } from "../../src/sync/out/replicator.js";
import { Carrying } from "../../src/sync/ports/carrying.js";
import type { AheadWriter } from "../../src/sync/ports/kernel.js";
import { Roles } from "../../src/sync/takeover/roles.js";
import { sampleRecord } from "../support/control-handlers.js";
import { EMPTY_KERNEL } from "../support/test-node.js";

const ENOMEM = 12;
const START_MS = 1_800_000_000_000;
const quiet = (): void => undefined;

/** A node with one flow of a peer. */
class Node {
  readonly external = new ExternalCache(100);
  readonly marks: Mark[] = [];
  readonly carrying: Carrying;
  readonly roles: Roles;
  /** Ends the dump of a takeover in mode `inject`. */
  endDump: (complete: boolean) => void = quiet;
  errors: BatchResult["errors"] = [];

  constructor({ injects = false, ahead = null }: { injects?: boolean; ahead?: AheadWriter | null } = {}) {
    this.external.upsert(this.external.origin("fw2"), 0, sampleRecord(1), null, 1);
    this.carrying = new Carrying({ earlier: { groups: new Map(), table: "unknown" }, injects });
    const commit: Replicator["commit"] = async (write, whenRead) => {
      const report = await write();
      await whenRead(report);
      return report;
    };
    const resyncKernel = (): Promise<boolean> =>
      new Promise((resolve) => {
        this.endDump = (complete) => {
          if (complete) this.external.flush();
          resolve(complete);
        };
      });
    this.roles = new Roles({
      internal: new InternalCache(100),
      external: this.external,
      kernel: { ...EMPTY_KERNEL, send: (batch) => this.#send(batch) },
      journal: { role: "", writeMark: (mark: Mark) => this.marks.push(mark) } as unknown as Journal,
      followers: [],
      injects,
      replicator: { commit, resyncKernel, committed: Promise.resolve() } as Partial<Replicator> as Replicator,
      carrying: this.carrying,
      addresses: () => new Set(),
      ahead,
      commitTimeoutSeconds: null,
      commitWindowTracking: false,
      purgeAfterSeconds: 3600,
      clock: { wallMs: () => START_MS },
      log: pino({ level: "silent" }),
    });
  }

  async #send(batch: RequestBatch): Promise<BatchResult> {
    return { sent: batch.count, errors: this.errors, unknown: 0 };
  }

  /** The marks of commits, without what depends on the machine. */
  get commits(): object[] {
    return this.marks.flatMap((mark) => (mark.type === "commit" ? [{ ...mark, durationMs: 0 }] : []));
  }
}

test("a hook's takeover is recorded with its group, a command's without one", async () => {
  const node = new Node();
  await node.roles.hook("primary", quiet, "lan");
  const counts = { committed: 1, updated: 0, failed: 0, stale: 0, durationMs: 0, skipped: 0 };
  const record = { type: "commit", ...counts, beganMs: START_MS };
  assert.deepEqual(node.commits, [{ ...record, cause: "hook", group: "lan" }]);
  node.errors = [{ index: 0, errno: ENOMEM }];
  await node.roles.commit(quiet);
  const failed = { committed: 0, failed: 1, reasons: { ENOMEM: 1 } };
  assert.deepEqual(node.commits[1], { ...record, ...failed, cause: "command" });
  const { takeovers, lastAtMs, lastFailed } = node.roles.lastTakeover;
  assert.deepEqual([takeovers, lastAtMs, lastFailed], [2, START_MS, 1]);
  await node.roles.stop();
});

test("mode inject: the hook returns at once, and the claims are recorded behind it", async () => {
  const node = new Node({ injects: true });
  const { commit } = await node.roles.hook("primary", quiet);
  assert.deepEqual([commit?.ahead, commit?.underWay], [1, true]);
  assert.equal(node.carrying.carries, true, "what the dump lists is its own");
  assert.deepEqual(node.commits, []);
  node.endDump(true);
  await node.roles.committed();
  assert.equal(node.carrying.carries, false);
  const counts = { committed: 0, updated: 1, failed: 0, stale: 0, durationMs: 0, skipped: 0, ahead: 1 };
  assert.deepEqual(node.commits, [{ type: "commit", ...counts, beganMs: START_MS, cause: "hook" }]);
  await node.roles.stop();
});

test("mode inject: a backup during the claims waits for them, a command that commits as well", async () => {
  const node = new Node({ injects: true });
  await node.roles.hook("primary", quiet);
  const answered: string[] = [];
  const commit = node.roles.commit(quiet).then(() => answered.push("commit"));
  const backup = node.roles.hook("backup", quiet).then(() => answered.push("backup"));
  await new Promise(setImmediate);
  assert.deepEqual([answered, node.roles.role, node.carrying.carries], [[], "backup", true]);
  node.endDump(true);
  await Promise.all([commit, backup]);
  assert.deepEqual([answered.sort(), node.carrying.carries], [["backup", "commit"], false]);
  await node.roles.stop();
});

test("commit.ahead: the hook returns when the rest is written, and a step down lets flows wait again", async () => {
  const done: string[] = [];
  let write: () => void = quiet;
  const ahead: AheadWriter = {
    writeAll: async () => {
      await new Promise<void>((resolve) => {
        write = resolve;
      });
      done.push("written");
      return { ahead: 7, created: 3, changed: 2, failed: 1 };
    },
    hold: () => void done.push("hold"),
  };
  const node = new Node({ injects: true, ahead });
  const primary = node.roles.hook("primary", quiet).then((report) => {
    done.push("answered");
    return report;
  });
  await new Promise(setImmediate);
  assert.deepEqual([done, node.carrying.carries], [[], false], "nothing is claimed before it is written");
  write();
  const { commit } = await primary;
  const { durationMs: _, ...counts } = commit!;
  const written = { committed: 3, updated: 2, skipped: 0, failed: { refused: 1 }, stale: 0, ahead: 7 };
  assert.deepEqual(counts, { ...written, underWay: true });
  const backup = node.roles.hook("backup", quiet);
  node.endDump(true);
  await backup;
  assert.deepEqual(done, ["written", "answered", "hold"]);
  const { failed: _failed, ...marked } = written;
  const record = { type: "commit", ...marked, failed: 1, reasons: { refused: 1 }, durationMs: 0, beganMs: START_MS };
  assert.deepEqual(node.commits, [{ ...record, cause: "hook" }]);
  await node.roles.stop();
});
