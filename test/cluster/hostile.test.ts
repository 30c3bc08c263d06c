/** What somebody without any credential sends to a daemon's broker, and what it may cost the daemon. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import type { ClusterNode } from "../support/cluster/node.js";

const WAIT_MS = 30_000;

/** Runs JavaScript in a node's namespace, with `port` and `host` of its broker, until it ends. */
function attack(node: ClusterNode, source: string): Promise<string> {
  const [host, port] = node.server.split(":");
  const head = `import { connect } from "node:net"; const host = "${host}"; const port = ${port};`;
  return node.exec(process.execPath, "--input-type=module", "-e", `${head}\n${source}`);
}

describe("a daemon whose broker anybody reaches", { skip: clusterObstacle(), timeout: 300_000 }, () => {
  it("writes few snapshots, however many are asked for", async () => {
    await using cluster = await Cluster.start({ nodes: 2 });
    const [a, b] = cluster.nodes as [ClusterNode, ClusterNode];
    await a.apply({ type: "create", range: 1, from: 0, count: 2000, mark: 2 });
    await waitFor("its flows in its stream", WAIT_MS, async () => (await b.table("external")).size === 2000);
    const before = await a.counter("journal", "snapshots");
    await attack(
      a,
      `const socket = connect(port, host);
       socket.write('CONNECT {"verbose":false}\\r\\n');
       const ask = setInterval(() => socket.write("PUB ctreq.n1.snapshot 0\\r\\n\\r\\n".repeat(100)), 10);
       setTimeout(() => { clearInterval(ask); socket.end(); }, 4000);
       socket.on("data", (data) => { if (data.includes("PING")) socket.write("PONG\\r\\n"); });`,
    );
    assert.ok((await a.counter("journal", "snapshotsAsked")) > 5000);
    // The first may have to wait for the pause after one that the peer has asked for.
    const written = async (): Promise<number> => (await a.counter("journal", "snapshots")) - before;
    await waitFor("a snapshot", WAIT_MS, async () => (await written()) >= 1);
    assert.ok((await written()) <= 2, `${await written()} snapshots`);
    await cluster.ready();
  });

  it("logs what repeats once, with its number", async () => {
    await using cluster = await Cluster.start({ nodes: 1 });
    const [node] = cluster.nodes as [ClusterNode];
    const before = node.daemon!.lines.length;
    await attack(
      node,
      `for (let i = 0; i < 3000; i++) {
         await new Promise((resolve) => {
           const socket = connect(port, host, () => socket.end("x".repeat(20) + i + "\\r\\n"));
           socket.on("error", resolve).on("close", resolve).resume();
         });
       }`,
    );
    const repeated = (): number =>
      node.daemon!.lines.slice(before).reduce((sum, line) => sum + Number(/"repeated":(\d+)/.exec(line)?.[1] ?? 0), 0);
    await waitFor("the number of lines", WAIT_MS, () => repeated() > 1000);
    const lines = node.daemon!.lines.length - before;
    assert.ok(lines < 200, `${lines} lines`);
  });
});
