/** Whole files against what they were found to become: NAME.conf with NAME.yaml and NAME.txt, the report, beside it. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { checkConfig, parseConfig } from "../../src/config/config.js";
import { parseConntrackdConf } from "../../src/conntrackd/conf.js";
import { nodeNameOf } from "../../src/conntrackd/endpoints.js";
import type { Machine } from "../../src/conntrackd/machine.js";
import type { Remark } from "../../src/conntrackd/remark.js";
import { type Translation, translate } from "../../src/conntrackd/translate.js";
import { ConntrailError } from "../../src/errors.js";
import { protocolNumber } from "../../src/flow/protocol.js";

const DIRECTORY = "test/golden/conntrackd-conf";
const names = readdirSync(DIRECTORY).flatMap((name) => (name.endsWith(".yaml") ? [name.slice(0, -5)] : []));

/** eth2 has addresses of each kind, only the last of which a broker can listen on over IPv6 with Multicast. */
const ADDRESSES: Readonly<Record<string, readonly string[]>> = {
  eth2: ["10.0.0.7/24", "fe80::7/64", "2001:DB8::7/64"],
  many: ["192.0.2.1/24", "10.9.8.1/24", "10.9.8.11/24"],
  local: ["fe80::9/64"],
};

const MACHINE: Machine = {
  addressesOf: (device) => ADDRESSES[device] ?? [],
  protocolNumber: (name) => (name === "Tcp" ? undefined : protocolNumber(name)),
};

function golden(name: string): string {
  return readFileSync(`${DIRECTORY}/${name}`, "utf8");
}

function translated(text: string): Translation {
  return translate(parseConntrackdConf(text, "c.conf"), MACHINE);
}

/** The config of a Sync block with this link, and General with these directives. */
function conf(
  general = "",
  link = "UDP { IPv4_address 10.0.0.1 IPv4_Destination_Address 10.0.0.2 Port 3780 }",
  sync = "",
) {
  return `Sync {\n${sync}\n${link}\n}\nGeneral {\n${general}\n}\n`;
}

function configOf(text: string) {
  return parseConfig(translated(text).yaml, "c.conf");
}

/** Verdict, key and note of the directive with this name, the first of them. */
function remarkOf(text: string, directive: string): Remark {
  const found = translated(text).remarks.find((remark) => remark.directive.startsWith(directive));
  return found ?? assert.fail(`no remark on ${directive}`);
}

function refused(text: string, message: string): void {
  assert.throws(
    () => translated(text),
    (error) => error instanceof ConntrailError && error.code === "CONFIG" && error.message === message,
  );
}

for (const name of names) {
  test(`${name}.conf becomes ${name}.yaml`, () => {
    const { yaml, remarks } = translate(parseConntrackdConf(golden(`${name}.conf`), `${name}.conf`), MACHINE);
    const report = remarks.map(({ line, column, directive, verdict, key, note }) =>
      `${line}:${column} ${directive} | ${verdict}${key === null ? "" : `: ${key}`} | ${note}`.trimEnd(),
    );
    assert.equal(yaml, golden(`${name}.yaml`));
    assert.equal(`${report.join("\n")}\n`, golden(`${name}.txt`));
    const check = checkConfig(yaml, `${name}.conf`);
    assert.deepEqual(check.ok ? [] : check.problems, []);
  });
}

test("both ends of a link find each other's names", () => {
  for (const name of ["ha", "firewall-ha"]) {
    const [one, other] = [1, 2].map((n) => configOf(golden(`${name}-fw-${n}.conf`)));
    assert.deepEqual(one!.peers, [{ node: other!.node, address: other!.listen }]);
    assert.deepEqual(other!.peers, [{ node: one!.node, address: one!.listen }]);
    assert.equal(one!.cluster, other!.cluster);
    assert.equal(one!.broker.port, other!.broker.port);
  }
});

test("a node's name is made of its address, and fits", () => {
  assert.equal(nodeNameOf("172.30.16.1"), "172-30-16-1");
  assert.equal(nodeNameOf("fd00::2"), "fd00--2");
  assert.equal(nodeNameOf("::1"), "00000000000000000000000000000001");
  assert.equal(nodeNameOf("2001:db8:aaaa:bbbb:cccc:dddd:eeee:1"), "20010db8aaaabbbbccccddddeeee0001");
});

