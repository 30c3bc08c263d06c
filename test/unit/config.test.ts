import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { checkConfig, loadConfig, parseConfig } from "../../src/config/config.js";
import { controlPath, scanControlPath } from "../../src/config/control-path.js";
import { parseDuration, parseSize } from "../../src/config/units.js";
import { ConntrailError } from "../../src/errors.js";

const BASE = "cluster: edge\nnode: fw1\nlisten: 10.77.0.1\n";
const NAME = "a name of 1 to 32 letters, digits, - or _ (it becomes part of subjects and stream names)";
const PEERS = "a map of node names to addresses, such as { fw2: 10.77.0.2 }";
const DURATION = "a duration with its unit, such as 5ms 10s 3m 2h 7d";
const PROTOCOLS =
  "icmp tcp udp dccp gre icmpv6 sctp udplite igmp ipencap ipip ipv6 esp ah ipv6-icmp icmp6 eigrp ospf pim vrrp l2tp or a number from 0 to 255";
const STATES = "SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSE SYN_SENT2";
const NETWORK = "an IPv4 or IPv6 address or network, such as 192.0.2.0/24 or 2001:db8::1";
const HELPERS = "true, false or a list of helpers such as [ftp, sip]";
const TOP_KEYS =
  "cluster node listen peers mode broker control publish peer_timeout lock nice scheduler cache commit purge expectations filter netlink discover archive tls keepalived stats metrics log";

