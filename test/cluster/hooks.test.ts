/** keepalived's hooks as processes of their own, on a real daemon: in any order, while it is away, starts, or is being upgraded. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, it } from "node:test";
import type { HookRole } from "../../src/control/protocol.js";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import type { ClusterNode } from "../support/cluster/node.js";

const PAIRS = 40;
const FLOWS = 2000;
const WAIT_MS = 30_000;

describe("hooks", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  for (const [what, busy] of [
    ["", 0],
    [" beside two busy loops", 2],
  ] as const) {
    it(`of ${PAIRS} pairs that keepalived starts in one moment, the one started last wins${what}`, async () => {
      await using cluster = await Cluster.start({ nodes: 2 });
      const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
      await n2.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 1 });
      const loops = Array.from({ length: busy }, () => spawn(process.execPath, ["-e", "for (;;);"]));
      try {
        const lost: string[] = [];
        for (let pair = 0; pair < PAIRS; pair++) {
          const roles: HookRole[] = pair % 2 === 0 ? ["backup", "primary"] : ["primary", "backup"];
          const codes = await Promise.all(roles.map((role) => ended(startHook(n1, role))));
          assert.deepEqual(codes, [0, 0], `pair ${pair}`);
          const { role } = await n1.status();
          if (role !== roles[1]) lost.push(`${pair}: ${roles.join(" and ")} made ${role}`);
        }
        assert.deepEqual(lost, []);
      } finally {
        for (const loop of loops) loop.kill("SIGKILL");
      }
    });
  }

  it("a hook that comes before the daemon, or while it ends, is taken by the one that starts", async () => {
    await using cluster = await Cluster.create({ nodes: 2 });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    n2.start();
    await n2.ready();
    const early = ended(startHook(n1, "primary"));
    n1.start();
    assert.equal(await early, 0);
    assert.equal((await n1.status()).role, "primary");
    for (const role of ["backup", "primary", "fault"] as const) {
      const stopped = n1.stop();
      const hook = ended(startHook(n1, role));
      await stopped;
      n1.start();
      assert.equal(await hook, 0, role);
      await n1.ready();
      assert.equal((await n1.status()).role, role);
    }
  });

  it("what was said while no daemon ran is taken up when one starts, once", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n2.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 1 });
    await waitFor("the flows", WAIT_MS, async () => (await n1.table("external")).size === FLOWS);
    assert.equal((await n1.conntrail("hook", "backup")).code, 0);
    await n1.kill9Both();
    await n2.die();
    const failed = await n1.conntrail("hook", "primary");
    assert.equal(failed.code, 1);
    assert.match(failed.stderr, /^conntrail: no conntrail daemon answers on [^\n]*\n$/);
    n1.start();
    await n1.ready();
    await waitFor("the commit", WAIT_MS, async () => (await n1.kernel()).size === FLOWS);
    await waitFor("the trace", WAIT_MS, async () => (await n1.status()).hooks?.[0]?.state === "taken");
    assert.equal((await n1.status()).role, "primary");
    assert.equal(logged(n1, "takes up a hook that failed"), 1);
    assert.match(
      (await n1.conntrail("status")).stdout,
      /\nhook primary at \S+Z failed, and was taken up later: no conntrail/,
    );
    await n1.stop();
    n1.start();
    await n1.ready();
    assert.equal((await n1.status()).role, "primary");
    assert.equal(logged(n1, "takes up a hook that failed"), 0);
    assert.equal(logged(n1, "commit"), 0);
  });

  it("a restart knows the role of each group; a boot knows none, whatever the stream remembers", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [n1] = cluster.nodes as [ClusterNode];
    for (const [role, group] of [
      ["primary", "lan"],
      ["backup", "wan"],
    ] as const) {
      assert.equal((await n1.conntrail("hook", role, "--group", group)).code, 0);
    }
    await n1.kill9Both();
    n1.start();
    await n1.ready();
    assert.equal((await n1.status()).role, "primary");
    assert.match((await n1.conntrail("status")).stdout, /^role {7}primary \(lan: primary, wan: backup\)$/m);
    await n1.request("hook", { role: "backup", group: "wan" });
    assert.equal((await n1.status()).role, "primary", "it still carries the other group");
    await n1.stop();
    // What a reboot leaves of /run.
    rmSync(`${n1.control}.hooks`, { recursive: true });
    n1.start();
    await n1.ready();
    assert.equal((await n1.status()).role, "unknown");
    assert.equal((await n1.status()).hooks, undefined);
    assert.equal((await n1.marks()).at(-1)?.role, "unknown");
    assert.equal((await n1.hook("primary")).previous, "unknown");
    assert.equal((await n1.marks()).at(-1)?.role, "primary");
  });

  it("while the program is being replaced, the daemon that runs takes hooks up from their traces", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [n1, n2] = cluster.nodes as [ClusterNode, ClusterNode];
    await n2.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 1 });
    await waitFor("the flows", WAIT_MS, async () => (await n1.table("external")).size === FLOWS);
    // As a build leaves it for a moment: some files of the release are there.
    const tree = join(n1.directory, "tree");
    for (const part of ["bin", "package.json", "dist/src"]) {
      cpSync(join(dirname(dirname(n1.program)), part), join(tree, part), { recursive: true });
    }
    rmSync(join(tree, "dist/src/cli/hook-main.js"));
    const hook = spawn(join(tree, "bin/conntrail"), ["hook", "primary", "-c", n1.configFile], { env: {} });
    assert.equal(await ended(hook), 1);
    await waitFor("the commit", WAIT_MS, async () => (await n1.kernel()).size === FLOWS);
    assert.equal((await n1.status()).role, "primary");
    assert.equal(logged(n1, "takes up a hook that failed"), 1);
  });
});

/** How often its daemon has logged this since its last start. */
function logged(node: ClusterNode, text: string): number {
  return (node.daemon?.lines ?? []).filter((line) => line.includes(`"msg":"${text}"`)).length;
}

/** As keepalived starts it: no shell between, no PATH. */
function startHook(node: ClusterNode, ...args: string[]): ChildProcess {
  return spawn(node.program, ["hook", ...args, "-c", node.configFile], {
    env: {},
    stdio: ["ignore", "ignore", "pipe"],
  });
}

async function ended(child: ChildProcess): Promise<number | null> {
  return (await once(child, "exit"))[0] as number | null;
}
