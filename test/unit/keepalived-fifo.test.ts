/** keepalived's FIFO as the daemon reads it: every line in order, whoever makes the FIFO, and whatever becomes of the writer. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  constants,
  lstatSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pino } from "pino";
import type { HookRole } from "../../src/control/protocol.js";
import { prepareFifo } from "../../src/keepalived/fifo-reader.js";
import { NotifyFifo } from "../../src/keepalived/notify-fifo.js";
import { LINE_BYTES_MAX, LineSplitter, parseNotifyLine } from "../../src/keepalived/notify-line.js";
import { waitUntil } from "../support/kernel-namespace.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-fifo-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));
let places = 0;

/** Roles as the daemon keeps them, without a daemon. */
class Roles {
  readonly groups = new Map<string, { role: HookRole; fromFifo: boolean }>();
  readonly log: string[] = [];

  holds(group: string, role: HookRole): boolean {
    return this.groups.get(group)?.role === role;
  }

  async take(group: string, role: HookRole): Promise<void> {
    this.groups.set(group, { role, fromFifo: true });
    this.log.push(`${group} ${role}`);
  }

  forget(group: string): void {
    this.groups.delete(group);
    this.log.push(`forget ${group}`);
  }
}

/** A node's FIFO, and keepalived at its other end. */
class Node implements Disposable {
  readonly path = join(directory, `${places++}.fifo`);
  readonly roles = new Roles();
  fifo!: NotifyFifo;
  #writer = -1;

  start(options: { groups?: readonly string[]; awayMsMax?: number } = {}): this {
    const { groups = null, ...more } = options;
    this.fifo = new NotifyFifo({ path: this.path, groups, roles: this.roles, log: pino({ level: "silent" }), ...more });
    this.fifo.open();
    return this;
  }

  /** As keepalived opens it. */
  keepalived(): this {
    this.#writer = openSync(this.path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    return this;
  }

