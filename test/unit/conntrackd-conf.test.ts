import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { checkConntrackdConf, isConntrackdConf, parseConntrackdConf } from "../../src/conntrackd/conf.js";
import type { ConfNode } from "../../src/conntrackd/tree.js";
import { ConntrailError } from "../../src/errors.js";

/** The tree without places: name, values, block. */
function plain(nodes: readonly ConfNode[]): unknown[] {
  return nodes.map(({ name, values, block }) => [
    [name, ...values].map(({ text }) => text).join(" "),
    ...(block === null ? [] : [plain(block)]),
  ]);
}

function tree(text: string): unknown[] {
  return plain(parseConntrackdConf(text, "c.conf").nodes);
}

/** All that is wrong, `line:column text` each. */
function problems(text: string): string[] {
  const check = checkConntrackdConf(text, "c.conf");
  return check.ok ? [] : check.problems.map((problem) => `${problem.line}:${problem.column} ${problem.text}`);
}

const general = (text: string) => problems(`General {\n${text}\n}\n`);
const ADDRESS = "allowed is an IPv4 address or network, such as 192.0.2.1 or 192.0.2.0/24";
const NUMBER = "allowed is a whole number from 0 to 2147483647";

test("blocks and values, however they are spaced", () => {
  const wanted = [
    [
      "Sync",
      [
        ["Mode FTFW", [["PurgeTimeout 5"]]],
        ["UDP Default", [["Port 3780"]]],
      ],
    ],
    ["General", [["HashSize 5"], ["Filter", [["Protocol Accept", [["TCP"], ["UDP"]]]]]]],
  ];
  const spaced = `
# comment
Sync {   # comment with { and }
  Mode FTFW
  {
    PurgeTimeout
      5#comment
  }
  UDP Default { Port 3780 }
}
General {
\tHashSize\t5\t# tab
  Filter { Protocol Accept { TCP UDP } }
}
`;
  assert.deepEqual(tree(spaced), wanted);
  const tight =
    "Sync{Mode FTFW{PurgeTimeout 5}UDP Default{Port 3780}}General{HashSize 5 Filter{Protocol Accept{TCP UDP}}}";
  assert.deepEqual(tree(tight), wanted);
  assert.deepEqual(tree(spaced.replaceAll("\n", "\r\n")), wanted);
  assert.deepEqual(tree(`\uFEFF${tight}`), wanted);
  assert.deepEqual(tree("# nothing\n"), []);
});

test("names are case-sensitive, words of choice are not", () => {
  assert.deepEqual(general("LogFile ON Syslog Off Systemd YES NetlinkEventsReliable no"), []);
  assert.deepEqual(problems("Sync { Mode Ftfw { } Mode nack { } Mode notrack { } Mode Persistent { } }"), []);
  assert.deepEqual(general("hashsize 5"), [
    '2:1 found "hashsize" in General (line 1), allowed is HashSize: names are case-sensitive',
  ]);
  assert.deepEqual(problems("General { Filter From kernelspace { } }"), [
    '1:23 found "kernelspace" after "Filter", allowed is Userspace or Kernelspace',
  ]);
});

test("what clients need: socket, lock, mode and device", () => {
  const conf = (text: string) => {
    const { mode, unixPath, lockFile, device } = parseConntrackdConf(text, "c.conf");
    return [mode, unixPath, lockFile, device];
  };
  assert.deepEqual(conf(""), ["FTFW", "/var/run/conntrackd.ctl", "/var/lock/conntrackd.lock", null]);
  const text = `Sync { Mode ALARM { } UDP { Interface eth1 } UDP Default { Interface eth2 } }
General { LockFile /a UNIX { Path /run/b#c } }`;
  assert.deepEqual(conf(text), ["ALARM", "/run/b#c", "/a", "eth2"]);
  const long = `/run/${"x".repeat(100)}`;
  assert.equal(conf(`General { UNIX { Path ${long} } }`)[1], "/var/run/conntrackd.ctl");
  assert.equal(problems(`General { UNIX { Path ${long}xxx } }`).length, 1);
});

