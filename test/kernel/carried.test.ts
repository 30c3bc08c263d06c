/**
 * What of a flow reaches another node's kernel: created in the kernel of one, told by its events or found by a dump,
 * through batches and the external cache, committed into the kernel of another, and there field by field the same.
 *
 * Not carried, because no kernel takes it (ctnetlink_create_conntrack()): counters, start time, security context.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_WINDOW_SCALE } from "../../src/ctnetlink/constants.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { type Flow, recordFromFlow } from "../../src/flow/flow.js";
import { TIMEOUT_FLOOR_SECONDS } from "../../src/sync/ports/kernel.js";
import { INSERTED, KINDS, MORE_KINDS, tcp } from "../support/kernel-flows.js";
import { kernelAvailable, waitUntil } from "../support/kernel-namespace.js";
import { KernelNode } from "../support/kernel-node.js";

const skip = kernelAvailable() ?? false;
/** With it the kernel keeps labels, and translates. */
const RULES =
  "add table inet t; add chain inet t labels { type filter hook forward priority 0; }; " +
  "add rule inet t labels ct label 5 accept; add chain inet t nat { type nat hook postrouting priority 100; }";
const WITHIN_SECONDS = 3;

/** `listens`: the first one hears its kernel's events. */
async function pair({ listens = true } = {}): Promise<[KernelNode, KernelNode]> {
  const nodes: [KernelNode, KernelNode] = [
    await KernelNode.create("fw1", { listens }),
    await KernelNode.create("fw2", { listens: false }),
  ];
  for (const { namespace } of nodes) await namespace.nft(RULES);
  nodes[1].follow(nodes[0]);
  return nodes;
}

async function create(node: KernelNode, flows: readonly Flow[]): Promise<void> {
  const batch = new RequestBatch();
  for (const flow of flows) {
    const { words, rare } = recordFromFlow(flow);
    assert.ok(batch.create(words, 0, rare, { timeoutSeconds: flow.timeoutSeconds ?? 600, liberal: false }));
  }
  const { errors } = await node.requests.send(batch);
  assert.deepEqual(
    errors.map(({ index, errno }) => [flows[index], errno]),
    [],
  );
}

/**
 * Compares two kernels' tables: all but the ids, and the timeouts, of which a commit gives no less than its floor, to some seconds
 * more than have passed since `expectedMs`.
 */
function same(found: readonly Flow[], expected: readonly Flow[], expectedMs: number): void {
  const within = WITHIN_SECONDS + (performance.now() - expectedMs) / 1000;
  assert.equal(found.length, expected.length);
  for (const [i, { id: _, timeoutSeconds = 0, ...flow }] of found.entries()) {
    const { id: __, timeoutSeconds: wanted = 0, ...other } = expected[i]!;
    assert.deepEqual(flow, other);
    const age = Math.max(wanted, TIMEOUT_FLOOR_SECONDS) - timeoutSeconds;
    assert.ok(age >= -1 && age <= within, `${timeoutSeconds} s of ${wanted} s: ${JSON.stringify(flow)}`);
  }
}

const MADE = [...Object.values(KINDS), ...Object.values(MORE_KINDS)];

for (const way of ["events", "a dump"] as const) {
  test(`each kind of flow, by ${way}`, { skip }, async () => {
    const [from, to] = await pair({ listens: way === "events" });
    await using _from = from;
    await using _to = to;
    await create(from, MADE);
    for (const line of INSERTED) await from.namespace.conntrack("-I", ...line.split(" "));
    if (way === "a dump") assert.equal(await from.replicator.resyncKernel(), true);
    const expectedMs = performance.now();
    const expected = await from.dump();
    assert.equal(expected.length, MADE.length + INSERTED.length);
    await waitUntil(() => to.external.table.size === expected.length, "the other node has heard of all");
    const report = await to.commit();
    assert.deepEqual(report.failed, {});
    assert.deepEqual([report.withoutMaster, report.withoutHelper], [undefined, undefined]);
    same(await to.dump(), expected, expectedMs);
  });
}

async function update(node: KernelNode, flow: Flow): Promise<void> {
  const batch = new RequestBatch();
  const { words, rare } = recordFromFlow(flow);
  assert.ok(batch.update(words, 0, rare, { timeoutSeconds: flow.timeoutSeconds ?? 600, liberal: false }));
  assert.deepEqual((await node.requests.send(batch)).errors, []);
}

test("what changes later reaches an entry that is there, in place", { skip }, async () => {
  const [from, to] = await pair();
  await using _from = from;
  await using _to = to;
  const tags = KINDS["SCTP with its tags"]!;
  await create(from, [tcp(1), tags]);
  await waitUntil(() => to.external.table.size === 2, "the other node has heard of both");
  assert.equal((await to.commit()).committed, 2);
  const ids = (await to.dump()).map(({ id }) => id);

  await update(from, {
    ...tcp(1),
    state: "CLOSE_WAIT",
    mark: 0xfeed,
    labels: "20000000000000000000000000000001",
    seqadj: { orig: { correctionPos: 1, offsetBefore: 2, offsetAfter: 3 } },
    synproxy: { isn: 4, its: 5, tsoff: 6 },
  });
  await update(from, { ...tags, state: "SHUTDOWN_SENT", sctp: { vtagOrig: 11, vtagReply: 12 } });
  // The kernel reports neither sequence adjustments nor a SYN proxy's numbers unless it was asked to set them, as here.
  await waitUntil(() => to.external.counters.updated >= 2, "the other node has heard of the changes");
  const report = await to.commit({ updates: true });
  assert.deepEqual([report.updated, report.committed, report.failed], [2, 0, {}]);
  const foundMs = performance.now();
  const found = await to.dump();
  assert.deepEqual(
    found.map(({ id }) => id),
    ids,
    "the same entries",
  );
  same(found, await from.dump(), foundMs);
  assert.deepEqual(found.find(({ protocol }) => protocol === "tcp")!.synproxy, { isn: 4, its: 5, tsoff: 6 });
});