test("a file without what a link needs is refused by what is missing", () => {
  const none = "allowed is a Sync block with one of UDP, TCP and Multicast in it, or Stats alone";
  refused("General { }", `c.conf:1:1: found no dedicated link, ${none}`);
  refused(conf("", ""), `c.conf:1:1: found no dedicated link, ${none}`);
  const own = "allowed is IPv4_address with this node's address on the dedicated link";
  refused(
    conf("", "UDP { IPv4_Destination_Address 10.0.0.2 }"),
    `c.conf:3:1: found UDP without an address of this node, ${own}`,
  );
  refused(
    conf("", "UDP { IPv4_address 0.0.0.0 IPv4_Destination_Address 10.0.0.2 Interface eth9 }"),
    `c.conf:3:1: found UDP without an address of this node, and eth9 has none that could be used, ${own}`,
  );
  refused(
    conf("", "TCP { IPv6_address fd00::1 IPv4_Destination_Address 10.0.0.2 IPv6_address fd00::1 }"),
    "c.conf:3:1: found TCP without another node, allowed is IPv6_Destination_Address with its address",
  );
  refused(
    conf("", "UDP { IPv4_address 10.0.0.1 IPv4_Destination_Address 225.0.0.50 }"),
    "c.conf:3:54: found 225.0.0.50, allowed is the address of another node",
  );
  const routed = "allowed is an address that is not link-local, such as fd00::1: give both ends of the link one";
  refused(
    conf("", "UDP { IPv6_address fe80::1 IPv6_Destination_Address fe80::2 }"),
    `c.conf:3:20: found fe80::1, ${routed}, or Interface beside it`,
  );
  refused(
    conf("", "Multicast { IPv6_address ff15::1 IPv6_interface fe80::1 Interface eth3 }"),
    `c.conf:3:49: found fe80::1, ${routed}`,
  );
  refused(
    conf("", "UDP { IPv4_address 10.0.0.1 IPv4_Destination_Address 10.0.0.2 }\nTCP { IPv4_address 10.0.0.1 }"),
    "c.conf:4:1: found TCP beside UDP (line 3), allowed is one of them",
  );
  refused(
    conf("", "Multicast { Interface eth2 }"),
    "c.conf:3:1: found Multicast without a group, allowed is IPv4_address or IPv6_address",
  );
  refused(
    conf("", "Multicast { IPv6_address ff15::1 Interface eth9 }"),
    "c.conf:3:1: found Multicast without an address of this node, and eth9 has none that could be used, allowed is \
IPv6_interface with this node's address on the dedicated link, not link-local, or such an address on Interface",
  );
});

test("Stats alone needs no link; beside Sync it is one more log", () => {
  const alone = configOf(
    "Stats {\nLogFile on\nSyslog local3\nNetlinkEventsReliable on\nLogFileBufferSize 4096\n}\nGeneral { }",
  );
  assert.equal(alone.mode, "stats");
  assert.deepEqual(alone.stats, { file: "/var/log/conntrackd-stats.log", syslog: "local3" });
  assert.equal(alone.netlink.reliable, true);
  assert.deepEqual(configOf("Stats { LogFile /x/y }").stats, { file: "/x/y", syslog: null });
  assert.equal(configOf("Stats { }").stats, null);
  const beside = configOf(`${conf()}\nStats { LogFile on }`);
  assert.equal(beside.mode, "cache");
  assert.deepEqual(beside.stats, { file: "/var/log/conntrackd-stats.log", syslog: null });
});

test("daemons that have files of their own have a store of their own", () => {
  const store = (general: string, machine = MACHINE) =>
    parseConfig(translate(parseConntrackdConf(conf(general), "c.conf"), machine).yaml, "c.conf").broker.store;
  const usual = "/var/lib/conntrail";
  assert.equal(store(""), usual);
  for (const path of ["/var/run/conntrackd.ctl", "/run/conntrackd.sock"]) {
    assert.equal(store(`UNIX { Path ${path}\n}\nLockFile /var/lock/conntrack.lock`), usual);
  }
  assert.equal(store("UNIX { Path /run/lb/a-b.ctl\n}"), `${usual}/instances/run-lb-a_2d_b.ctl`);
  assert.notEqual(store("UNIX { Path /run/lb-a/b.ctl\n}"), store("UNIX { Path /run/lb/a-b.ctl\n}"));
  assert.equal(store("LockFile /var/lock/lb2.lock"), `${usual}/instances/var-lock-lb2.lock`);
  assert.match(store(`LockFile /${"x/".repeat(300)}y`), /instances\/[0-9a-f]{64}$/);
  assert.equal(store("LockFile /var/lock/lb2.lock", { ...MACHINE, store: "/srv/streams" }), "/srv/streams");
  assert.throws(
    () => store("", { ...MACHINE, store: "srv" }),
    /^.*CONNTRAIL_STORE: found "srv", allowed is an absolute path$/,
  );
});

