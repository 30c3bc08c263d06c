import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type BrokerConnection, connectBroker } from "../../src/stream/connection.js";
import type { Heartbeat } from "../../src/stream/format/heartbeat.js";
import { onHeartbeat, sendHeartbeat } from "../../src/stream/heartbeats.js";
import { onAsked } from "../../src/stream/requests.js";
import { heartbeat } from "../support/heartbeats.js";
import { natsServerMissing, silentLogger, startNatsServer, until } from "../support/nats-server.js";

function connection(address: string, node: string, cluster: string | null = null): BrokerConnection {
  return connectBroker({ servers: [address], node, cluster, purpose: "test", log: silentLogger() });
}

/** A daemon that sends no heartbeat but when it is asked. */
function answering(broker: BrokerConnection, node: string): void {
  onAsked(broker, node, (request) => {
    if (request === "heartbeat") sendHeartbeat(broker, heartbeat({ node }));
  });
}

describe("heartbeats", { skip: natsServerMissing() }, () => {
  it("one comes at once to a node that begins to listen, also after the broker was away", async () => {
    await using server = await startNatsServer();
    const [fw1, fw2] = [connection(server.address, "fw1"), connection(server.address, "fw2")];
    const heard: (Heartbeat | null)[] = [];
    try {
      await fw2.ready(5000);
      answering(fw2, "fw2");
      await fw2.client?.flush();
      onHeartbeat(fw1, "fw2", (beat) => heard.push(beat));
      await until("a heartbeat", () => heard.length > 0);
      assert.equal(heard[0]?.node, "fw2");
      await server.kill();
      await until("the broker away", () => !fw1.connected && !fw2.connected);
      const before = heard.length;
      await server.start();
      await until("both back", () => fw2.connected && fw1.connected);
      // Whichever comes back first: this one is heard by a subscription that was made anew.
      await fw1.client?.flush();
      sendHeartbeat(fw2, heartbeat({ node: "fw2", number: 43 }));
      await until("another heartbeat", () => heard.slice(before).some((beat) => beat?.number === 43));
    } finally {
      await Promise.all([fw1.close(), fw2.close()]);
    }
  });

  it("on a broker that several share, those of one node of this cluster only", async () => {
    await using server = await startNatsServer();
    const [fw1, fw2] = [connection(server.address, "fw1", "edge"), connection(server.address, "fw2", "edge")];
    const other = connection(server.address, "fw3", "core");
    const heard: string[] = [];
    try {
      await fw2.ready(5000);
      for (const node of ["fw2", "fw3"]) answering(fw2, node);
      await fw2.client?.flush();
      onHeartbeat(fw1, "fw3", (beat) => heard.push(beat?.node ?? "malformed"));
      await until("fw3's heartbeat", () => heard.length > 0);
      await other.ready(5000);
      sendHeartbeat(other, heartbeat({ node: "fw3" }));
      await other.client?.flush();
      sendHeartbeat(fw2, heartbeat({ node: "fw2" }));
      sendHeartbeat(fw2, heartbeat({ node: "fw3" }));
      await until("fw3's next one", () => heard.length > 1);
      assert.deepEqual(heard, ["fw3", "fw3"]);
    } finally {
      await Promise.all([fw1.close(), fw2.close(), other.close()]);
    }
  });
});