const directory = mkdtempSync(join(tmpdir(), `conntrail-config-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));

/** What stands in the contract. */
const FULL = `cluster: edge
node: fw1
listen: 10.77.0.1
peers: { fw2: 10.77.0.2, fw3: 10.77.0.3 }
mode: cache
broker: { mode: embedded, port: 4222, store: /var/lib/conntrail, max_age: 7d, max_bytes: 2GiB }
control: /run/conntrail/control.sock
publish: { interval: 5ms }
commit: { timeout: 180s, window_tracking: true, ahead: 2s }
lock: /var/lock/conntrack.lock
nice: -20
scheduler: { policy: fifo, priority: 50 }
cache: { limit: 131072 }
purge: { after: 60s }
expectations: [ftp, sip]
filter: { protocols: [tcp, udp, icmp, icmpv6, sctp, dccp], ignore: [192.0.2.0/24], states: [], where: userspace, local: true }
netlink: { overrun_resync: 5s, poll: 15s, iteration_limit: 200 }
discover: { group: 225.0.0.50, port: 3780, interface: eth2 }
archive: { dir: /srv/archive, max_age: 3650d }
tls: { ca: ca.pem, cert: fw1.pem, key: /keys/fw1.key }
keepalived: { fifo: /run/conntrail/keepalived.fifo, groups: [wan, lan, wan], track_file: /run/conntrail/behind }
stats: { file: /var/log/flows.log, syslog: local0 }
metrics: { listen: 127.0.0.1:9469 }
log: { level: info, file: /var/log/conntrail.log, syslog: true }
peer_timeout: 4s
`;

test("every key of the contract is understood", () => {
  assert.deepEqual(parseConfig(FULL, "/etc/conntrail/conntrail.yaml"), {
    path: "/etc/conntrail/conntrail.yaml",
    cluster: "edge",
    node: "fw1",
    listen: "10.77.0.1",
    peers: [
      { node: "fw2", address: "10.77.0.2" },
      { node: "fw3", address: "10.77.0.3" },
    ],
    mode: "cache",
    broker: {
      mode: "embedded",
      port: 4222,
      store: "/var/lib/conntrail",
      maxAgeSeconds: 604_800,
      bytesMax: 2_147_483_648,
      encryptionKey: null,
      servers: [],
      login: null,
    },
    control: "/run/conntrail/control.sock",
    lock: "/var/lock/conntrack.lock",
    nice: -20,
    scheduler: { policy: "fifo", priority: 50 },
    cacheLimit: 131_072,
    publishIntervalMs: 5,
    peerTimeoutMs: 4000,
    commitWindowTracking: true,
    commitTimeoutSeconds: 180,
    commitAheadSeconds: 2,
    purgeAfterSeconds: 60,
    expectations: ["ftp", "sip"],
    filter: {
      protocols: { logic: "accept", values: [6, 17, 1, 58, 132, 33] },
      addresses: { logic: "ignore", values: ["192.0.2.0/24"] },
      states: null,
      where: "userspace",
      local: true,
    },
    netlink: {
      bufferBytes: 2_097_152,
      bufferBytesMax: 67_108_864,
      reliable: false,
      overrunResyncMs: 5000,
      pollMs: 15_000,
      iterationLimit: 200,
    },
    discover: { group: "225.0.0.50", port: 3780, interface: "eth2" },
    archive: { directory: "/srv/archive", maxAgeSeconds: 3650 * 86_400 },
    tls: { ca: "/etc/conntrail/ca.pem", cert: "/etc/conntrail/fw1.pem", key: "/keys/fw1.key", nodes: null },
    isOpen: false,
    keepalived: { fifo: "/run/conntrail/keepalived.fifo", groups: ["wan", "lan"], trackFile: "/run/conntrail/behind" },
    stats: { file: "/var/log/flows.log", syslog: "local0" },
    metrics: { host: "127.0.0.1", port: 9469 },
    logLevel: "info",
    logFormat: "auto",
    logFile: "/var/log/conntrail.log",
    logSyslog: "daemon",
  });
});

test("what is left out has the defaults of the contract", () => {
  const config = parseConfig(BASE, "/etc/fw.yaml");
  assert.equal(config.mode, "cache");
  assert.deepEqual(config.broker, {
    mode: "embedded",
    port: 4222,
    store: "/var/lib/conntrail",
    maxAgeSeconds: 604_800,
    bytesMax: 2_147_483_648,
    encryptionKey: null,
    servers: [],
    login: null,
  });
  assert.equal(config.control, "/run/conntrail/control.sock");
  assert.equal(config.publishIntervalMs, 5);
  assert.equal(config.peerTimeoutMs, 3000);
  assert.equal(config.commitTimeoutSeconds, null);
  assert.equal(config.commitAheadSeconds, null);
  assert.equal(config.purgeAfterSeconds, 60);
  assert.equal(config.expectations, true);
  assert.deepEqual(config.filter, { protocols: null, addresses: null, states: null, where: "userspace", local: false });
  assert.equal(config.tls, null);
  assert.equal(config.isOpen, false);
  assert.equal(parseConfig(`${BASE}tls: false\n`, "/etc/fw.yaml").isOpen, true);
  const shared = (login: string): string =>
    `${BASE}broker: { mode: shared, servers: [10.0.0.1:4222], login: { ${login} } }\n`;
  const loginOf = (login: string) => parseConfig(shared(login), "/etc/fw.yaml").broker.login;
  assert.deepEqual(loginOf("user: fw1, password: p"), { kind: "user", user: "fw1", file: "/etc/p" });
  assert.deepEqual(loginOf("creds: /x/fw1.creds"), { kind: "creds", file: "/x/fw1.creds" });
  assert.equal(parseConfig(`${BASE}tls: false\n`, "/etc/fw.yaml").tls, null);
  assert.equal(config.stats, null);
  assert.equal(config.metrics, null);
  assert.deepEqual(config.keepalived, { fifo: null, groups: null, trackFile: null });
  assert.equal(config.logLevel, "info");
  assert.deepEqual(config.peers, []);
});

test("values have more than one spelling", () => {
  const config = parseConfig(
    `${BASE}peers: { fw2: "FD00:0::2" }
publish: { interval: 0 }
expectations: false
broker: { mode: external, servers: ["nats://[fd00::1]:4222", "10.0.0.1:4223"] }
filter: { protocols_ignore: [TCP, 47, ipv6-icmp, 58], accept: ["2001:DB8:0::/32", 10.1.2.3], states_ignore: [time_wait, LISTEN] }
metrics: { listen: "[::1]:9469" }
`,
    "fw.yaml",
  );
  assert.deepEqual(config.peers, [{ node: "fw2", address: "fd00::2" }]);
  assert.equal(config.publishIntervalMs, 0);
  assert.equal(config.expectations, false);
  assert.deepEqual(config.broker.servers, ["nats://[fd00::1]:4222", "10.0.0.1:4223"]);
  assert.deepEqual(config.filter.protocols, { logic: "ignore", values: [6, 47, 58] });
  assert.deepEqual(config.filter.addresses, { logic: "accept", values: ["2001:db8::/32", "10.1.2.3"] });
  assert.deepEqual(config.filter.states, { logic: "ignore", values: [7, 9] });
  assert.deepEqual(config.metrics, { host: "::1", port: 9469 });
});

test("mode stats needs neither names nor peers", () => {
  const config = parseConfig("mode: stats\nstats: { file: /x }\n", "fw.yaml");
  assert.equal(config.mode, "stats");
  assert.deepEqual(config.stats, { file: "/x", syslog: null });
  assert.equal(parseConfig("mode: stats\nnode: fw1\n", "fw.yaml").node, "fw1");
});

/** What is appended to BASE (or, as a whole file, starts with "="), and the message without the file's name. */
const REFUSED: readonly (readonly [string, string])[] = [
  ["=", `1: cluster: is missing, allowed is ${NAME}`],
  ["=- 1\n", "1: found a list, allowed is a map"],
  ["=just words\n", '1: found "just words", allowed is a map'],
  ["nodee: x\n", `4: nodee: unknown key (did you mean node?), allowed is ${TOP_KEYS}`],
  [
    "mode: stats\ntls: false\n",
    "5: tls: found beside mode stats, allowed is another mode: a node in mode stats has no peers and no broker (mode cache works without peers, too)",
  ],
  [
    "mode: observer\nstats: { file: /x }\n",
    "5: stats: found beside mode observer, allowed is another mode: an observer has no kernel side",
  ],
  ["quorum: 2\n", `4: quorum: unknown key, allowed is ${TOP_KEYS}`],
  [
    "broker:\n  port: 4222\n  max-age: 7d\n",
    "6: broker.max-age: unknown key (did you mean max_age?), allowed is mode port store max_age max_bytes encryption_key servers login",
  ],
  ["node: fw2\n", "4: node: stands in line 2 already, allowed once"],
  ["peers:\n  fw2: 10.77.0.2\n  fw2: 10.77.0.3\n", "6: peers.fw2: stands in line 5 already, allowed once"],
  ["peers: { fw1: 10.77.0.2 }\n", `4: peers.fw1: found "fw1", allowed is any name but this node's own`],
  [
    "peers:\n  fw2: 10.77.0.1\n",
    '5: peers.fw2: found "10.77.0.1", allowed is an address of its own: this one is that of this node (listen) already',
  ],
  [
    'peers: { fw2: "fd00:0::2", fw3: "fd00::2" }\n',
    '4: peers.fw3: found "fd00::2", allowed is an address of its own: this one is that of fw2 already',
  ],
  ["peers: { fw2: 10.77.0 }\n", '4: peers.fw2: found "10.77.0", allowed is the IPv4 or IPv6 address of one host'],
  ["peers: { fw2: 224.0.0.1 }\n", '4: peers.fw2: found "224.0.0.1", allowed is the IPv4 or IPv6 address of one host'],
  ["peers: { a.b: 10.77.0.2 }\n", `4: peers.a.b: found "a.b", allowed is ${NAME}`],
  ["peers: [fw2]\n", `4: peers: found a list, allowed is ${PEERS}`],
  ["mode: direct\n", '4: mode: found "direct", allowed is cache, inject, observer, stats'],
  ["expectations: ftp\n", `4: expectations: found "ftp", allowed is ${HELPERS}`],
  ["expectations: []\n", `4: expectations: found a list, allowed is ${HELPERS}`],
  ["expectations: [ftp, a-name-too-long-for-it]\n", `4: expectations: found a list, allowed is ${HELPERS}`],
  ["publish: { interval: 5 }\n", `4: publish.interval: found 5, allowed is ${DURATION}, from 0 to 1s`],
  ["publish: { interval: 2s }\n", `4: publish.interval: found "2s", allowed is ${DURATION}, from 0 to 1s`],
  ["commit: { timeout: 0 }\n", `4: commit.timeout: found 0, allowed is ${DURATION}, from 1s to 30d`],
  ["purge: { after: soon }\n", `4: purge.after: found "soon", allowed is ${DURATION}, from 0 to 1d`],
  ["cache: { limit: 0 }\n", "4: cache.limit: found 0, allowed is a whole number from 1 to 67108864"],
  ["scheduler: { policy: rr }\n", "4: scheduler.priority: is missing, allowed is a whole number from 1 to 99"],
  ["scheduler: { policy: idle, priority: 0 }\n", '4: scheduler.policy: found "idle", allowed is fifo, rr'],
  ["nice: -21\n", "4: nice: found -21, allowed is a whole number from -20 to 19"],
  ["lock: here\n", '4: lock: found "here", allowed is an absolute path of at most 1024 bytes'],
  [
    "netlink: { overrun_resync: 30 }\n",
    `4: netlink.overrun_resync: found 30, allowed is ${DURATION}, from 0 to 1h, or false`,
  ],
  ["netlink: { poll: 0 }\n", `4: netlink.poll: found 0, allowed is ${DURATION}, from 100ms to 1h`],
  [
    "discover: { group: 10.0.0.1 }\n",
    '4: discover.group: found "10.0.0.1", allowed is a multicast group, such as 225.0.0.50 or ff02::1:50',
  ],
  [
    "discover: { group: ff02::1 }\nbroker: { mode: shared, servers: [10.0.0.1:4222] }\n",
    "4: discover: found beside broker.mode shared, allowed is to list the peers",
  ],
  [
    "log: { syslog: mail }\n",
    '4: log.syslog: found "mail", allowed is true, false or a facility: daemon, user, local0, local1, local2, local3, local4, local5, local6, local7',
  ],
  ["purge: 60s\n", '4: purge: found "60s", allowed is a map'],
  [
    "broker: { max_bytes: 2000000000 }\n",
    "4: broker.max_bytes: found 2000000000, allowed is a size with its unit, such as 64KiB 500MB 2GiB, from 16MiB to 1024TiB",
  ],
  ["broker: { port: 70000 }\n", "4: broker.port: found 70000, allowed is a port from 1 to 65535"],
  [
    "broker:\n  mode: external\n",
    "4: broker.servers: is missing, allowed is a list of broker addresses: mode external requires it",
  ],
  [
    "broker: { mode: shared, servers: [] }\n",
    "4: broker.servers: is missing, allowed is a list of broker addresses: mode shared requires it",
  ],
  [
    "broker: { servers: [10.0.0.1:4222] }\n",
    "4: broker.servers: found beside mode embedded, allowed is mode external or shared",
  ],
  [
    "broker: { mode: shared, servers: [http://a:1] }\n",
    '4: broker.servers[0]: found "http://a:1", allowed is a broker\'s address, such as nats://10.77.0.1:4222',
  ],
  ["control: run/x.sock\n", '4: control: found "run/x.sock", allowed is an absolute path of at most 96 bytes'],
  ["filter:\n  protocols:\n    - tcp\n    - foo\n", `7: filter.protocols[1]: found "foo", allowed is ${PROTOCOLS}`],
  ["filter: { protocols: [256] }\n", `4: filter.protocols[0]: found 256, allowed is ${PROTOCOLS}`],
  ["filter: { protocols: tcp }\n", `4: filter.protocols: found "tcp", allowed is a list, each ${PROTOCOLS}`],
  ["filter: { ignore: [10.0.0.0/33] }\n", `4: filter.ignore[0]: found "10.0.0.0/33", allowed is ${NETWORK}`],
  ['filter: { accept: ["::/129"] }\n', `4: filter.accept[0]: found "::/129", allowed is ${NETWORK}`],
  ["filter: { states: [OPEN] }\n", `4: filter.states[0]: found "OPEN", allowed is ${STATES}`],
  [
    "filter:\n  states: [CLOSE]\n  states_ignore: [CLOSE]\n",
    "6: filter.states_ignore: found beside filter.states, allowed is one of the two",
  ],
  ["filter: { local: 1 }\n", "4: filter.local: found 1, allowed is true or false"],
  ["filter: { where: here }\n", '4: filter.where: found "here", allowed is userspace, kernelspace'],
  [
    "netlink: { buffer: 4MiB, buffer_max: 2MiB }\n",
    "4: netlink.buffer_max: found less than netlink.buffer, allowed is at least 4194304B",
  ],
  [
    "broker: { login: { token: t, nkey: n } }\n",
    "4: broker.login: found a map, allowed is { creds: FILE }, { nkey: FILE }, { token: FILE } or { user: NAME, password: FILE }: secrets are in files",
  ],
  [
    "broker: { login: { creds: c } }\n",
    "4: broker.login: found beside mode embedded, allowed is { token: FILE }, the same on all nodes",
  ],
  [
    "broker: { login: { token: t } }\ntls: { ca: a, cert: b, key: c, nodes: d }\n",
    "4: broker.login: found beside tls.nodes, allowed is one of the two: a certificate is a login",
  ],
  ["tls: true\n", "4: tls: found true, allowed is false, or a map of ca, cert, key and nodes"],
  ["tls: { ca: a, cert: b }\n", "4: tls.key: is missing, allowed is a file name"],
  [
    "keepalived: { fifo: run/fifo }\n",
    '4: keepalived.fifo: found "run/fifo", allowed is an absolute path of at most 1024 bytes',
  ],
  ["keepalived: { groups: [a] }\n", "4: keepalived.groups: found without keepalived.fifo, allowed is both"],
  [
    "keepalived: { fifo: /f, groups: [a b] }\n",
    '4: keepalived.groups[0]: found "a b", allowed is the name of a sync group or an instance: letters, digits, . - _, at most 64',
  ],
  [
    "mode: observer\nkeepalived: { fifo: /run/f }\n",
    "5: keepalived: found beside mode observer, allowed is mode cache or inject: an observer has no role",
  ],
  [
    "metrics: { listen: 9469 }\n",
    "4: metrics.listen: found 9469, allowed is an address and a port, such as 127.0.0.1:9469 or [::1]:9469",
  ],
  ["log: { level: loud }\n", '4: log.level: found "loud", allowed is trace, debug, info, warn, error, fatal, silent'],
  ["=cluster: edge\nnode: 7\nlisten: 10.0.0.1\n", `2: node: found 7, allowed is ${NAME}`],
  ["=cluster: edge\nnode:\nlisten: 10.0.0.1\n", `2: node: found nothing, allowed is ${NAME}`],
  [
    "=cluster: edge\nnode: a\nlisten: 0.0.0.0\n",
    '3: listen: found "0.0.0.0", allowed is the IPv4 or IPv6 address of this node on the dedicated link',
  ],
  ["=a: 1\n\tb: 2\n", "2: not valid YAML: Tabs are not allowed as indentation"],
];

for (const [text, message] of REFUSED) {
  test(`refused: ${JSON.stringify(text)}`, () => {
    assert.throws(() => parseConfig(text.startsWith("=") ? text.slice(1) : BASE + text, "fw.yaml"), {
      name: "ConntrailError",
      code: "CONFIG",
      message: `fw.yaml:${message}`,
    });
  });
}

test("all problems are told, in the order of the file", () => {
  const check = checkConfig(`${BASE}log: { level: x }\nmode: y\nbrokers: z\n`, "fw.yaml");
  assert.ok(!check.ok);
  assert.deepEqual(
    check.problems.map(({ line, key }) => [line, key]),
    [
      [4, "log.level"],
      [5, "mode"],
      [6, "brokers"],
    ],
  );
});

test("a key of several lines is refused in one", () => {
  assert.throws(() => parseConfig(`${BASE}? two\n\n  lines\n: x\n`, "fw.yaml"), {
    code: "CONFIG",
    message: /^fw\.yaml:4: two lines: unknown key, allowed is cluster [^\n]*$/,
  });
});

test("a file that cannot be read is named with the reason", () => {
  const path = join(directory, "none.yaml");
  assert.throws(() => loadConfig(path), {
    code: "CONFIG",
    message: `${path}: cannot be read: no such file: write one with conntrail init, or name one with -c`,
  });
  assert.throws(() => loadConfig(directory), {
    code: "CONFIG",
    message: `${directory}: cannot be read: it is a directory`,
  });
});

test("any text is either a configuration or refused in one line", () => {
  const piece = fc.constantFrom(
    ..."node: |peers: |{ |} |[ |] |- |\n|  |&a |*a |? |! |<<: |fw1|10.0.0.1|: |broker:\n  |__proto__: |5ms|\u0000|\t|#".split(
      "|",
    ),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      try {
        parseConfig(BASE + pieces.join(""), "fw.yaml");
      } catch (error) {
        assert.ok(error instanceof ConntrailError, String(error));
        assert.equal(error.code, "CONFIG");
        assert.match(error.message, /^fw\.yaml:\d+: [^\n]+$/);
      }
    }),
    { numRuns: 2000 },
  );
});