test("a link without this node's address has that of its interface", () => {
  const link = "UDP { IPv4_address 0.0.0.0 IPv4_Destination_Address 10.0.0.2 Interface eth2 }";
  assert.equal(configOf(conf("", link)).listen, "10.0.0.7");
  assert.equal(remarkOf(conf("", link), "IPv4_address").verdict, "not needed");
  assert.equal(configOf(conf("", "Multicast { IPv4_address 225.0.0.50 Interface eth2 }")).listen, "10.0.0.7");
  const named = "Multicast { IPv6_address ff15::1 IPv6_interface fd00::1 Group 3780 Interface eth3 }";
  assert.equal(configOf(conf("", named)).listen, "fd00::1");
});

test("of several addresses of an interface, one in the other node's network is used, and the others are named", () => {
  const link = (device: string, to: string) => conf("", `UDP { Interface ${device} IPv4_Destination_Address ${to} }`);
  assert.equal(configOf(link("many", "192.0.2.2")).listen, "192.0.2.1");
  assert.equal(remarkOf(link("many", "192.0.2.2"), "Interface").verdict, "not needed");
  assert.equal(configOf(link("many", "10.9.8.2")).listen, "10.9.8.1");
  const { verdict, note } = remarkOf(link("many", "10.9.8.2"), "Interface");
  assert.equal(verdict, "not supported");
  assert.match(
    note,
    /many has 10\.9\.8\.11 too; the other nodes must name 10\.9\.8\.1, or IPv4_address must say which$/,
  );
  assert.equal(configOf(link("many", "203.0.113.2")).listen, "192.0.2.1");
});

test("a link-local address has its interface, but not in the node's name", () => {
  const named = configOf(conf("", "TCP { IPv6_address fe80::1 IPv6_Destination_Address fe80::2 Interface eth3 }"));
  assert.equal(named.listen, "fe80::1%eth3");
  assert.equal(named.node, "fe80--1");
  assert.deepEqual(named.peers, [{ node: "fe80--2", address: "fe80::2%eth3" }]);
  const found = configOf(conf("", "UDP { IPv6_Destination_Address fe80::2 Interface local }"));
  assert.equal(found.listen, "fe80::9%local");
});

test("a link to oneself is a node without peers", () => {
  const text = conf("", "TCP { IPv4_address 127.0.0.1 IPv4_Destination_Address 127.0.0.1 Port 3780 Interface lo }");
  assert.deepEqual(configOf(text).peers, []);
  assert.equal(configOf(text).listen, "127.0.0.1");
});

test("the link that says Default is used, else the first; its other destinations are peers too", () => {
  const [one, two] = ["10.0.0", "10.1.0"].map(
    (net) => `{ IPv4_address ${net}.1 IPv4_Destination_Address ${net}.2 Interface eth${net[3]} Port 3780 }`,
  );
  assert.equal(configOf(conf("", `UDP ${one} UDP ${two}`)).listen, "10.0.0.1");
  const second = conf("", `UDP ${one}\nUDP Default ${two}`);
  assert.equal(configOf(second).listen, "10.1.0.1");
  assert.equal(translated(second).device, "eth1");
  assert.deepEqual(
    translated(second)
      .remarks.map(({ line, directive, verdict }) => [line, directive, verdict])
      .slice(0, 2),
    [
      [3, "UDP", "not supported"],
      [4, "UDP Default", "replaced"],
    ],
  );
  const three =
    "UDP { IPv4_address 10.0.0.1 IPv4_Destination_Address 10.0.0.2 IPv4_Destination_Address 10.0.0.3 Port 3780 }\n\
UDP { IPv4_address 10.0.0.1 IPv4_Destination_Address 10.0.0.4 Port 3781 }";
  assert.deepEqual(
    configOf(conf("", three)).peers.map(({ address }) => address),
    ["10.0.0.2", "10.0.0.3", "10.0.0.4"],
  );
  assert.equal(remarkOf(conf("", three), "Port 3781").verdict, "not supported");
});

