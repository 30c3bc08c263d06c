import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { formatMetrics, serveMetrics } from "../../src/control/metrics.js";
import type { StatusReport } from "../../src/control/protocol.js";
import { freePort } from "../support/nats-server.js";

const status: StatusReport = {
  node: "fw1",
  cluster: "edge",
  role: "primary",
  epoch: 7,
  inSync: true,
  kernel: { entries: 12, max: 100 },
  internal: { flows: 11 },
  external: { flows: 3 },
  broker: { mode: "embedded", state: "up", url: "10.77.0.1:4222", version: "2.9.10", restarts: 0 },
  publisher: { state: "up", confirmedNumber: 9, unconfirmed: 2 },
  peers: [
    {
      node: "fw2",
      address: "10.77.0.2",
      connected: true,
      inSync: true,
      lagEvents: 4,
      lagMs: 1500,
      lastHeardMs: 250,
      epoch: 5,
      flows: 3,
    },
    {
      node: "fw3",
      address: "10.77.0.3",
      connected: false,
      inSync: false,
      lagEvents: null,
      lagMs: null,
      lastHeardMs: null,
      epoch: null,
      flows: 0,
    },
  ],
};

describe("metrics", () => {
  it("say what status and stats say; what is not known is left out", () => {
    const lines = formatMetrics(status, { "reader.fw2": { holes: 1 } }).split("\n");
    for (const expected of [
      "conntrail_in_sync 1",
      "conntrail_primary 1",
      "conntrail_kernel_entries 12",
      "conntrail_kernel_entries_limit 100",
      'conntrail_peer_connected{peer="fw2"} 1',
      'conntrail_peer_connected{peer="fw3"} 0',
      'conntrail_peer_lag_seconds{peer="fw2"} 1.5',
      'conntrail_counter{group="reader.fw2",name="holes"} 1',
    ]) {
      assert.ok(lines.includes(expected), expected);
    }
    assert.ok(!lines.some((line) => line.startsWith('conntrail_peer_lag_seconds{peer="fw3"}')));
    for (const line of lines) assert.match(line, /^(#.*|[a-z_]+(\{[^}]*\})? [\d.]+|)$/);
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
