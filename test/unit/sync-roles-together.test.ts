/** Hooks that come while a commit runs: the last one says what the node is when it is over, and a role that was taken back is taken anew. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import type { HookReport, HookRole } from "../../src/control/protocol.js";
import type { RequestBatch } from "../../src/ctnetlink/encode.js";
import type { Journal } from "../../src/sync/out/journal.js";
import type { Replicator } from "../../src/sync/out/replicator.js";
import { Carrying } from "../../src/sync/ports/carrying.js";
import { Roles } from "../../src/sync/takeover/roles.js";
import { sampleRecord } from "../support/control-handlers.js";
import { waitUntil } from "../support/kernel-namespace.js";
import { EMPTY_KERNEL } from "../support/test-node.js";

/** A node whose kernel answers when it is let; one flow of a peer waits for a commit. */
class Node {
  readonly external = new ExternalCache(100);
  readonly marks: string[] = [];
  batches = 0;
  let: () => void = () => {};
  readonly carrying: Carrying;
  readonly roles: Roles;
  readonly journal = { role: "", writeMark: (mark: { type: string }) => this.marks.push(mark.type) };

  constructor(groups: ReadonlyMap<string, HookRole> = new Map(), before: "unknown" | "primary" = "unknown") {
    this.external.upsert(this.external.origin("fw2"), 0, sampleRecord(1), null, 1);
    this.carrying = new Carrying({ earlier: { groups, table: before }, injects: false });
    const commit: Replicator["commit"] = async (write, written) => {
      const report = await write();
      written(report);
      return report;
    };
    this.roles = new Roles({
      internal: new InternalCache(100),
      external: this.external,
      kernel: { ...EMPTY_KERNEL, send: (batch: RequestBatch) => this.#send(batch) },
      journal: this.journal as unknown as Journal,
      followers: [],
      injects: false,
      replicator: { commit, committed: Promise.resolve() } as Partial<Replicator> as Replicator,
      carrying: this.carrying,
      addresses: () => new Set(),
      ahead: null,
      commitTimeoutSeconds: null,
      commitWindowTracking: false,
      purgeAfterSeconds: 3600,
      clock: { wallMs: () => Date.now() },
      log: pino({ level: "silent" }),
    });
  }

  async #send(batch: RequestBatch): Promise<{ sent: number; errors: []; unknown: number }> {
    this.batches++;
    await new Promise<void>((resolve) => {
      this.let = resolve;
    });
    return { sent: batch.count, errors: [], unknown: 0 };
  }

  hook(role: HookRole): Promise<HookReport> {
    return this.roles.hook(role, () => undefined);
  }

  /** The kernel takes the batch that it holds now, the `number`th. */
  async takes(number: number): Promise<void> {
    await waitUntil(() => this.batches === number, `request ${number}`);
    this.let();
  }
}

test("a backup during the commit steps down when that is over", async () => {
  const node = new Node();
  const primary = node.hook("primary");
  await waitUntil(() => node.batches === 1, "the commit");
  let answered = false;
  const backup = node.hook("backup").then(() => {
    answered = true;
  });
  assert.equal(node.roles.role, "backup");
  await new Promise(setImmediate);
  assert.equal(answered, false);
  assert.equal(node.carrying.carries, true, "what it writes is its own until then");
  await node.takes(1);
  assert.equal((await primary).commit?.committed, 1);
  await backup;
  assert.equal(node.carrying.carries, false);
  await node.roles.stop();
});

test("a primary after that commits what has come since, and carries again", async () => {
  const node = new Node();
  const first = node.hook("primary");
  await waitUntil(() => node.batches === 1, "the commit");
  const backup = node.hook("backup");
  const last = node.hook("primary");
  await node.takes(1);
  await first;
  await backup;
  await node.takes(2);
  assert.equal((await last).commit?.committed, 1);
  assert.equal(node.roles.role, "primary");
  assert.equal(node.carrying.carries, true);
  await node.roles.stop();
});

test("two that say primary share a commit", async () => {
  const node = new Node();
  const both = [node.hook("primary"), node.hook("primary")];
  await node.takes(1);
  const [first, second] = await Promise.all(both);
  assert.equal(first?.commit, second?.commit);
  await node.roles.stop();
});

test("what was said to a daemon before counts by group; what the stream remembers, for the kernel's table alone", () => {
  const known = new Node(
    new Map([
      ["lan", "primary"],
      ["wan", "backup"],
    ]),
  );
  assert.deepEqual([known.roles.role, known.carrying.carries, known.journal.role], ["primary", true, "primary"]);
  const remembered = new Node(new Map(), "primary");
  const { roles, carrying, journal } = remembered;
  assert.deepEqual([roles.role, carrying.carries, journal.role], ["unknown", true, "unknown"]);
  const stepped = new Node(new Map([["", "backup"]]), "primary");
  assert.deepEqual(
    [stepped.roles.role, stepped.carrying.carries, stepped.carrying.standsBack],
    ["backup", false, true],
  );
});