test("the file whose braces and values were lost is told line by line", () => {
  const text = readFileSync("test/golden/conntrackd-conf/lost-braces.conf", "utf8");
  const missing = `found nothing after "IPv4_address", ${ADDRESS}`;
  assert.deepEqual(problems(text), [
    '7:5 found "UDP" inside Mode FTFW (opened in line 2): the "}" of Mode FTFW is missing before it',
    '13:5 found "Options" inside UDP (opened in line 7): the "}" of UDP is missing before it',
    '17:1 found "General" inside Options (opened in line 13), inside Sync (opened in line 1): 2 "}" are missing before it',
    '27:5 found "NetlinkBufferSize" inside UNIX (opened in line 25): the "}" of UNIX is missing before it',
    '39:9 found "Address" inside Protocol Accept (opened in line 35): the "}" of Protocol Accept is missing before it',
    ...[40, 41, 42, 43].map((line) => `${line}:13 ${missing}`),
    `47:1 found the end of the file inside Address Ignore (opened in line 39), inside Filter From Kernelspace (opened in \
line 34), inside General (opened in line 17): 3 "}" are missing`,
  ]);
  assert.throws(
    () => parseConntrackdConf(text, "/etc/conntrackd/conntrackd.conf"),
    (error) =>
      error instanceof ConntrailError &&
      error.code === "CONFIG" &&
      error.message.startsWith('/etc/conntrackd/conntrackd.conf:7:5: found "UDP" inside Mode FTFW'),
  );
});

test("braces that are missing, lost or one too many", () => {
  assert.deepEqual(problems("Sync {\n UDP {\n  Port 3780\n"), [
    '4:1 found the end of the file inside UDP (opened in line 2), inside Sync (opened in line 1): 2 "}" are missing',
  ]);
  assert.deepEqual(problems("Sync {\n"), [
    '2:1 found the end of the file inside Sync (opened in line 1): the "}" that closes it is missing',
  ]);
  assert.deepEqual(problems("Sync {\n}\nGeneral {\n}\n}\n"), [
    '5:1 found "}" where no block is open; General (opened in line 3) was the last, closed in line 4',
  ]);
  assert.deepEqual(problems("}"), ['1:1 found "}" where no block is open']);
  assert.deepEqual(problems("Sync {\n UDP { }\n}\n Options { }\n}\n"), [
    '4:2 found "Options" outside Sync (opened in line 1), to which it belongs: line 3 closes that',
  ]);
  assert.deepEqual(problems("Sync\n UDP { }\n}\n"), ['1:1 found no "{" after Sync, which begins a block']);
  assert.deepEqual(general("UNIX\nPath /a\n}"), ['2:1 found no "{" after UNIX, which begins a block']);
  assert.deepEqual(general("HashSize 5 {\n Foo }"), [
    '2:12 found "{", allowed is a directive, but HashSize 5 takes no block',
  ]);
  assert.deepEqual(problems("{ }"), ['1:1 found "{", allowed is a directive']);
  assert.deepEqual(general("Filter {\nState Ignore {\nCLOSED for TCP\nProtocol Accept { TCP }\n}"), [
    '5:1 found "Protocol" inside State Ignore (opened in line 3): the "}" of State Ignore is missing before it',
  ]);
});