test("the control path is found without the YAML parser, and never differently", async () => {
  assert.equal(scanControlPath(BASE), "/run/conntrail/control.sock");
  assert.equal(scanControlPath(`# x\n${BASE}\ncontrol: /run/a.sock  # here\n`), "/run/a.sock");
  assert.equal(scanControlPath(`${BASE}commit:\n  control: /x\n`), "/run/conntrail/control.sock");
  const unsure = [
    `{ control: /run/a.sock }`,
    `${BASE}control: "/run/a.sock"`,
    `${BASE}control: *a`,
    `${BASE}control: /a\ncontrol: /b`,
    `---\n${BASE}control: /a`,
    `${BASE}control: relative`,
    `${BASE}"control": /a`,
    `${BASE}control:\n  /a`,
  ];
  for (const text of unsure) assert.equal(scanControlPath(text), undefined, text);
  const path = join(directory, "quoted.yaml");
  writeFileSync(path, `${BASE}control: "/run/quoted.sock"\n`);
  assert.equal(await controlPath(path), "/run/quoted.sock");
  writeFileSync(path, `${BASE}control: relative\n`);
  await assert.rejects(controlPath(path), { code: "CONFIG", message: /quoted\.yaml:4: control: / });
});

test("the control path that is scanned is the one that is parsed", () => {
  const line = fc.constantFrom(
    "control: /a/b.sock",
    "control: /c # d",
    " control: /e",
    "control:",
    "control: /f/",
    "mode: cache",
    "log:",
    "  level: |",
    "    control: /g",
    "# control: /h",
    "'x",
    "",
  );
  fc.assert(
    fc.property(fc.array(line, { maxLength: 5 }), (lines) => {
      const text = `${BASE}${lines.join("\n")}\n`;
      const check = checkConfig(text, "fw.yaml");
      if (check.ok) assert.ok([undefined, check.config.control].includes(scanControlPath(text)), text);
    }),
    { numRuns: 1000 },
  );
});

