import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { knownHoles } from "../../src/stream/broker/advisories.js";
import {
  type BrokerConfigOptions,
  brokerClientAddress,
  brokerConfig,
  hostPort,
  parseBrokerVersion,
  versionAtLeast,
} from "../../src/stream/broker/broker-config.js";
import { parseLogLine } from "../../src/stream/broker/broker-host.js";

const OPTIONS: BrokerConfigOptions = {
  node: "fw1",
  listen: { host: "10.77.0.1", port: 4222 },
  storeDir: '/var/lib/with "quotes"',
  storeBytesMax: 2 * 1024 ** 3,
};

describe("broker configuration", () => {
  it("reads and compares versions", () => {
    assert.deepEqual(parseBrokerVersion("nats-server: v2.9.10\n"), [2, 9, 10]);
    assert.deepEqual(parseBrokerVersion("nats-server: v2.11.0-RC.1"), [2, 11, 0]);
    assert.equal(parseBrokerVersion("something else"), null);
    assert.equal(versionAtLeast([2, 9, 10], [2, 9, 10]), true);
    assert.equal(versionAtLeast([2, 9, 9], [2, 9, 10]), false);
    assert.equal(versionAtLeast([2, 10, 0], [2, 9, 10]), true);
    assert.equal(versionAtLeast([3, 0, 0], [2, 9, 10]), true);
  });

  it("names the sync interval only to servers that know it", () => {
    assert.doesNotMatch(brokerConfig(OPTIONS, [2, 9, 10]), /sync_interval/);
    assert.match(brokerConfig(OPTIONS, [2, 10, 1]), /sync_interval/);
  });

  it("quotes what comes from outside and verifies clients when there is TLS", () => {
    const text = brokerConfig({ ...OPTIONS, tls: { ca: "/ca.pem", cert: "/cert.pem", key: "/key.pem" } }, [2, 9, 10]);
    assert.match(text, /store_dir: "\/var\/lib\/with \\"quotes\\""/);
    assert.match(text, /verify: true/);
    assert.doesNotMatch(brokerConfig(OPTIONS, [2, 9, 10]), /tls/);
  });

  it("reaches a wildcard address through loopback and brackets IPv6", () => {
    assert.equal(brokerClientAddress({ host: "0.0.0.0", port: 1 }), "127.0.0.1:1");
    assert.equal(brokerClientAddress({ host: "::", port: 1 }), "[::1]:1");
    assert.equal(brokerClientAddress({ host: "10.77.0.1", port: 1 }), "10.77.0.1:1");
    assert.equal(hostPort("fd00::1", 4222), "[fd00::1]:4222");
  });
});

describe("known holes of a nats-server", () => {
  const ids = (...version: [number, number, number]) => knownHoles(version).map((hole) => hole.split(" ")[0]);

  it("are those of its line that came before the version that mended them, and of lines that were never mended", () => {
    const latest = ["CVE-2026-33222", "CVE-2026-33248", "GHSA-wh7g-5m82-pmhr"];
    assert.deepEqual(ids(2, 9, 10), ["CVE-2023-47090", "CVE-2025-30215", ...latest]);
    assert.deepEqual(ids(2, 9, 23), ["CVE-2025-30215", ...latest]);
    assert.deepEqual(ids(2, 10, 27), latest);
    assert.deepEqual(ids(2, 11, 0), ["CVE-2025-30215", ...latest]);
    assert.deepEqual(ids(2, 11, 15), ["GHSA-wh7g-5m82-pmhr"]);
    assert.deepEqual(ids(2, 12, 5), latest);
    assert.deepEqual(ids(2, 13, 0), ["GHSA-wh7g-5m82-pmhr"]);
    for (const mended of [
      [2, 11, 16],
      [2, 12, 7],
      [2, 14, 0],
      [2, 15, 1],
      [3, 0, 0],
    ] as const) {
      assert.deepEqual(ids(...(mended as [number, number, number])), []);
    }
  });
});

describe("broker log line", () => {
  it("finds level and text, with and without time", () => {
    assert.deepEqual(parseLogLine("[7] [INF] Server is ready"), { level: "debug", text: "Server is ready" });
    assert.deepEqual(parseLogLine("[7] 2024/11/21 08:11:00.123456 [WRN] slow"), { level: "warn", text: "slow" });
    assert.deepEqual(parseLogLine("[7] [FTL] no"), { level: "error", text: "no" });
    assert.deepEqual(parseLogLine("nats-server: bad file"), { level: "error", text: "nats-server: bad file" });
  });
});
