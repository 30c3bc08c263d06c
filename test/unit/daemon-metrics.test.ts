import assert from "node:assert/strict";
import { createServer } from "node:net";
import { test } from "node:test";
import { parseConfig } from "../../src/config/config.js";
import { metricsPages, openMetrics } from "../../src/daemon/metrics.js";
import { TakeDown } from "../../src/sync/take-down.js";
import { STATUS } from "../support/control-handlers.js";
import { freePort, silentLogger } from "../support/nats-server.js";

test("whoever listens at the address of the metrics first does not keep the node from working", async () => {
  const port = await freePort();
  const squatter = createServer();
  await new Promise<void>((resolve) => squatter.listen(port, "127.0.0.1", resolve));
  const down = new TakeDown();
  try {
    const pages = { metrics: async () => "", health: () => ({ ok: true, body: {} }) };
    await openMetrics({ host: "127.0.0.1", port }, pages, silentLogger(), down);
    await down.run(silentLogger());
  } finally {
    squatter.close();
  }
  assert.equal(squatter.listening, false);
});

test("a broker that hangs does not hold up a scrape: it has no figures of the streams", async () => {
  const config = parseConfig("cluster: edge\nnode: fw1\nlisten: 127.0.0.1\nbroker: { store: /proc }\n", "metrics");
  const reports = { ownStatus: () => STATUS, stats: () => ({}), status: () => new Promise<never>(() => {}) };
  const text = await metricsPages(reports, config, "1.0.0").metrics();
  assert.match(text, /^conntrail_build_info\{version="1.0.0"/m);
  assert.doesNotMatch(text, /conntrail_stream_/);
  assert.match(text, /^conntrail_store_size_bytes \d+$/m);
});