const NAT_RULES = `
table inet nat {
  chain out {
    type nat hook output priority -100;
    meta l4proto { tcp, udp } th dport 7101 dnat ip to 10.1.0.2
    meta l4proto { tcp, udp } th dport 7102 dnat ip to 10.1.0.2:7999
    meta l4proto { tcp, udp } th dport 7103 redirect to :7998
    meta l4proto { tcp, udp } th dport 7104 dnat ip to 10.1.0.2:7997
    meta l4proto { tcp, udp } th dport 7105 dnat ip to 10.1.0.2:7900-7910
    meta l4proto { tcp, udp } th dport 7201 dnat ip6 to [fd01::2]:7999
  }
  chain post {
    type nat hook postrouting priority 100;
    meta l4proto { tcp, udp } th dport 7001 snat ip to 10.1.0.9
    meta l4proto { tcp, udp } th dport 7002 snat ip to 10.1.0.9:2000-2100
    meta l4proto { tcp, udp } th dport 7003 masquerade
    meta l4proto { tcp, udp } th dport 7004 masquerade to :3000-3100
    meta l4proto { tcp, udp } th dport 7997 snat ip to 10.1.0.9:4000-4100
    meta l4proto { tcp, udp } th dport 7202 snat ip6 to [fd01::9]:2000-2100
    meta l4proto { tcp, udp } th dport 7203 masquerade to :3000-3100
  }
}`;
/** One connection and one datagram to each port, from 10.1.0.5 and fd01::5; nobody listens, nobody refuses. */
const CLIENT = `
  const net = require("node:net");
  const dgram = require("node:dgram");
  const v4 = [7000, 7001, 7002, 7003, 7004, 7101, 7102, 7103, 7104, 7105].map((port) => [port, "10.1.0.5", "10.1.0.1"]);
  const v6 = [7200, 7201, 7202, 7203].map((port) => [port, "fd01::5", "fd01::1"]);
  let left = v4.length + v6.length;
  for (const [port, localAddress, host] of [...v4, ...v6]) {
    net.connect({ port, host, localAddress }).on("error", () => undefined);
    const socket = dgram.createSocket(host.includes(":") ? "udp6" : "udp4");
    socket.bind(0, localAddress, () => socket.send("x", port, host, () => --left === 0 && process.exit()));
  }`;

/**
 * A SYN's window scale goes with the claim that its answer, which will say so itself, has one. That the rules were asked about a
 * flow which they do not translate stays behind: they are not asked about a flow that is there (nf_nat_setup_info()).
 */
function unanswered(flow: Flow): Flow {
  const info = flow.tcp === undefined ? {} : { tcp: { ...flow.tcp, flagsReply: IP_CT_TCP_FLAG_WINDOW_SCALE } };
  return { ...flow, ...info, ...(flow.nat === undefined ? { status: ["CONFIRMED"] } : {}) };
}

test("each translation that a ruleset makes, of packets", { skip }, async () => {
  const [from, to] = await pair();
  await using _from = from;
  await using _to = to;
  for (const number of [1, 2, 5, 9]) {
    await from.namespace.exec("ip", ["addr", "add", `10.1.0.${number}/24`, "dev", "lo"]);
    await from.namespace.exec("ip", ["addr", "add", `fd01::${number}/64`, "dev", "lo", "nodad"]);
  }
  for (const { namespace } of [from, to]) namespace.sysctl("net/netfilter/nf_conntrack_acct", "1");
  await from.namespace.nft(NAT_RULES);
  // What would answer is dropped behind the translation, so that all flows stay as they began.
  await from.namespace.nft(
    "add table inet quiet; add chain inet quiet in { type filter hook input priority 200; policy drop; }",
  );
  await from.namespace.exec(process.execPath, ["-e", CLIENT]);
  const expectedMs = performance.now();
  const expected = await from.dump();
  const translated = expected.filter(({ nat }) => nat !== undefined);
  assert.ok(translated.length > 20, JSON.stringify(expected));
  await waitUntil(() => to.external.table.size === expected.length, "the other node has heard of all");
  assert.deepEqual((await to.commit()).failed, {});
  same(await to.dump(), expected.map(unanswered), expectedMs);
  // The counters of the other node's packets are its own.
  await to.requests.dump({}, ({ counters }) => assert.deepEqual([...counters], [0, 0, 0, 0]));
});

for (const liberal of [false, true]) {
  test(`window scales are carried; BE_LIBERAL is ${liberal ? "" : "not "}set`, { skip }, async () => {
    const [from, to] = await pair();
    await using _from = from;
    await using _to = to;
    await create(from, [tcp(1), { ...tcp(2), tcp: { ...tcp(2).tcp!, windowScaleOrig: 14, windowScaleReply: 0 } }]);
    await waitUntil(() => to.external.table.size === 2, "the other node has heard of both");
    for (const options of [
      { liberal, updates: false },
      { liberal, updates: true },
    ]) {
      await to.commit(options);
      const found = (await to.dump()).map(({ tcp: info }) => [
        info!.windowScaleOrig,
        info!.windowScaleReply,
        info!.flagsOrig,
        info!.flagsReply,
      ]);
      const flags = 0x03 | (liberal ? IP_CT_TCP_FLAG_BE_LIBERAL : 0);
      assert.deepEqual(found, [
        [7, 9, flags, flags],
        [14, 0, flags, flags],
      ]);
    }
  });
}