test("one mistake is one complaint", () => {
  const nested = "Sync {\n UDP {\n  Options {\n   TCPWindowTracking on\n  }\n }\n}\nGeneral {\n}\n";
  assert.deepEqual(problems(nested), [
    '3:3 found "Options" inside UDP (opened in line 2): the "}" of UDP is missing before it',
  ]);
  assert.deepEqual(general("HashSize = 5"), [`2:10 found "=" after "HashSize", ${NUMBER}`]);
  assert.deepEqual(general("Filter {\nProtocol Accept TCP UDP\n}"), [
    '3:1 found no "{" after Protocol Accept, which begins a block',
  ]);
  assert.deepEqual(problems("Sync { Options { ExpectationSync\nTCPWindowTracking on } }"), [
    '1:18 found nothing after "ExpectationSync", allowed is on, yes, off or no, or a list of names in braces',
  ]);
  assert.deepEqual(problems("Sync {\n udp {\n Port 5\n }\n}"), [
    '2:2 found "udp" in Sync (line 1), allowed is UDP: names are case-sensitive',
  ]);
});

test("values that are missing, too many or wrong", () => {
  const on = "allowed is on, yes, off or no";
  assert.deepEqual(general("HashSize\nHashLimit 5"), [`2:1 found nothing after "HashSize", ${NUMBER}`]);
  assert.deepEqual(general("HashSize 5 6\nHashLimit 5"), [
    '2:12 found "6" after HashSize 5, allowed is a directive: nothing more',
  ]);
  assert.deepEqual(general("HashSize 5;"), [`2:10 found "5;" after "HashSize", ${NUMBER}`]);
  assert.deepEqual(general("HashSize -5"), [`2:10 found "-5" after "HashSize", ${NUMBER}`]);
  assert.deepEqual(general("HashSize 99999999999"), [`2:10 found "99999999999" after "HashSize", ${NUMBER}`]);
  assert.deepEqual(general("Systemd true"), [`2:9 found "true" after "Systemd", ${on}`]);
  assert.deepEqual(general("PollSecs 0"), [
    '2:10 found "0" after "PollSecs", allowed is a whole number from 1 to 2147483647',
  ]);
  assert.deepEqual(general('LogFile "/var/log/x"'), [
    `2:9 found "\\"/var/log/x\\"" after "LogFile", ${on}, or an absolute path of at most 1024 bytes, without quotes; quotes have no meaning here`,
  ]);
  assert.deepEqual(general("LockFile lock"), [
    '2:10 found "lock" after "LockFile", allowed is an absolute path of at most 1024 bytes, without quotes',
  ]);
  assert.deepEqual(general("Scheduler { Type IDLE Priority 100 }"), [
    '2:18 found "IDLE" after "Type", allowed is RR or FIFO',
    '2:32 found "100" after "Priority", allowed is a whole number from 0 to 99',
  ]);
  assert.deepEqual(general("Nice -20 Nice +5 Nice 5"), []);
  assert.deepEqual(problems("Sync { UDP { Interface Port 3780 Port 99999 } }"), [
    '1:14 found nothing after "Interface", allowed is the name of a network interface, of at most 15 characters',
    '1:39 found "99999" after "Port", allowed is a whole number from 1 to 65535',
  ]);
});

test("addresses", () => {
  const link = (text: string) => problems(`Sync { UDP { ${text} } }`);
  assert.deepEqual(link("IPv4_address 300.0.0.1"), [
    '1:27 found "300.0.0.1" after "IPv4_address", allowed is an IPv4 address',
  ]);
  assert.deepEqual(link("IPv4_address 10.0.0.1/24"), [
    '1:27 found "10.0.0.1/24" after "IPv4_address", allowed is an IPv4 address',
  ]);
  assert.deepEqual(link("IPv6_address fe80::1%eth0"), [
    '1:27 found "fe80::1%eth0" after "IPv6_address", allowed is an IPv6 address without a scope',
  ]);
  assert.deepEqual(problems("Sync { Multicast { IPv4_address 10.0.0.1 } }"), [
    '1:33 found "10.0.0.1" after "IPv4_address", allowed is an IPv4 multicast group, such as 225.0.0.50',
  ]);
  const filter = (text: string) => general(`Filter { Address Ignore { ${text} } }`);
  assert.deepEqual(filter("IPv4_address 10.0.0.0/255.0.0.0"), [
    `2:40 found "10.0.0.0/255.0.0.0" after "IPv4_address", ${ADDRESS}`,
  ]);
  assert.deepEqual(filter("IPv4_address localhost"), [`2:40 found "localhost" after "IPv4_address", ${ADDRESS}`]);
  // conntrackd warns of these and goes on.
  assert.deepEqual(
    filter("IPv4_address 300.0.0.1 IPv4_address 10.0.0.0/33 IPv4_address ::1 IPv6_address 10.0.0.1"),
    [],
  );
});

