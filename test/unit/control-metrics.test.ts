import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { formatMetrics, serveMetrics } from "../../src/metrics/prometheus.js";
import { STATUS } from "../support/control-handlers.js";
import { freePort } from "../support/nats-server.js";

describe("metrics", () => {
  it("say what status and stats say; what is not known is left out", () => {
    const lines = formatMetrics(STATUS, { "reader.fw2": { holes: 1 } }).split("\n");
    for (const expected of [
      "conntrail_in_sync 0",
      "conntrail_primary 1",
      "conntrail_kernel_entries 3",
      "conntrail_format_version 1",
      "conntrail_kernel_entries_limit 262144",
      'conntrail_peer_connected{peer="fw2"} 1',
      'conntrail_peer_connected{peer="fw3"} 0',
      'conntrail_peer_lag_seconds{peer="fw2"} 0.0012',
      'conntrail_counter{group="reader.fw2",name="holes"} 1',
    ]) {
      assert.ok(lines.includes(expected), expected);
    }
    assert.ok(!lines.some((line) => line.startsWith('conntrail_peer_lag_seconds{peer="fw3"}')));
    const observer = { ...STATUS, format: { writes: null, reads: [1], reason: null } };
    assert.doesNotMatch(formatMetrics(observer, {}), /format_version/);
    for (const line of lines) assert.match(line, /^(#.*|[a-z_]+(\{[^}]*\})? [\d.]+|)$/);
    assert.ok(!lines.some((line) => line.includes("certificate")));
    const keys = { untilMs: 1_800_000_000_000, authorityUntilMs: 1_900_000_000_000 };
    const ends = formatMetrics({ ...STATUS, keys }, {}).split("\n");
    assert.ok(ends.includes('conntrail_certificate_expiry_seconds{of="node"} 1800000000'));
    assert.ok(ends.includes('conntrail_certificate_expiry_seconds{of="authority"} 1900000000'));
  });

  it("report the last takeover once there was one", () => {
    const last = { lastAtMs: 1_800_000_000_500, lastDurationMs: 250, lastCommitted: 20_000, lastFailed: 3 };
    assert.doesNotMatch(formatMetrics(STATUS, { takeover: { takeovers: 0, ...last } }), /last_takeover_/);
    const lines = formatMetrics(STATUS, { takeover: { takeovers: 1, ...last } }).split("\n");
    for (const expected of [
      "conntrail_last_takeover_time_seconds 1800000000.5",
      "conntrail_last_takeover_duration_seconds 0.25",
      'conntrail_last_takeover_flows{outcome="committed"} 20000',
      'conntrail_last_takeover_flows{outcome="ahead"} 0',
      'conntrail_last_takeover_flows{outcome="failed"} 3',
    ]) {
      assert.ok(lines.includes(expected), expected);
    }
  });

  it("are served at /metrics, and a taken port is said in one line", async () => {
    const close = await serveMetrics({ host: "127.0.0.1", port: 0 }, () => "x 1\n").catch(assert.fail);
    await close();
    const port = await freePort();
    const end = await serveMetrics({ host: "127.0.0.1", port }, () => "x 1\n");
    try {
      const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
      assert.equal(await answer.text(), "x 1\n");
      assert.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 404);
      await assert.rejects(
        serveMetrics({ host: "127.0.0.1", port }, () => ""),
        { code: "PORT_TAKEN" },
      );
    } finally {
      await end();
    }
  });
});