test("durations and sizes need their units", () => {
  const durations: readonly (readonly [unknown, number | undefined])[] = [
    ["5ms", 5],
    ["10s", 10_000],
    ["3m", 180_000],
    ["2h", 7_200_000],
    ["7d", 604_800_000],
    ["7 d", 604_800_000],
    [0, 0],
    ["0", 0],
    [5, undefined],
    ["5", undefined],
    ["-5s", undefined],
    ["1.5h", undefined],
    ["5 weeks", undefined],
    ["99999999999999d", undefined],
    [null, undefined],
  ];
  for (const [text, ms] of durations) assert.equal(parseDuration(text), ms, String(text));
  const sizes: readonly (readonly [unknown, number | undefined])[] = [
    ["64KiB", 65_536],
    ["2GiB", 2_147_483_648],
    ["500MB", 500_000_000],
    ["1B", 1],
    [1024, undefined],
    ["5G", undefined],
    ["5s", undefined],
  ];
  for (const [text, bytes] of sizes) assert.equal(parseSize(text), bytes, String(text));
});

test("what is written ahead of a takeover is a matter of mode cache", () => {
  const lines = (mode: string) => `cluster: c\nnode: a\nlisten: 127.0.0.1\nmode: ${mode}\ncommit: { ahead: 2s }\n`;
  assert.equal(parseConfig(lines("cache"), "/a").commitAheadSeconds, 2);
  assert.throws(() => parseConfig(lines("inject"), "/a"), {
    message: "/a:5: commit.ahead: found beside mode inject, allowed is mode cache: inject writes all at once",
  });
  assert.equal(parseConfig(lines("cache").replace("2s", "false"), "/a").commitAheadSeconds, null);
});
