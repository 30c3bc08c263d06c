import assert from "node:assert/strict";
import { test } from "node:test";
import { formatCommit } from "../../src/cli/commit.js";
import { formatConntrackdStats } from "../../src/cli/conntrackd/stats.js";
import { formatFlush } from "../../src/cli/flush.js";
import { parseHookLine } from "../../src/cli/hook-main.js";
import { formatHook } from "../../src/cli/hook-text.js";
import { formatLogLine } from "../../src/cli/process/log-line.js";
import { formatColumns, formatMs } from "../../src/cli/process/terminal.js";
import { formatStats } from "../../src/cli/stats.js";
import { formatStatus } from "../../src/cli/status.js";
import type { StatusReport } from "../../src/control/protocol.js";
import { COMMIT, STATS, STATUS } from "../support/control-handlers.js";

test("status is a table", () => {
  assert.equal(
    formatStatus(STATUS),
    `node       fw1 of cluster edge, epoch 12
role       primary
in sync    no
kernel     3 of 262144 entries
internal   3 flows
external   2 flows
broker     embedded, up, nats://10.77.0.1:4222 (nats-server 2.9.10), restarted 2 times
format     writes 1; reads 1
publisher  live, confirmed 7, unconfirmed 1
not in sync with fw3: its broker at 10.77.0.3 does not answer

PEER  ADDRESS                 CONNECTED  IN SYNC  LAG EVENTS  LAG   LAST HEARD  EPOCH  FLOWS
fw2   10.77.0.2               yes        yes      0           1 ms  300 ms ago  5      2
fw3   10.77.0.3 (discovered)  no         no       -           -     never       -      0

STREAM  KEPT SINCE            MESSAGES  SIZE     CUT OFF
fw1     2026-01-31T12:00:00Z  120       3.0 MiB  nothing
fw2     -                     0         0.0 MiB  40 messages

archive holds what ended until 2026-01-31T11:30:00Z, cut off: 2 days
`,
  );
  const { archive: _, ...plain } = STATUS;
  const troubled = {
    ...plain,
    reason: "this node cannot publish",
    warnings: ["the clock of fw2 is 12.0 s behind this node's"],
  };
  assert.match(formatStatus(troubled), /\nnot in sync: this node cannot publish\n(.*\n)*warning: the clock of fw2 is/);
  assert.match(formatStatus({ ...plain, peers: [], streams: [] }), /\nno peers\n$/);
  const keys = { untilMs: Date.UTC(2028, 0, 31), authorityUntilMs: Date.UTC(2046, 0, 26) };
  assert.match(formatStatus({ ...plain, keys }), /^keys +valid until 2028-01-31$/m);
  const none = { ...STATUS.broker, mode: "none" } as const;
  assert.equal(
    formatStatus({ ...plain, broker: none, peers: [] }),
    "node      statistics alone\nkernel    3 of 262144 entries\ninternal  3 flows\n",
  );
  assert.match(formatStatus({ ...plain, streams: null }), /\nthe broker does not tell of its streams\n$/);
});

test("stats prints any group", () => {
  assert.equal(
    formatStats({ internal: { active: 3, created: 10 }, "reader.fw2": { gaps: 1 } }),
    "internal\n  active              3\n  created            10\n\nreader.fw2\n  gaps                1\n",
  );
  assert.equal(formatStats({}), "");
});

test("stats in conntrackd's form", () => {
  assert.equal(
    formatConntrackdStats(STATS, STATUS),
    [
      "cache internal:",
      "current active connections:\t           3",
      "connections created:\t\t          10\tfailed:\t           1",
      "connections updated:\t\t          20\tfailed:\t           0",
      "connections destroyed:\t\t           7\tfailed:\t           0",
      "",
      "cache external:",
      "current active connections:\t           2",
      "connections created:\t\t           0\tfailed:\t           0",
      "connections updated:\t\t           0\tfailed:\t           0",
      "connections destroyed:\t\t           0\tfailed:\t           0",
      "",
      "traffic processed:",
      "                   0 Bytes                         0 Pckts",
      "",
      "UDP traffic (active device=nats):",
      "                 100 Bytes sent                  200 Bytes recv",
      "                   0 Pckts sent                    0 Pckts recv",
      "                   0 Error send                    0 Error recv",
      "",
      "message tracking:",
      "                   0 Malformed msgs                    4 Lost msgs",
      "",
      "",
    ].join("\n"),
  );
});

