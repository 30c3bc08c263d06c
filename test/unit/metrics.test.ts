import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { parse } from "yaml";
import type { StatsReport } from "../../src/control/protocol.js";
import { projectRoot } from "../../src/lab/process.js";
import { formatMetrics, health } from "../../src/metrics/node.js";
import { type MetricsPages, serveMetrics } from "../../src/metrics/server.js";
import { STATUS } from "../support/control-handlers.js";
import { freePort } from "../support/nats-server.js";

const STATS: StatsReport = {
  runtime: { uptimeSeconds: 12 },
  internal: { active: 3, created: 9, createFailedFull: 2, createFailed: 2 },
  link: { bytesSent: 100 },
  events: { eventsReceived: 40, overruns: 1, bufferBytes: 2_097_152 },
  commit: { commits: 1, committed: 500, commitUpdated: 7, commitFailed: 4 },
  publisher: { messages: 5, droppedMessages: 6, lostMessages: 0 },
  archive: { filesRemoved: 1, archivedUntilMs: 1_700_000_000_000 },
  "reader.fw2": { holes: 1, bytes: 900, malformed: 0 },
  "reader.fw3": { holes: 2, bytes: 10, malformed: 0 },
};
const FACTS = { version: "1.0.0", store: { freeBytes: 10, totalBytes: 20 } };
const text = (status = STATUS): string => formatMetrics(status, STATS, STATUS.streams, FACTS);

function missing(program: string): string | false {
  const found = spawnSync("sh", ["-c", `command -v ${program}`], { stdio: "ignore" }).status === 0;
  return found ? false : `no ${program}`;
}

