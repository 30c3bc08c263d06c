import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { connectBroker } from "../../src/stream/connection.js";
import { natsServerMissing, silentLogger, startNatsServer, until } from "../support/nats-server.js";

const QUIET_MS = 100;

describe("a broker that hangs", { skip: natsServerMissing() }, () => {
  it("counts as lost once it leaves a ping unanswered, and is back when it answers", async () => {
    await using server = await startNatsServer();
    const connection = connectBroker({
      servers: [server.address],
      node: "fw1",
      purpose: "test",
      quietMs: QUIET_MS,
      log: silentLogger(),
    });
    try {
      await connection.ready(5000);
      server.pause();
      await until("the loss", () => !connection.connected, 10_000);
      assert.equal(connection.disconnects, 1);
      server.resume();
      await until("the broker back", () => connection.connected, 10_000);
    } finally {
      server.resume();
      await connection.close();
    }
  });
});