test("of a directive that is given twice the last holds, and the report says so", () => {
  const text = conf("HashLimit 5\nHashLimit 6\nLogFile on\nLogFile off");
  assert.equal(configOf(text).cacheLimit, 6);
  assert.equal(configOf(text).logFile, null);
  assert.deepEqual(remarkOf(text, "HashLimit 5"), {
    line: 6,
    column: 1,
    directive: "HashLimit 5",
    verdict: "not needed",
    key: null,
    note: "line 7 says it again, and that holds",
  });
});

test("a scheduler's type and priority, in any number and order", () => {
  const scheduler = (text: string) => configOf(conf(`Scheduler { ${text} }`)).scheduler;
  assert.deepEqual(scheduler("Type FIFO Priority 99"), { policy: "fifo", priority: 99 });
  assert.deepEqual(scheduler("Priority 5\nType rr"), { policy: "rr", priority: 5 });
  assert.deepEqual(scheduler("Type RR"), { policy: "rr", priority: 1 });
  assert.deepEqual(scheduler("Type RR\nType FIFO\nPriority 0\n"), { policy: "fifo", priority: 1 });
  assert.equal(remarkOf(conf("Scheduler { Type RR\nPriority 0 }"), "Priority").note, "1 is the least here");
  for (const text of ["", "Priority 5"]) assert.equal(scheduler(text), null);
  assert.equal(remarkOf(conf("Scheduler { Priority 5 }"), "Scheduler").verdict, "not supported");
});

test("helpers that the kernel has are replaced by it, others are named", () => {
  const options = "QueueNum 1 QueueLen 10 Policy x { ExpectMax 1 ExpectTimeout 300 }";
  const types = ["ftp inet tcp", "tftp inet6 udp", "sane inet tcp", "amanda inet udp", "ftp inet udp", "rpc inet tcp"];
  const lines = types.map((type) => `Type ${type} { ${options} }`);
  const { remarks } = translated(`${conf()}Helper {\nSetup yes\n${lines.join("\n")}\n}`);
  assert.deepEqual(
    remarks
      .filter(({ directive }) => /^(Setup|Type)/.test(directive))
      .map(({ directive, verdict }) => [directive, verdict]),
    [["Setup yes", "not needed"], ...types.map((type, i) => [`Type ${type}`, i < 4 ? "replaced" : "not supported"])],
  );
  assert.match(remarks.at(-1)?.note ?? "", /^the kernel has no helper rpc for tcp: conntrackd serves it beside this/);
});

test("sizes of the buffer fit together, whichever are given", () => {
  const buffers = (text: string) => {
    const { bufferBytes, bufferBytesMax } = configOf(conf(text)).netlink;
    return [bufferBytes, bufferBytesMax];
  };
  assert.deepEqual(buffers("NetlinkBufferSize 134217728"), [134217728, 134217728]);
  assert.deepEqual(buffers("NetlinkBufferSizeMaxGrowth 1048576"), [1048576, 1048576]);
  assert.deepEqual(buffers("NetlinkBufferSizeMaxGrowth 1048576\nNetlinkBufferSize 2097152"), [2097152, 2097152]);
  assert.deepEqual(buffers("NetlinkBufferSize 300001"), [300001, 64 * 1024 ** 2]);
});

test("beside DisableExternalCache there is nothing to commit", () => {
  const text = conf("", undefined, "Mode FTFW { CommitTimeout 180 DisableExternalCache On }");
  assert.equal(configOf(text).mode, "inject");
  assert.equal(configOf(text).commitTimeoutSeconds, null);
  assert.equal(remarkOf(text, "CommitTimeout").verdict, "not needed");
});

test("the filter is one list of each kind, with the policy that was said last", () => {
  const text = conf(
    "Filter { Protocol Accept { TCP }\nProtocol Ignore { 	UDP } }\nFilter From Kernelspace { Address Accept { IPv4_address 10.0.0.0/8 } }",
  );
  assert.deepEqual(configOf(text).filter.protocols, { logic: "ignore", values: [6, 17] });
  assert.equal(configOf(text).filter.where, "kernelspace");
  assert.match(remarkOf(text, "Protocol Accept").note, /Ignore in line 7 holds for all/);
  assert.equal(remarkOf(conf("Filter { Protocol Accept { } }"), "Protocol").verdict, "not supported");
});

test("NetlinkOverrunResync in all its forms", () => {
  const resync = (value: string) => configOf(conf(`NetlinkOverrunResync ${value}`)).netlink.overrunResyncMs;
  assert.deepEqual(["on", "Off", "0", "5", "99999"].map(resync), [30_000, null, 30_000, 5000, 3_600_000]);
});
