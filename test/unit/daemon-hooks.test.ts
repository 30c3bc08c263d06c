/** Hooks as the daemon takes them: each once, in the order in which they were started, from the socket or from their traces. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pino } from "pino";
import type { HookStart } from "../../src/control/hook-start.js";
import { type HookRecord, HookTrace } from "../../src/control/hook-trace.js";
import type { CommitReport, HookReport, HookRole } from "../../src/control/protocol.js";
import { Hooks, isOfThisBoot, readTrace } from "../../src/daemon/hooks.js";
import { readProcessStat } from "../../src/os/process-stat.js";
import { waitUntil } from "../support/kernel-namespace.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-hooks-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));
let places = 0;

const quiet = (): void => {};
/** Of a process that is not there any more: no machine has such a pid. */
const GONE = 99_999_999;

const UNDER_WAY: CommitReport = {
  ...{ committed: 0, updated: 0, skipped: 0, failed: {}, stale: 0, ahead: 5, durationMs: 0 },
  underWay: true,
};

/** A daemon that has nothing but its hooks, at a control socket of its own; `next` is the daemon after it. */
class Daemon implements Disposable {
  readonly acted: string[] = [];
  readonly logged: string[] = [];
  readonly trace: HookTrace;
  readonly hooks: Hooks;
  /** What every role waits for, and fails with. */
  answers: Promise<void> = Promise.resolve();
  failure: Error | null = null;
  /** The commit goes on behind the answer, until this is resolved. */
  claims: Promise<void> | null = null;
  readonly #control: string;

  constructor(control = join(directory, String(places++), "control.sock")) {
    this.#control = control;
    this.trace = new HookTrace(control);
    const log = pino({ level: "info" }, { write: (line: string) => this.logged.push(JSON.parse(line).msg as string) });
    const taken = readTrace(this.trace, log).filter((record) => record.taken);
    const act: Daemon["act"] = (...args) => this.act(...args);
    const settled = (): Promise<void> => this.claims ?? Promise.resolve();
    this.hooks = new Hooks({ trace: this.trace, act, settled, forget: quiet, taken, log });
  }

  async act(role: HookRole, _progress: unknown, group?: string): Promise<HookReport> {
    this.acted.push(group === undefined ? role : `${role} ${group}`);
    await this.answers;
    if (this.failure !== null) throw this.failure;
    return { role, previous: "unknown", commit: this.claims === null ? null : UNDER_WAY, durationMs: 1 };
  }

  hook(role: HookRole, started?: HookStart, group?: string): Promise<HookReport> {
    return this.hooks.hook(role, quiet, group, started);
  }