test("reports are one line", () => {
  assert.equal(formatCommit(COMMIT), "5 committed, 1 updated, 0 skipped, 2 failed (ENOENT 2), 1 stale in 12 ms");
  assert.equal(
    formatCommit({ ...COMMIT, failed: { ENOENT: 0 } }),
    "5 committed, 1 updated, 0 skipped, 0 failed, 1 stale in 12 ms",
  );
  assert.equal(formatFlush({ internal: 3, external: null, kernel: 9 }), "flushed 3 from internal, 9 from kernel");
  assert.equal(
    formatHook({ role: "fault", previous: "unknown", commit: null, durationMs: 4 }),
    "unknown -> fault in 4 ms",
  );
  assert.equal(
    formatHook({ role: "primary", previous: "backup", commit: null, durationMs: 0, ignored: true }),
    "primary ignored: keepalived has said backup since",
  );
});

test("status names hooks that failed, and the roles of several groups", () => {
  const hook = { group: "", role: "primary" as const, saidMs: Date.UTC(2026, 0, 31, 12), state: "taken" as const };
  const text = (hooks: StatusReport["hooks"]): string => formatStatus({ ...STATUS, ...(hooks && { hooks }) });
  assert.equal(text([{ ...hook, error: null }]), formatStatus(STATUS));
  const failed = text([
    { ...hook, group: "lan", state: "failed", error: "no daemon answers" },
    { ...hook, group: "wan", role: "backup", error: "no daemon answers" },
    { ...hook, group: "dmz", role: "fault", state: "under way", error: null },
  ]);
  assert.match(failed, /^role {7}primary \(lan: primary, wan: backup, dmz: fault\)$/m);
  const at = "at 2026-01-31T12:00:00Z";
  assert.ok(failed.includes(`\nhook primary of lan ${at} failed: no daemon answers\n`));
  assert.ok(failed.includes(`\nhook backup of wan ${at} failed, and was taken up later: no daemon answers\n`));
  assert.ok(failed.includes(`\nhook fault of dmz ${at} is under way\n`));
});

test("times are short", () => {
  assert.deepEqual([null, 0, 999, 1500, 119_999, 600_000, 7_200_000].map(formatMs), [
    "-",
    "0 ms",
    "999 ms",
    "1.5 s",
    "120.0 s",
    "10 min",
    "2.0 h",
  ]);
});

test("columns are as wide as their widest cell", () => {
  assert.equal(
    formatColumns([
      ["A", "B"],
      ["long", "x"],
    ]),
    "A     B\nlong  x\n",
  );
  assert.equal(formatColumns([]), "");
});

test("log lines for people", () => {
  const entry = { level: 30, time: 1_700_000_000_123, node: "fw1", peers: 2, why: "two words", msg: "ready" };
  assert.equal(formatLogLine(`${JSON.stringify(entry)}\n`), '22:13:20.123Z INFO  ready peers=2 why="two words"\n');
  assert.equal(formatLogLine("not JSON\n"), "not JSON\n");
});

test("a commit in one line, also one that was prepared or had to repair", () => {
  const report = { committed: 60, updated: 2, skipped: 0, failed: {}, stale: 0, durationMs: 47.3 };
  assert.equal(formatCommit(report), "60 committed, 2 updated, 0 skipped, 0 failed, 0 stale in 47 ms");
  assert.equal(
    formatCommit({ ...report, repaired: 3, failed: { EEXIST: 1 } }),
    "60 committed, 2 updated, 0 skipped, 1 failed (EEXIST 1), 0 stale, 3 repaired in 47 ms",
  );
  assert.equal(
    formatCommit({ ...report, ahead: 350, underWay: true }),
    "60 committed, 2 updated, 0 skipped, 0 failed, 0 stale, 350 ahead in 47 ms, being claimed",
  );
});

test("a plain call of a hook is understood without the command line's parser, and every other is left to it", () => {
  const line = (...argv: string[]) => parseHookLine(argv);
  const path = "/etc/conntrail/conntrail.yaml";
  assert.deepEqual(line("hook", "primary"), { role: "primary", group: undefined, configPath: path });
  assert.deepEqual(line("-c", "/x", "hook", "--group", "lan", "fault"), {
    role: "fault",
    group: "lan",
    configPath: "/x",
  });
  assert.deepEqual(line("hook", "backup", "--config", "/x")?.configPath, "/x");
  for (const argv of [
    ...["hook", "hook nobody", "hook primary backup", "hook primary --help", "hook primary --json", "status"],
    ...["hook primary -c", "hook primary --group a/b", "hook primary --config=/x", "-c hook primary"],
  ]) {
    assert.equal(line(...argv.split(" ")), null, argv);
  }
});
