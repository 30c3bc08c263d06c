/** Daemons that run as deploy/conntrail.service runs them: an ordinary user, two capabilities, nothing else of root's. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { runCommand, waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import type { ClusterNode } from "../support/cluster/node.js";

const USER = 64_321;
const WAIT_MS = 30_000;
/** CAP_NET_ADMIN is bit 12, CAP_SYS_NICE bit 23. */
const CAPABILITIES = "0000000000801000";

/** A field of /proc/PID/status. */
function field(pid: number, name: string): string {
  return new RegExp(`^${name}:\\s+(.+)$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
}

function fifoOf(node: ClusterNode): string {
  return join(node.directory, "keepalived.fifo");
}

async function start(nodes: number): Promise<Cluster> {
  const cluster = await Cluster.create({ nodes, user: USER });
  // The folders of the nodes are theirs, and the one around them is root's.
  chmodSync(cluster.directory, 0o711);
  for (const node of cluster.nodes) {
    const [fifo, trackFile] = [fifoOf(node), join(node.directory, "behind")];
    appendFileSync(node.configFile, `keepalived: { fifo: ${fifo}, track_file: ${trackFile} }\n`);
    node.start();
  }
  await cluster.ready();
  return cluster;
}

describe("daemons of an ordinary user", { skip: clusterObstacle(), timeout: 300_000 }, () => {
  it("capture, replicate, dump and take over, and root's hooks and commands reach them", async () => {
    await using cluster = await start(2);
    const [a, b] = cluster.nodes as [ClusterNode, ClusterNode];
    await a.apply({ type: "create", range: 1, from: 0, count: 500, mark: 2 });
    await b.apply({ type: "create", range: 2, from: 0, count: 300, mark: 3 });
    await assertAgreement([a, b]);
    const dumped = await a.conntrail("dump", "external");
    assert.equal(dumped.stdout.trim().split("\n").length, 300);
    const hook = await b.conntrail("hook", "primary");
    assert.equal(hook.code, 0, hook.stderr);
    assert.match(hook.stdout, /500 committed/);
    await waitFor("the kernel of the one that took over", WAIT_MS, async () => (await b.kernel()).size === 800);
    assert.equal((await a.conntrail("hook", "backup")).code, 0);
    assert.equal((await a.conntrail("status")).code, 0);
  });

  it("have two capabilities, and their broker none", async () => {
    await using cluster = await start(1);
    const [node] = cluster.nodes as [ClusterNode];
    const broker = node.brokerPid!;
    const daemon = node.namespace
      .pids()
      .find((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8").startsWith("conntrail daemon "));
    assert.ok(daemon !== undefined);
    for (const [pid, capabilities] of [
      [daemon, CAPABILITIES],
      [broker, "0000000000000000"],
    ] as const) {
      assert.equal(field(pid, "Uid"), [USER, USER, USER, USER].join("\t"));
      assert.equal(field(pid, "CapEff"), capabilities);
      assert.equal(field(pid, "CapPrm"), capabilities);
      assert.equal(field(pid, "CapAmb"), capabilities);
      assert.equal(field(pid, "CapBnd"), CAPABILITIES);
      assert.equal(field(pid, "NoNewPrivs"), "1");
    }
    // As root with the same capabilities, it could still write what the kernel starts for a crash.
    const asDaemon = [
      "-t",
      String(daemon),
      "--mount",
      "setpriv",
      `--reuid=${USER}`,
      `--regid=${USER}`,
      "--clear-groups",
    ];
    const pattern = "/proc/sys/kernel/core_pattern";
    await assert.rejects(node.exec("nsenter", ...asDaemon, "sh", "-c", `echo x > ${pattern}`), /Read-only|denied/);
    assert.equal(statSync(node.control).mode & 0o777, 0o600);
  });

  it("give history to root and to their own user, and to nobody else", async () => {
    await using cluster = await Cluster.create({ nodes: 1, user: USER, keys: true });
    chmodSync(cluster.directory, 0o711);
    const [node] = cluster.nodes as [ClusterNode];
    node.start();
    await node.ready();
    await node.apply({ type: "create", range: 1, from: 0, count: 3, mark: 2 });
    // Even where everybody may read the configuration and the archive's folder may be any.
    chmodSync(node.directory, 0o711);
    chmodSync(node.configFile, 0o644);
    const as = (user: number, ...args: string[]) => {
      const who = [`--reuid=${user}`, `--regid=${user}`, "--clear-groups"];
      const command = [...who, node.program, ...args, "-c", node.configFile];
      return runCommand("ip", node.namespace.execArguments("setpriv", command));
    };
    await waitFor("the history", WAIT_MS, async () => /\n/.test((await as(0, "history", "--format", "csv")).stdout));
    for (const args of [
      ["history", "--format", "csv"],
      ["at", "now"],
      ["who", "10.0.0.1:1"],
      ["sql", "SELECT 1"],
      ["archive", "--dir", "/tmp"],
      ["status"],
      ["dump", "internal"],
    ]) {
      const { code, stdout, stderr } = await as(65_534, ...args);
      assert.notEqual(code, 0, args[0]);
      assert.equal(stdout, "", args[0]);
      assert.match(stderr, /^conntrail: [^\n]+\n$/, "one line");
    }
    assert.match((await as(65_534, "history")).stderr, /node\.key: may not be read: history is for root/);
    const { code, stderr } = await as(USER, "history", "--format", "csv");
    assert.equal(code, 0, stderr);
  });

  it("take up a hook that root left while there was no daemon", async () => {
    await using cluster = await start(1);
    const [node] = cluster.nodes as [ClusterNode];
    await node.stop();
    const failed = await node.conntrail("hook", "primary");
    assert.equal(failed.code, 1);
    const directory = `${node.control}.hooks`;
    for (const name of readdirSync(directory)) assert.equal(statSync(join(directory, name)).uid, USER, name);
    node.start();
    await node.ready();
    await waitFor("the role of the hook", WAIT_MS, async () => (await node.status()).role === "primary");
  });

  it("make keepalived's FIFO for root and themselves alone, and take root's lines", async () => {
    await using cluster = await start(1);
    const [node] = cluster.nodes as [ClusterNode];
    const { uid, mode } = statSync(fifoOf(node));
    assert.deepEqual([uid, mode & 0o777], [USER, 0o600]);
    assert.equal(statSync(join(node.directory, "behind")).uid, USER);
    const fd = openSync(fifoOf(node), constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    try {
      writeSync(fd, 'GROUP "firewall" MASTER 0\n');
      await waitFor("the role of the line", WAIT_MS, async () => (await node.status()).role === "primary");
    } finally {
      closeSync(fd);
    }
    // As keepalived makes it, when it is there before the daemon.
    await node.stop();
    await node.exec("sh", "-c", `rm ${fifoOf(node)} && mkfifo -m 600 ${fifoOf(node)}`);
    node.start();
    await node.ready();
    assert.equal(statSync(fifoOf(node)).uid, USER);
  });

  it("are not waited for by a hook because of another user's process that looks like one", async () => {
    await using cluster = await start(1);
    const [node] = cluster.nodes as [ClusterNode];
    await node.stop();
    const likeness = spawn(
      process.execPath,
      ["-e", "setInterval(() => 0, 1e3)", "--", "conntrail", "daemon", "-c", node.configFile],
      {
        stdio: "ignore",
        uid: 65_534,
        gid: 65_534,
        cwd: "/",
      },
    );
    try {
      const startedMs = performance.now();
      assert.equal((await node.conntrail("hook", "backup")).code, 1);
      assert.ok(performance.now() - startedMs < 20_000, "it has waited for a process that is no daemon");
    } finally {
      likeness.kill("SIGKILL");
    }
  });
});