  next(): Daemon {
    this.hooks.close();
    return new Daemon(this.#control);
  }

  [Symbol.dispose](): void {
    this.hooks.close();
  }
}

function at(ticks: number, pid = GONE): HookStart {
  return { ticks, pid };
}

function failed(ticks: number, more: Partial<HookRecord> = {}): HookRecord {
  const record = { group: "", role: "primary" as const, started: at(ticks), saidMs: 1000, taken: false };
  return { ...record, error: "no daemon answers", ...more };
}

test("a hook that was started before the last one is answered and does nothing", async () => {
  using daemon = new Daemon();
  await daemon.hook("backup", at(20));
  assert.deepEqual(await daemon.hook("primary", at(19)), {
    role: "primary",
    previous: "backup",
    commit: null,
    durationMs: 0,
    ignored: true,
  });
  await daemon.hook("primary", at(20, GONE - 1));
  assert.deepEqual(daemon.acted, ["backup"]);
  assert.deepEqual(daemon.logged.slice(-1), ["hook ignored: keepalived started a later one"]);
  await daemon.hook("primary", at(19), "lan");
  await daemon.hook("primary", at(21));
  assert.deepEqual(daemon.acted, ["backup", "primary lan", "primary"], "other groups and later hooks count");
});

test("hooks that say nothing of their start count as they arrive", async () => {
  using daemon = new Daemon();
  for (const role of ["backup", "primary", "backup", "primary"] as const) await daemon.hook(role);
  assert.deepEqual(daemon.acted, ["backup", "primary", "backup", "primary"]);
});

test("while a commit runs a later hook is taken, and an earlier one is not", async () => {
  using daemon = new Daemon();
  let answer = quiet;
  daemon.answers = new Promise((resolve) => {
    answer = resolve;
  });
  const primary = daemon.hook("primary", at(20));
  const backup = daemon.hook("backup", at(21));
  assert.equal((await daemon.hook("fault", at(19))).ignored, true);
  answer();
  await Promise.all([primary, backup]);
  assert.deepEqual(daemon.acted, ["primary", "backup"]);
  assert.deepEqual(
    daemon.hooks.status().map(({ role, state }) => `${role} ${state}`),
    ["backup taken"],
  );
});

test("a hook that comes twice acts once, and both get its answer", async () => {
  using daemon = new Daemon();
  const answers = await Promise.all([daemon.hook("primary", at(20)), daemon.hook("primary", at(20))]);
  assert.equal(answers[0], answers[1]);
  assert.deepEqual(daemon.acted, ["primary"]);
});

test("the next daemon knows what was said, and what comes too late", async () => {
  using daemon = new Daemon();
  await daemon.hook("backup", at(20));
  using next = daemon.next();
  assert.deepEqual(
    next.trace.read().map(({ role, taken }) => ({ role, taken })),
    [{ role: "backup", taken: true }],
  );
  assert.equal((await next.hook("primary", at(19))).ignored, true);
  next.hooks.open();
  assert.deepEqual(next.acted, [], "what a daemon has taken is not taken up again");
});

test("what no daemon took is taken up once, in order, and said", async () => {
  using daemon = new Daemon();
  daemon.trace.write(failed(21, { group: "lan", role: "backup" }));
  daemon.trace.write(failed(20));
  daemon.trace.write(failed(22, { group: "killed", error: null }));
  daemon.hooks.open();
  assert.deepEqual(daemon.acted, ["primary", "backup lan", "primary killed"]);
  assert.equal(daemon.logged.filter((text) => text === "takes up a hook that failed").length, 3);
  await waitUntil(() => daemon.hooks.status().every(({ state }) => state === "taken"), "the traces");
  const said = { group: "", role: "primary", saidMs: 1000, state: "taken", error: "no daemon answers" };
  assert.deepEqual(daemon.hooks.status()[0], said);
  using next = daemon.next();
  next.hooks.open();
  assert.deepEqual(next.acted, []);
});

test("a hook that still waits for a daemon comes by itself", async () => {
  using daemon = new Daemon();
  const started = { ticks: readProcessStat(process.pid)!.startTicks, pid: process.pid };
  daemon.trace.write(failed(0, { started, error: null }));
  daemon.hooks.open();
  assert.deepEqual(daemon.acted, []);
  assert.deepEqual(
    daemon.hooks.status().map(({ state }) => state),
    ["under way"],
  );
  await daemon.hook("primary", started);
  assert.deepEqual(daemon.acted, ["primary"]);
});

test("a hook that fails beside a daemon that runs is taken up at once", async () => {
  using daemon = new Daemon();
  daemon.hooks.open();
  daemon.trace.write(failed(20));
  await waitUntil(() => daemon.acted.length > 0, "the hook");
  await daemon.hook("backup", at(22));
  daemon.trace.write(failed(21));
  daemon.trace.write(failed(23, { role: "fault" }));
  await waitUntil(() => daemon.acted.length > 2, "the next hook");
  assert.deepEqual(daemon.acted, ["primary", "backup", "fault"]);
});

test("a commit that fails is not repeated by this daemon, but by the next", async () => {
  using daemon = new Daemon();
  daemon.hooks.open();
  daemon.failure = new Error("the kernel refuses");
  await assert.rejects(daemon.hook("primary", at(20)), { message: "the kernel refuses" });
  daemon.trace.write(failed(20, { error: "the kernel refuses" }));
  await waitUntil(() => daemon.hooks.status()[0]?.error === "the kernel refuses", "the trace");
  // Events of the directory come in order: this one after those before.
  daemon.trace.write(failed(1, { group: "later" }));
  await waitUntil(() => daemon.acted.includes("primary later"), "a later hook");
  assert.deepEqual(daemon.acted, ["primary", "primary later"]);
  using next = daemon.next();
  next.hooks.open();
  assert.deepEqual(next.acted, ["primary later", "primary"]);
});

test("without a trace, hooks are taken all the same", async () => {
  const control = join(directory, String(places++), "control.sock");
  mkdirSync(join(control, ".."));
  writeFileSync(`${control}.hooks`, "a file");
  using daemon = new Daemon(control);
  daemon.hooks.open();
  await daemon.hook("primary", at(20));
  assert.deepEqual(daemon.acted, ["primary"]);
  assert.deepEqual(daemon.hooks.status(), []);
  assert.ok(daemon.logged.some((text) => /trace cannot be written/.test(text)));
});

test("what was written before the boot, or in the future, is not of this boot", () => {
  assert.ok(isOfThisBoot(Date.now() - 1));
  assert.ok(!isOfThisBoot(Date.now() + 60_000));
  assert.ok(!isOfThisBoot(1));
});

test("a hook that is answered while its claims are under way counts as taken behind them", async () => {
  using daemon = new Daemon();
  let claimed: () => void = () => {};
  daemon.claims = new Promise((resolve) => {
    claimed = resolve;
  });
  const started = at(20);
  await daemon.hook("primary", started);
  assert.deepEqual(
    daemon.hooks.status().map(({ state }) => state),
    ["under way"],
  );
  assert.equal(daemon.trace.read()[0]?.taken, false);
  // Its daemon dies: the next one takes the role up.
  using next = daemon.next();
  next.hooks.open();
  assert.deepEqual(next.acted, ["primary"]);
  claimed();
  await daemon.claims;
  await waitUntil(() => daemon.trace.read()[0]?.taken === true, "the hook is taken");
});
