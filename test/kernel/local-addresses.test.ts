import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { LocalAddresses, type LocalAddressesOptions } from "../../src/ctnetlink/local-addresses.js";
import { checkKernel, enableEvents } from "../../src/ctnetlink/sysctl.js";
import { AF_INET, AF_INET6 } from "../../src/flow/record.js";
import { KernelNamespace, kernelAvailable, waitUntil } from "../support/kernel-namespace.js";

const skip = kernelAvailable() ?? false;

function open(namespace: KernelNamespace, options: LocalAddressesOptions = {}): Promise<LocalAddresses> {
  // `open` makes its socket before it first waits, so the socket belongs to the namespace.
  return namespace.run(() => LocalAddresses.open(options));
}

test("addresses are listed, and added and removed ones are seen", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  let changes = 0;
  const addresses = await open(namespace, { onChange: () => changes++ });
  try {
    assert.deepEqual(addresses.list(), ["127.0.0.1", "::1"]);
    assert.equal(changes, 0);
    await namespace.exec("ip", ["address", "add", "192.0.2.9/24", "dev", "lo"]);
    await namespace.exec("ip", ["address", "add", "2001:db8::9/64", "dev", "lo", "nodad"]);
    await waitUntil(() => addresses.list().length === 4, "the new addresses");
    assert.deepEqual(addresses.list(), ["127.0.0.1", "192.0.2.9", "2001:db8::9", "::1"]);
    assert.equal(changes, 2);

    const words = Uint32Array.of(7, 0xc0000209, 0x20010db8, 0, 0, 9);
    assert.equal(addresses.hasAddress(words, 1, AF_INET), true);
    assert.equal(addresses.hasAddress(words, 0, AF_INET), false);
    assert.equal(addresses.hasAddress(words, 2, AF_INET6), true);
    assert.equal(addresses.hasAddress(Uint32Array.of(0x20010db8, 0, 1, 9), 0, AF_INET6), false);

    await namespace.exec("ip", ["address", "delete", "192.0.2.9/24", "dev", "lo"]);
    await waitUntil(() => !addresses.hasAddress(words, 1, AF_INET), "the IPv4 address to go");
    await namespace.exec("ip", ["address", "delete", "2001:db8::9/64", "dev", "lo"]);
    await waitUntil(() => !addresses.hasAddress(words, 2, AF_INET6), "the IPv6 address to go");
    assert.equal(changes, 4);
  } finally {
    addresses.close();
  }
});

test("of a point-to-point link our end counts; an address on two links goes with the second", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await namespace.exec("ip", ["link", "add", "left", "type", "veth", "peer", "name", "right"]);
  await namespace.exec("ip", ["address", "add", "10.9.0.1", "peer", "10.9.0.2", "dev", "left"]);
  await namespace.exec("ip", ["address", "add", "10.9.0.1/32", "dev", "right"]);
  const addresses = await open(namespace);
  try {
    assert.equal(addresses.hasAddress(Uint32Array.of(0x0a090001), 0, AF_INET), true);
    assert.equal(addresses.hasAddress(Uint32Array.of(0x0a090002), 0, AF_INET), false);
    await namespace.exec("ip", ["address", "flush", "dev", "right"]);
    await waitUntil(() => addresses.counters.notifications > 0, "the notification");
    assert.equal(addresses.hasAddress(Uint32Array.of(0x0a090001), 0, AF_INET), true);
    await namespace.exec("ip", ["address", "flush", "dev", "left"]);
    await waitUntil(() => !addresses.hasAddress(Uint32Array.of(0x0a090001), 0, AF_INET), "the address to go");
  } finally {
    addresses.close();
  }
});

test("lost notifications lead to another dump, after which the list is right", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  const addresses = await open(namespace, { bufferBytes: 4608 });
  try {
    const add = Array.from({ length: 500 }, (_, i) => `address add 10.8.${i >> 8}.${i & 255}/32 dev lo`).join("\n");
    // The event loop stands still while the kernel notifies, as under heavy load.
    execFileSync("ip", ["-n", namespace.name, "-batch", "-"], { input: add });
    await waitUntil(() => addresses.list().length === 502, "all addresses");
    assert.ok(addresses.counters.overruns > 0, "notifications were lost");
    assert.ok(addresses.counters.dumps > 1);
  } finally {
    addresses.close();
  }
});

test("the kernel's state is read in the thread's own namespace", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  namespace.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
  namespace.sysctl("net/netfilter/nf_conntrack_acct", "1");
  const state = namespace.run(() => checkKernel());
  assert.equal(state.events, 1);
  assert.equal(state.acct, 1);
  assert.equal(state.tcpBeLiberal, 1);
  assert.ok(state.max > 0);
  assert.equal(state.count, 0);

  namespace.sysctl("net/netfilter/nf_conntrack_events", "0");
  assert.throws(() => namespace.run(() => checkKernel()), {
    code: "KERNEL",
    message: /sysctl -w net\.netfilter\.nf_conntrack_events=1/,
  });
  assert.equal(namespace.run(() => checkKernel(true)).events, 0, "who polls needs none");
  assert.equal(
    namespace.run(() => enableEvents()),
    true,
  );
  assert.equal(namespace.run(() => checkKernel()).events, 1);
});

test("a kernel without conntrack is an error that says what to load", () => {
  assert.throws(() => checkKernel(false, "/proc/self/fdinfo"), { code: "KERNEL", message: /modprobe nf_conntrack/ });
  assert.equal(enableEvents("/proc/self/fdinfo"), false);
});
