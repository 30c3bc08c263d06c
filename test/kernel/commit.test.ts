/** A commit into a kernel in which packets have already been: what can be repaired is repaired. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { kernelAvailable, waitUntil } from "../support/kernel-namespace.js";
import { KernelNode } from "../support/kernel-node.js";

const skip = kernelAvailable() ?? false;
/** With it the kernel translates. */
const RULES = "add table inet t; add chain inet t nat { type nat hook postrouting priority 100; }";
/** Connections of an inside host, translated to 203.0.113.1. */
const FLOWS = [
  "-p tcp -s 10.0.0.1 -d 198.51.100.7 --sport 1001 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY,ASSURED --src-nat 203.0.113.1:1001",
  "-p udp -s 10.0.0.1 -d 198.51.100.7 --sport 1002 --dport 53 -t 600 -u SEEN_REPLY --src-nat 203.0.113.1:1002",
  "-p icmp -s 10.0.0.1 -d 198.51.100.7 --icmp-type 8 --icmp-code 0 --icmp-id 1003 -t 600 -u SEEN_REPLY --src-nat 203.0.113.1:1003",
  "-p udp -s fd00::1 -d fd00::7 --sport 1004 --dport 53 -t 600 -u SEEN_REPLY --src-nat fd00::9:1004",
  "-p udp -s 10.0.0.1 -d 198.51.100.7 --sport 1005 --dport 53 -t 600 -u SEEN_REPLY --src-nat 203.0.113.1:1005",
];
/** What the other side's packets make of them in a kernel that does not know them; the last one was answered since. */
const STRAY = [
  "-p tcp -s 198.51.100.7 -d 203.0.113.1 --sport 80 --dport 1001 -t 300 --state ESTABLISHED",
  "-p udp -s 198.51.100.7 -d 203.0.113.1 --sport 53 --dport 1002 -t 30",
  "-p udp -s 198.51.100.7 -d 203.0.113.1 --sport 53 --dport 1005 -t 30 -u SEEN_REPLY",
];

test("entries without a reply that hold the flows' reply tuples go, and the flows come in", { skip }, async () => {
  await using from = await KernelNode.create("fw1");
  await using to = await KernelNode.create("fw2", { listens: false });
  for (const { namespace } of [from, to]) await namespace.nft(RULES);
  to.follow(from);
  for (const line of FLOWS) await from.namespace.conntrack("-I", ...line.split(" "));
  for (const line of STRAY) await to.namespace.conntrack("-I", ...line.split(" "));
  await waitUntil(() => to.external.table.size === FLOWS.length, "the other node has heard of all");
  const report = await to.commit();
  assert.deepEqual([report.committed, report.repaired, report.failed], [4, 2, { EEXIST: 1 }]);
  const sources = (await to.dump()).map(({ orig }) => orig.src).sort();
  assert.deepEqual(sources, ["10.0.0.1", "10.0.0.1", "10.0.0.1", "198.51.100.7", "fd00::1"]);
});