  write(...lines: string[]): void {
    writeSync(this.#writer, lines.map((line) => `${line}\n`).join(""));
  }

  endKeepalived(): void {
    closeSync(this.#writer);
    this.#writer = -1;
  }

  async heard(...log: string[]): Promise<void> {
    await waitUntil(() => this.roles.log.length >= log.length, `${log.join(", ")}`);
    assert.deepEqual(this.roles.log, log);
  }

  [Symbol.dispose](): void {
    this.fifo.close();
    if (this.#writer >= 0) closeSync(this.#writer);
  }
}

test("every line that keepalived writes is understood, and nothing else is", () => {
  const role = (text: string) => parseNotifyLine(text)?.role;
  assert.deepEqual(parseNotifyLine('GROUP "firewall" MASTER 0'), { kind: "GROUP", name: "firewall", role: "primary" });
  assert.deepEqual(parseNotifyLine('INSTANCE "a b" BACKUP 150'), { kind: "INSTANCE", name: "a b", role: "backup" });
  for (const state of ["FAULT", "STOP", "DELETED"]) assert.equal(role(`INSTANCE "x" ${state} 1`), "fault");
  for (const event of ["MASTER_RX_LOWER_PRI", "MASTER_PRIORITY", "BACKUP_PRIORITY"]) {
    assert.equal(role(`INSTANCE "x" ${event} 130`), null);
  }
  for (const text of [
    ...["", "GROUP", 'GROUP "x"', 'GROUP "" MASTER 0', 'GROUP "x" MASTER 0 more', 'GROUP "x" constructor 0'],
    ...["VS [192.0.2.1]:tcp:80 UP", 'GROUP "x" {UNKNOWN} 0', "GROUP x MASTER 0", ' GROUP "x" MASTER 0'],
  ]) {
    assert.equal(parseNotifyLine(text), null, text);
  }
});

test("lines come out whole wherever the pieces are cut, and long ones are dropped", () => {
  const long = "x".repeat(LINE_BYTES_MAX + 1);
  const text = Buffer.from(`one\n${long}\n\ntwo\n${"y".repeat(LINE_BYTES_MAX)}\nrest`);
  for (const step of [1, 2, 7, 1000, text.length]) {
    const splitter = new LineSplitter();
    const lines: string[] = [];
    for (let at = 0; at < text.length; at += step) lines.push(...splitter.push(text.subarray(at, at + step)));
    assert.deepEqual(lines, ["one", "", "two", "y".repeat(LINE_BYTES_MAX)], `pieces of ${step}`);
    assert.equal(splitter.oversized, 1);
    splitter.end();
    assert.deepEqual(splitter.push(Buffer.from("new\n")), ["new"]);
  }
});

test("a group's lines count, in order; its instances say nothing more", async () => {
  using node = new Node().start().keepalived();
  node.write('GROUP "firewall" BACKUP 0', 'INSTANCE "lan" BACKUP 150');
  await node.heard("firewall backup");
  node.write('INSTANCE "lan" MASTER 150', 'GROUP "firewall" MASTER 0');
  await node.heard("firewall backup", "firewall primary");
  node.write('GROUP "firewall" MASTER 0', 'INSTANCE "lan" MASTER_PRIORITY 130', "garbage", 'GROUP "a b" MASTER 0');
  node.write('INSTANCE "lan" STOP 150', 'GROUP "firewall" STOP 0');
  await node.heard("firewall backup", "firewall primary", "firewall fault");
  await waitUntil(() => node.fifo.counters.lines === 10, "all lines");
  const { roles, ignored, malformed, repeated } = node.fifo.counters;
  assert.deepEqual({ roles, ignored, malformed, repeated }, { roles: 3, ignored: 4, malformed: 2, repeated: 1 });
});

test("without a group the instances count, until a group is named", async () => {
  using node = new Node().start().keepalived();
  node.write('INSTANCE "lan" MASTER 150');
  await node.heard("lan primary");
  node.write('GROUP "firewall" MASTER 0');
  await node.heard("lan primary", "forget lan", "firewall primary");
  node.write('INSTANCE "lan" BACKUP 150');
  await waitUntil(() => node.fifo.counters.ignored === 1, "the line of the instance");
  assert.deepEqual([...node.roles.groups.keys()], ["firewall"]);
});

test("the configuration may name those that count", async () => {
  using node = new Node().start({ groups: ["wan", "lonely"] }).keepalived();
  node.write('GROUP "lan" MASTER 0', 'GROUP "wan" BACKUP 0', 'INSTANCE "lonely" MASTER 0');
  await node.heard("wan backup", "lonely primary");
});

test("of what was written while no daemon ran, the last state of each group counts", async () => {
  using node = new Node();
  prepareFifo(node.path);
  node.keepalived();
  node.write(
    'GROUP "a" BACKUP 0',
    'GROUP "b" BACKUP 0',
    'GROUP "a" MASTER 0',
    'GROUP "a" BACKUP 0',
    'GROUP "b" MASTER 0',
  );
  node.start();
  await node.heard("a backup", "b primary");
  node.fifo.close();
  node.write('GROUP "a" MASTER 0');
  node.start();
  await node.heard("a backup", "b primary", "a primary");
});

test("a role of a hook that named no group is outdated by keepalived's first line", async () => {
  using node = new Node();
  node.roles.groups.set("", { role: "primary", fromFifo: false });
  node.start().keepalived().write('GROUP "firewall" BACKUP 0');
  await node.heard("forget ", "firewall backup");
});

test("a reload that closes, removes and remakes the FIFO loses no line", async () => {
  using node = new Node().start().keepalived();
  node.write('GROUP "firewall" BACKUP 0');
  await node.heard("firewall backup");
  for (const remakes of [false, true, true]) {
    if (remakes) rmSync(node.path);
    node.endKeepalived();
    if (remakes && lstatSync(node.path, { throwIfNoEntry: false }) === undefined) {
      execFileSync("mkfifo", ["-m", "644", node.path]);
    }
    node.keepalived();
    const state = node.roles.holds("firewall", "primary") ? "BACKUP" : "MASTER";
    node.write(`GROUP "firewall" ${state} 0`);
    await waitUntil(() => node.roles.holds("firewall", state === "MASTER" ? "primary" : "backup"), `the line ${state}`);
  }
  assert.equal(node.fifo.counters.vanished, 0);
});

test("a role ends when keepalived is gone without a word, and not when it opens the FIFO again", async () => {
  using node = new Node().start({ awayMsMax: 100 }).keepalived();
  node.write('GROUP "firewall" MASTER 0');
  node.roles.groups.set("hook", { role: "primary", fromFifo: false });
  await node.heard("firewall primary");
  node.endKeepalived();
  node.keepalived();
  node.write('INSTANCE "lan" MASTER 0');
  await waitUntil(() => node.fifo.counters.ignored === 1, "keepalived is back");
  assert.deepEqual(node.fifo.warnings, []);
  node.endKeepalived();
  await node.heard("firewall primary", "firewall fault");
  assert.equal(node.roles.holds("hook", "primary"), true, "a hook's role is not keepalived's FIFO's to end");
  assert.match(node.fifo.warnings.join(), /^keepalived does not write into/);
  node.keepalived();
  assert.deepEqual(node.fifo.warnings, []);
});

test("a FIFO without a writer costs no time", async () => {
  using node = new Node().start().keepalived();
  node.endKeepalived();
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 300));
  const { user, system } = process.cpuUsage(before);
  assert.ok(user + system < 150_000, `${user + system} µs`);
});

test("the FIFO is its owner's alone, and nothing else is taken for it", () => {
  const path = join(directory, "made", "keepalived.fifo");
  prepareFifo(path);
  prepareFifo(path);
  assert.equal(lstatSync(path).mode & 0o777, 0o600);
  chmodSync(path, 0o622);
  assert.throws(() => prepareFifo(path), /keepalived\.fifo: .*others may write there: chmod 600/);
  const file = join(directory, "file");
  writeFileSync(file, "");
  assert.throws(() => prepareFifo(file), /exists and is not a FIFO: remove it/);
});

test("garbage without end is bounded and counted", async () => {
  using node = new Node().start().keepalived();
  for (let i = 0; i < 64; i++) {
    node.write("z".repeat(4000));
    await waitUntil(() => node.fifo.counters.oversized === i + 1, "a line that is too long");
  }
  node.write('GROUP "firewall" MASTER 0');
  await node.heard("firewall primary");
});