describe("metrics", () => {
  it("say what status and stats say; what is not known is left out", () => {
    const lines = text().split("\n");
    for (const expected of [
      `conntrail_build_info{version="1.0.0",node_version="${process.versions.node}"} 1`,
      'conntrail_node_info{node="fw1",cluster="edge"} 1',
      "conntrail_in_sync 0",
      'conntrail_role{role="primary"} 1',
      'conntrail_role{role="backup"} 0',
      "conntrail_kernel_entries 3",
      "conntrail_format_version 1",
      "conntrail_kernel_entries_limit 262144",
      "conntrail_broker_up 1",
      'conntrail_broker_info{mode="embedded",version="2.9.10"} 1',
      "conntrail_broker_restarts_total 2",
      "conntrail_store_free_bytes 10",
      'conntrail_stream_bytes{node="fw1"} 3145728',
      'conntrail_peer_connected{peer="fw2"} 1',
      'conntrail_peer_connected{peer="fw3"} 0',
      'conntrail_peer_role{peer="fw2",role="backup"} 1',
      'conntrail_peer_lag_seconds{peer="fw2"} 0.0012',
      "conntrail_internal_created_total 9",
      "conntrail_events_received_total 40",
      "conntrail_events_buffer_bytes 2097152",
      "conntrail_commits_total 1",
      "conntrail_commit_updated_total 7",
      'conntrail_reader_bytes_total{peer="fw2"} 900',
      "conntrail_archived_until_timestamp_seconds 1700000000",
      'conntrail_drops_total{reason="publish_queue_full"} 6',
      'conntrail_drops_total{reason="peer_message_missing"} 3',
    ]) {
      assert.ok(lines.includes(expected), expected);
    }
    assert.ok(!lines.some((line) => line.startsWith('conntrail_peer_lag_seconds{peer="fw3"}')));
    assert.ok(!lines.some((line) => /^conntrail_(link|runtime|internal_active)/.test(line)));
    const observer = { ...STATUS, format: { writes: null, reads: [1], reason: null } };
    assert.doesNotMatch(text(observer), /^conntrail_format_version/m);
    assert.ok(!lines.some((line) => line.includes("certificate")));
    const keys = { untilMs: 1_800_000_000_000, authorityUntilMs: 1_900_000_000_000 };
    const ends = text({ ...STATUS, keys }).split("\n");
    assert.ok(ends.includes('conntrail_certificate_expiry_timestamp_seconds{certificate="node"} 1800000000'));
    assert.ok(ends.includes('conntrail_certificate_expiry_timestamp_seconds{certificate="authority"} 1900000000'));
  });

  it("report the last takeover once there was one", () => {
    const last = { lastAtMs: 1_800_000_000_500, lastDurationMs: 250, lastCommitted: 20_000, lastFailed: 3 };
    const after = (takeovers: number): string =>
      formatMetrics(STATUS, { takeover: { takeovers, ...last } }, STATUS.streams, FACTS);
    assert.doesNotMatch(after(0), /last_takeover_/);
    const lines = after(1).split("\n");
    for (const expected of [
      "conntrail_last_takeover_timestamp_seconds 1800000000.5",
      "conntrail_last_takeover_duration_seconds 0.25",
      'conntrail_last_takeover_flows{outcome="committed"} 20000',
      'conntrail_last_takeover_flows{outcome="ahead"} 0',
      'conntrail_last_takeover_flows{outcome="failed"} 3',
    ]) {
      assert.ok(lines.includes(expected), expected);
    }
  });

  it("are a family after the other, each with a help, a type, and names that differ", () => {
    const families = [...text().matchAll(/^# TYPE (\S+) (gauge|counter)$/gm)].map((match) => match[1]!);
    assert.equal(new Set(families).size, families.length);
    let family = "";
    for (const line of text().trimEnd().split("\n")) {
      if (line.startsWith("# HELP ")) family = line.split(" ", 3)[2]!;
      else if (!line.startsWith("#")) assert.equal(/^[a-z_]+/.exec(line)?.[0], family, line);
    }
  });

  it("escape what labels must not have", () => {
    const strange = { ...STATUS, node: 'a"b\\c\nd' };
    assert.match(text(strange), /^conntrail_node_info\{node="a\\"b\\\\c\\nd",cluster="edge"\} 1$/m);
  });

  it("leave promtool silent", { skip: missing("promtool") }, () => {
    const keys = { untilMs: 1_800_000_000_000, authorityUntilMs: 1_900_000_000_000 };
    const check = spawnSync("promtool", ["check", "metrics"], { input: text({ ...STATUS, keys }), encoding: "utf8" });
    assert.equal(check.stdout + check.stderr, "");
    assert.equal(check.status, 0);
  });
});

describe("health", () => {
  it("is this node's own: a peer that is away is named, and is no fault of this node", () => {
    const { ok, body } = health(STATUS);
    assert.equal(ok, true);
    assert.deepEqual((body as { notInSyncWith: string[] }).notInSyncWith, ["fw3"]);
    assert.equal(health({ ...STATUS, reason: "this node cannot publish" }).ok, false);
  });
});

describe("the server of metrics", () => {
  it("serves /metrics and /healthz, and a taken port is said in one line", async () => {
    let ok = true;
    const pages: MetricsPages = { metrics: async () => "x 1\n", health: () => ({ ok, body: { ok } }) };
    const port = await freePort();
    const end = await serveMetrics({ host: "127.0.0.1", port }, pages);
    const get = (path: string, init?: RequestInit) => fetch(`http://127.0.0.1:${port}${path}`, init);
    try {
      const answer = await get("/metrics");
      assert.equal(await answer.text(), "x 1\n");
      assert.match(answer.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
      const healthy = await get("/healthz");
      assert.deepEqual([healthy.status, await healthy.json()], [200, { ok: true }]);
      ok = false;
      assert.equal((await get("/healthz")).status, 503);
      assert.equal((await get("/")).status, 404);
      assert.equal((await get("/metrics", { method: "POST" })).status, 405);
      await assert.rejects(serveMetrics({ host: "127.0.0.1", port }, pages), { code: "PORT_TAKEN" });
    } finally {
      await end();
    }
  });
});

describe("what is made for Prometheus and Grafana", () => {
  const alerts = join(projectRoot(), "deploy/prometheus-alerts.yaml");
  const dashboard = readFileSync(join(projectRoot(), "deploy/grafana-dashboard.json"), "utf8");
  const keys = { untilMs: 0, authorityUntilMs: 0 };
  const known = new Set([...text({ ...STATUS, keys }).matchAll(/^# TYPE (\S+)/gm)].map((match) => match[1]!));
  const used = (source: string): string[] => source.match(/\b(conntrail|process)_[a-z_]+/g) ?? [];

  it("uses only metrics that there are", () => {
    const { groups } = parse(readFileSync(alerts, "utf8")) as { groups: { rules: { expr: string }[] }[] };
    const panels = (JSON.parse(dashboard) as { panels: { targets?: { expr: string }[] }[] }).panels;
    const expressions = [
      ...groups.flatMap(({ rules }) => rules.map(({ expr }) => expr)),
      ...panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)),
    ];
    assert.ok(expressions.length > 20);
    for (const name of expressions.flatMap(used)) assert.ok(known.has(name), name);
  });

  it("is accepted by promtool", { skip: missing("promtool") }, () => {
    const check = spawnSync("promtool", ["check", "rules", alerts], { encoding: "utf8" });
    assert.equal(check.status, 0, check.stdout + check.stderr);
  });
});
