/** Keys on firewalls that run: what they are good for, and how they change under traffic. */
import assert from "node:assert/strict";
import { chmodSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import type { StatusReport } from "../../src/control/protocol.js";
import { readCertificate } from "../../src/keys/certificate.js";
import { keyFolderOf } from "../../src/keys/key-folder.js";
import type { Firewall } from "../../src/lab/firewall.js";
import { Lab, labObstacle } from "../../src/lab/lab.js";
import { waitFor } from "../../src/lab/process.js";
import { opensslMissing } from "../support/certificate.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 30_000;
const NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"];

describe("keys of a cluster that runs", { skip: labObstacle() ?? opensslMissing() }, () => {
  let lab: Lab;
  let fw1: Firewall;
  let fw2: Firewall;
  let fw3: Firewall;

  before(async () => {
    lab = await Lab.create({ firewalls: 3 });
    [fw1, fw2, fw3] = lab.firewalls as [Firewall, Firewall, Firewall];
    await lab.startDaemons(WAIT_MS);
    await inSync(fw1, fw2, fw3);
  });
  after(() => lab?.close());

  it("keep local users out of the broker, the socket and the history, and let root read it", async () => {
    // All that could stop them besides the key is opened.
    for (const place of [lab.directory, fw1.directory]) chmodSync(place, 0o755);
    chmodSync(fw1.configFile, 0o644);
    const script = `const s = require("node:net").connect(4222, "${fw1.address}");
      s.on("error", (e) => { console.log("refused: " + e.code); });
      s.on("close", () => process.exit()); s.on("data", (d) => console.log(String(d)));
      s.write("CONNECT {\\"verbose\\":true}\\r\\nPUB ct.fw1.ev 1\\r\\nx\\r\\nPING\\r\\n"); setTimeout(() => process.exit(), 3000);`;
    const spoken = await fw1.run(NOBODY[0]!, ...NOBODY.slice(1), process.execPath, "-e", script);
    assert.doesNotMatch(spoken.stdout, /\+OK|PONG/, spoken.stdout);
    for (const command of [
      ["history"],
      ["at", "now"],
      ["who", "203.0.113.1:61000", "--at", "now"],
      ["sql", "SELECT 1"],
      ["status"],
    ]) {
      const asked = await fw1.run(
        NOBODY[0]!,
        ...NOBODY.slice(1),
        join(process.cwd(), "bin", "conntrail"),
        ...command,
        "-c",
        fw1.configFile,
      );
      assert.notEqual(asked.code, 0, command.join(" "));
      assert.match(asked.stderr, /^conntrail: [^\n]+\n$/, command.join(" "));
    }
    const history = await fw1.conntrail("history", "--limit", "1");
    assert.equal(history.code, 0, history.stderr);
  });

  it("are renewed while the cluster works: the broker serves the new certificate and goes on running", async () => {
    const [broker, restarts] = [brokerPid(fw1), (await status(fw1)).broker.restarts];
    const before = await served(fw1, fw2);
    const renewed = await fw1.conntrail("keys", "renew", "--days", "20");
    assert.equal(renewed.code, 0, renewed.stderr);
    assert.match(renewed.stdout, /; the daemon has read the keys again\n$/);
    const own = readCertificate(keyFolderOf(fw1.configFile).cert).fingerprint;
    assert.notEqual(own, before);
    await waitFor("the new certificate to be served", WAIT_MS, async () => (await served(fw1, fw2)) === own);
    await inSync(fw1, fw2, fw3);
    assert.equal(brokerPid(fw1), broker, "the same broker");
    assert.equal((await status(fw1)).broker.restarts, restarts);
    const { warnings, keys } = await status(fw1);
    assert.ok(keys !== undefined);
    assert.match(
      warnings.join(),
      /this node's certificate ends on \d{4}-\d\d-\d\d, in (19|20) days: conntrail keys renew/,
    );
    assert.match(fw1.daemon!.lines.join("\n"), /"msg":"this node's certificate ends on /);
  });

  it("are revoked while the cluster works: the node is cut off on both sides, and the others stay in sync", async () => {
    const brokers = [brokerPid(fw1), brokerPid(fw2)];
    for (const firewall of [fw1, fw2]) {
      const revoked = await firewall.conntrail("keys", "revoke", "fw3");
      assert.equal(revoked.code, 0, revoked.stderr);
    }
    await waitFor("fw3 to be cut off", WAIT_MS, async () =>
      (await status(fw3)).peers.every(({ connected }) => !connected),
    );
    for (const firewall of [fw1, fw2]) {
      await waitFor(`${firewall.name} to follow it no more`, WAIT_MS, async () =>
        (await status(firewall)).peers.some(({ node, connected }) => node === "fw3" && !connected),
      );
      const other = firewall === fw1 ? "fw2" : "fw1";
      await waitFor(`${firewall.name} in sync with ${other}`, WAIT_MS, async () =>
        (await status(firewall)).peers.some(({ node, inSync }) => node === other && inSync),
      );
    }
    assert.deepEqual([brokerPid(fw1), brokerPid(fw2)], brokers);
  });
});

describe("keys by the README", { skip: clusterObstacle() || opensslMissing(), timeout: 200_000 }, () => {
  it("two commands and a copy, and both nodes are in sync within a minute", async () => {
    await using cluster = await Cluster.create({ nodes: 2 });
    const [a, b] = cluster.nodes as [ClusterNode, ClusterNode];
    const startedMs = performance.now();
    const first = ["--cluster", "edge", "--node", "n1", "--listen", a.address, "--peer", `n2=${b.address}`];
    await a.exec(a.program, "init", ...first, "--force", "-c", a.configFile);
    const copy = join(b.directory, "n2.bundle");
    renameSync(join(a.directory, "n2.bundle"), copy);
    await b.exec(b.program, "init", "--bundle", copy, "--force", "-c", b.configFile);
    for (const node of cluster.nodes) {
      // Both share this machine's files.
      const text = readFileSync(node.configFile, "utf8")
        .replace("/var/lib/conntrail", node.store)
        .replaceAll("/run/conntrail", node.directory);
      writeFileSync(node.configFile, text);
      node.start();
    }
    await cluster.ready();
    assert.ok(performance.now() - startedMs < 60_000, `${performance.now() - startedMs} ms`);
    // The first one to start finds nobody; of keys there is nothing to complain.
    const aboutKeys = a
      .complaints(50)
      .filter((line) => /keys|certificate|authori[sz]|permission|tls/i.test(line) && !line.includes("known holes"));
    assert.deepEqual(aboutKeys, []);
  });
});

async function status(firewall: Firewall): Promise<StatusReport> {
  return JSON.parse((await firewall.conntrail("status", "--json")).stdout);
}

async function inSync(...firewalls: readonly Firewall[]): Promise<void> {
  for (const firewall of firewalls) {
    await waitFor(`${firewall.name} in sync`, WAIT_MS, async () => (await status(firewall)).inSync);
  }
}

function brokerPid(firewall: Firewall): number | undefined {
  return firewall.namespace.pids().find((pid) => readFileSync(`/proc/${pid}/comm`, "utf8") === "nats-server\n");
}

/** Fingerprint of the certificate that a broker serves, as another node sees it. */
async function served(broker: Firewall, from: Firewall): Promise<string> {
  const { ca, cert, key } = keyFolderOf(from.configFile);
  const script = `const { readFileSync: r } = require("node:fs");
    const s = require("node:net").connect(4222, "${broker.address}");
    s.once("data", () => {
      const t = require("node:tls").connect({ socket: s, ca: r("${ca}"), cert: r("${cert}"), key: r("${key}"), servername: "${broker.name}" },
        () => { console.log(t.getPeerCertificate().fingerprint256); process.exit(); });
    });`;
  const { stdout } = await from.run(process.execPath, "-e", script);
  return stdout.trim().replaceAll(":", "").toLowerCase();
}
