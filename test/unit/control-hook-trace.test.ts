/** What hooks leave beside the control socket, and what is made of it. */
import assert from "node:assert/strict";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { type HookStart, isStartedBefore } from "../../src/control/hook-start.js";
import { type HookRecord, HookTrace } from "../../src/control/hook-trace.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-trace-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));
let places = 0;

/** Of a control socket that no other test has, in a directory that is not there yet. */
function newTrace(): HookTrace {
  return traceAt(join(directory, String(places++), "control.sock"));
}

function traceAt(control: string, boot: string | null = "boot-1"): HookTrace {
  return new HookTrace(control, boot);
}

function hook(ticks: number, more: Partial<HookRecord> = {}): HookRecord {
  const started = { ticks, pid: 100 };
  return { group: "", role: "primary", started, saidMs: 1_769_860_800_000 + ticks, taken: false, error: null, ...more };
}

test("the last hook of each group is kept, for root alone", () => {
  const trace = newTrace();
  assert.deepEqual(trace.read(), []);
  const records = [hook(5, { group: "lan" }), hook(9, { role: "fault", error: "no daemon" })];
  trace.write(hook(4, { taken: true }));
  for (const record of records) trace.write(record);
  assert.deepEqual(trace.read(), records);
  assert.deepEqual(readdirSync(trace.directory).sort(), ["@9-100", "lan@5-100"]);
  assert.equal(statSync(trace.directory).mode & 0o7777, 0o700);
  assert.equal(statSync(join(trace.directory, "@9-100")).mode & 0o7777, 0o600);
  trace.write({ ...records[1]!, taken: true });
  assert.equal(trace.read()[1]?.taken, true);
});

test("keepalived's umask does not lock the daemon's user out, nor does a directory that it has made so", () => {
  const umask = process.umask(0o133);
  try {
    const trace = newTrace();
    trace.write(hook(5));
    assert.equal(statSync(trace.directory).mode & 0o7777, 0o700);
    assert.equal(statSync(join(trace.directory, "..")).mode & 0o7777, 0o755);
    chmodSync(trace.directory, 0o600);
    trace.write(hook(6));
    assert.equal(statSync(trace.directory).mode & 0o7777, 0o700);
    assert.equal(process.umask(), 0o133);
  } finally {
    process.umask(umask);
  }
});

test("whatever the order in which hooks write, the one started last stays", () => {
  const one = fc.record({ ticks: fc.integer({ min: 1, max: 4 }), pid: fc.integer({ min: 1, max: 40 }) });
  fc.assert(
    fc.property(fc.array(one, { minLength: 1, maxLength: 8 }), (starts) => {
      const trace = newTrace();
      for (const started of starts) trace.write(hook(0, { started: { ...started } }));
      const last = starts.reduce((a, b) => (isStartedBefore(a, b) ? b : a));
      assert.deepEqual(
        trace.read().map(({ started }) => started),
        [{ ...last }],
      );
      assert.equal(readdirSync(trace.directory).length, 1);
    }),
    { numRuns: 50 },
  );
});

test("of one tick the pid decides, also when pids begin again", () => {
  const at = (ticks: number, pid: number): HookStart => ({ ticks, pid });
  for (const [first, second] of [
    [at(1, 500), at(2, 400)],
    [at(1, 500), at(1, 501)],
    [at(1, 32_760), at(1, 310)],
    [at(1, 4_194_300), at(1, 301)],
    [at(1, 0), at(1, 30_000)],
  ] as const) {
    assert.ok(isStartedBefore(first, second));
    assert.ok(!isStartedBefore(second, first));
  }
  assert.ok(!isStartedBefore(at(1, 7), at(1, 7)));
});

test("an earlier boot is not read, and is removed by the next hook though its ticks are higher", () => {
  const control = join(directory, String(places++), "control.sock");
  traceAt(control).write(hook(900));
  const trace = traceAt(control, "boot-2");
  assert.deepEqual(trace.read(), []);
  trace.write(hook(3));
  assert.deepEqual(readdirSync(trace.directory), ["@3-100"]);
  assert.deepEqual(traceAt(control, null).read(), [], "where the kernel tells no boot, nothing is known");
});

test("damage costs what is damaged", () => {
  const trace = newTrace();
  trace.write(hook(1, { group: "good" }));
  const good = readFileSync(join(trace.directory, "good@1-100"), "utf8");
  const at = (name: string): string => join(trace.directory, name);
  const bad: Record<string, string | Buffer> = {
    "a@2-1": "",
    "b@2-1": good.slice(0, 30),
    "c@2-1": "null",
    "d@2-1": good.replace("primary", "king"),
    "e@2-1": good.replace(/"saidMs":\d+/, '"saidMs":1e300'),
    "f@2-1": good.replace("false", '"no"'),
    "g@2-1": good.replace('"error":null', '"error":7'),
    "h@2-1": Buffer.alloc(100_000, 0x20),
    "i@2-1": Buffer.from([0xff, 0x00, 0xfe]),
    "j@99999999999999999999-1": good,
    "k@2": good,
    ".half": "{",
  };
  for (const [name, text] of Object.entries(bad)) writeFileSync(at(name), text);
  mkdirSync(at("l@2-1"));
  writeFileSync(join(directory, "elsewhere"), good);
  symlinkSync(join(directory, "elsewhere"), at("m@2-1"));
  assert.deepEqual(
    trace.read().map(({ group }) => group),
    ["good"],
  );
  trace.write(hook(3, { group: "l" }));
  trace.write(hook(3, { group: "m" }));
  trace.tidy();
  assert.deepEqual(readdirSync(trace.directory).sort(), ["good@1-100", "l@2-1", "l@3-100", "m@3-100"]);
  assert.equal(readFileSync(join(directory, "elsewhere"), "utf8"), good);
});

test("a directory that others may write to, a link, and one that is full are refused", () => {
  const open = newTrace();
  open.prepare();
  chmodSync(open.directory, 0o777);
  assert.throws(() => open.write(hook(1)), { code: "CONTROL", message: /not a directory of root's alone/ });
  const linked = newTrace();
  mkdirSync(join(linked.directory, ".."), { recursive: true });
  symlinkSync(directory, linked.directory);
  assert.throws(() => linked.write(hook(1)), { code: "CONTROL" });
  const full = newTrace();
  for (let i = 0; i < 256; i++) full.write(hook(1, { group: `g${i}` }));
  assert.throws(() => full.write(hook(1, { group: "more" })), { code: "CONTROL", message: /holds 256 files/ });
  full.write(hook(2, { group: "g0" }));
  assert.equal(full.read().find(({ group }) => group === "g0")?.started.ticks, 2, "the last of a known group has room");
});

test("a long reason is cut", () => {
  const trace = newTrace();
  trace.write(hook(1, { error: "\u20ac".repeat(100_000) }));
  assert.equal(trace.read()[0]?.error?.length, 500);
});