test("states are those of TCP and end with it", () => {
  const state = (text: string) => general(`Filter { State Accept { ${text} } }`);
  assert.deepEqual(state("ESTABLISHED CLOSED for TCP TIME_WAIT for TCP"), []);
  assert.deepEqual(state(""), []);
  assert.deepEqual(state("ESTABLISHED"), [
    '2:25 found no "for TCP" after the words of State Accept (opened in line 2)',
  ]);
  assert.deepEqual(state("ESTABLISHED for SCTP"), [
    '2:37 found "for" without TCP, allowed is "for TCP"',
    '2:41 found "SCTP" in State Accept (opened in line 2), allowed is SYN_SENT or SYN_RECV or ESTABLISHED or FIN_WAIT or \
CLOSE_WAIT or LAST_ACK or TIME_WAIT or CLOSED or CLOSE or LISTEN',
  ]);
  assert.equal(state("established for TCP").length, 1);
  assert.deepEqual(problems("Sync { Replicate ESTABLISHED TIME_WAIT for TCP }"), []);
  assert.deepEqual(problems("Sync { Replicate ESTABLISHED }"), [
    '1:8 found no "for TCP" after "Replicate" and its words',
  ]);
});

test("a directive in the wrong place or of the wrong name says where and what is right", () => {
  const modes = "allowed is RefreshTime CacheTimeout CommitTimeout PurgeTimeout RelaxTransitions DelayDestroyMessages";
  assert.deepEqual(problems("Sync { Mode ALARM {\n DisableExternalCache on\n} }"), [
    `2:2 found "DisableExternalCache" in Mode ALARM (line 1), ${modes}; it belongs to Mode FTFW, Mode NOTRACK`,
  ]);
  assert.deepEqual(general("HashLimt 5"), ['2:1 found "HashLimt" in General (line 1), allowed is HashLimit']);
  assert.equal(general(`${"x".repeat(100_000)} { { } }`).length, 1);
  assert.ok(general(`${"x".repeat(100_000)}`)[0]!.length < 1000);
});

test("the size is bounded, and so is the number of complaints", () => {
  assert.match(problems(`#${"x".repeat(1024 ** 2)}`)[0]!, /^1:1 found 1048577 bytes, allowed is at most 1048576$/);
  assert.equal(problems("}\n".repeat(10_000)).length, 50);
  assert.ok(problems("Sync { ".repeat(10_000)).length <= 50);
});

test("conntrackd's files are told from conntrail's", () => {
  for (const text of [
    "Sync {\n}",
    "# a comment\n\nGeneral\n{ }",
    "General { }",
    "sync {",
    "Sync # comment\n{",
    "StripNAT\nSync { }",
    "Foo {",
    "}",
    "\uFEFFSync {",
    "General\n",
    "CommitTimeout 180\n",
    "general",
  ]) {
    assert.ok(isConntrackdConf(text), text);
  }
  for (const text of [
    "",
    "# Sync {\n",
    "cluster: edge\n",
    "# General {\ncluster: edge\nSync: {\n",
    "{ cluster: edge }",
    "---\ncluster: edge",
    "Sync: { }",
    "general: 5",
    "cluster edge",
    '"cluster": edge',
  ]) {
    assert.ok(!isConntrackdConf(text), text);
  }
});
