/** conntrack-tools' own tests of conntrackd, with bin/conntrackd in its place. */
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { clusterObstacle } from "../support/cluster/cluster.js";
import { CONNTRACKD, ConntrackdHost } from "../support/conntrackd-host.js";
import { conntrackToolsTests } from "../support/distribution.js";

const SUITE = "/run/suite";

test("all pass", { skip: clusterObstacle(), timeout: 300_000 }, async (t) => {
  const found = conntrackToolsTests();
  if ("missing" in found) return t.skip(found.missing);
  await using host = await ConntrackdHost.create(1);
  const copy = join(host.directory, "suite");
  cpSync(found.directory, copy, { recursive: true });
  // The broker and its daemon are on one host, and talk over its loopback.
  const network = join(copy, "scenarios", "basic", "network-setup.sh");
  const up = "\tip -net nsr1 link set up dev lo\n\tip -net nsr2 link set up dev lo\n";
  writeFileSync(network, readFileSync(network, "utf8").replace("ip netns add nsr2\n", `$&${up}`), { mode: 0o755 });
  // Its files are in /tmp and /var/log.
  await host.exec("sh", "-c", `cp -r ${copy} ${SUITE} && mount -t tmpfs tmpfs /var/log && mount -t tmpfs tmpfs /tmp`);
  const script = `cd ${SUITE} && CONNTRACKD=${CONNTRACKD} CONNTRACK=conntrack exec python3 conntrackd-tests.py`;
  const { code, stdout, stderr } = await host.run("sh", "-c", script);
  assert.equal(code, 0, stdout + stderr);
  const [, passed, total] = /passed tests: (\d+)[\s\S]*total tests: (\d+)/.exec(stdout) ?? [];
  assert.equal(passed, total, stdout);
  assert.ok(Number(total) >= 9, stdout);
});
