import assert from "node:assert/strict";
import { createServer } from "node:net";
import { test } from "node:test";
import { openMetrics } from "../../src/daemon/metrics.js";
import { TakeDown } from "../../src/sync/take-down.js";
import { STATUS } from "../support/control-handlers.js";
import { freePort, silentLogger } from "../support/nats-server.js";

test("whoever listens at the address of the metrics first does not keep the node from working", async () => {
  const port = await freePort();
  const squatter = createServer();
  await new Promise<void>((resolve) => squatter.listen(port, "127.0.0.1", resolve));
  const down = new TakeDown();
  try {
    const reports = { ownStatus: () => STATUS, stats: () => ({}) };
    await openMetrics({ host: "127.0.0.1", port }, reports, silentLogger(), down);
    await down.run(silentLogger());
  } finally {
    squatter.close();
  }
  assert.equal(squatter.listening, false);
});
