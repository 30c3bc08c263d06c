/**
 * What conntrackd itself takes and refuses in its configuration, and where it says the mistake is, beside what is read
 * here. Each file is tried in a namespace of its own, with a lock and a socket of its own.
 */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { checkConntrackdConf } from "../../src/conntrackd/conf.js";
import { KernelNamespace, kernelAvailable } from "../support/kernel-namespace.js";

const PROGRAM = "/usr/sbin/conntrackd";
const skip = kernelAvailable() ?? (existsSync(PROGRAM) ? false : "needs conntrackd(8)");

const MODE = "Mode FTFW { }";
const LINK = "UDP { IPv4_address 127.0.0.1 IPv4_Destination_Address 127.0.0.2 Port 3799 Interface lo }";

/** What may stand in General, one file each. */
const GENERAL = [
  ...["Nice -20", "Nice +5", "Systemd on", "Systemd yes", "Systemd 1", "HashSize 1", "HashSize -1", "HashSize 5x"],
  ...["HashSize 0x10", "HashSize\n5", "HashSize 5 HashLimit 6", "HashSize 5 6", "HashSize 5# c", "HashSize 5 // c"],
  ...["HashSize 5;", "HashSize", "HashLimit 0", "LogFile off", "LogFile NO", "LogFile true", 'LogFile "/tmp/x"'],
  ...["LogFile x.log", "Syslog off", "Syslog kern", "Lockfile /tmp/x", "LockFile lock", "NetlinkBufferSize 5"],
  ...[
    "NetlinkBufferSizeMaxGrowth 1",
    "SocketBufferSize 5",
    "SocketBufferSizeMaxGrown 5",
    "SocketBufferSizeMaxGrowth 7",
  ],
  ...["NetlinkOverrunResync on", "NetlinkOverrunResync 0", "NetlinkOverrunResync off", "NetlinkOverrunResync -1"],
  ...["NetlinkEventsReliable Off", "NetlinkEventsReliable 1", "PollSecs 0", "PollSecs 5", "EventIterationLimit 0"],
  ...["Scheduler { Type x }", "Scheduler { Priority 100 }", "Scheduler { }", "UNIX { Backlog 20 }", "UNIX { }"],
  ...['UNIX { Path "/x" }', "Helper { }", "Foo on", "hashsize 1", "Filter { }", "Filter From Kernelspace { }"],
  ...[
    "Filter From kernelspace { }",
    "Filter Userspace { }",
    "Filter From { }",
    "}",
    "{ }",
    "UNIX { Path /x",
    "General { }",
  ],
];

/** What may stand in a filter. */
const FILTER = [
  ...["Protocol Accept { }", "Protocol Ignore { TCP UDP ICMP IPv6-ICMP SCTP DCCP UDPLite GRE }", "Protocol { TCP }"],
  ...[
    "Protocol Accept { tcp esp Foo }",
    "Protocol Accept { 47 }",
    "Protocol accept { TCP }",
    "Protocol Accept { TCP, UDP }",
  ],
  ...["Protocol Accept { TCP } Protocol Ignore { UDP }", "Protocol Accept { Path }", "Protocol Accept { on }"],
  ...["Address Ignore { }", "Address Accept { IPv4_address 10.0.0.0/8 IPv6_address 2001:db8::/32 }"],
  ...["Address Ignore { IPv4_address 300.1.1.1 }", "Address Ignore { IPv4_address 10.0.0.0/33 }"],
  ...["Address Ignore { IPv4_address ::1 IPv6_address 10.0.0.1 IPv6_address 12345::1 IPv6_address ::1/129 }"],
  ...["Address Ignore { IPv4_address 10.0.0.0/255.0.0.0 }", "Address Ignore { IPv4_address }"],
  ...[
    "Address Ignore { 10.0.0.1 }",
    "Address Ignore { IPv4_address 10.0.1 }",
    "Address Ignore { IPv6_address fe80::1%lo }",
  ],
  ...[
    "Address Ignore { IPv6_address ::}",
    "Address Ignore{IPv4_address 0.0.0.0/0}",
    "Address Ignore { IPv4_address 010.0.0.1 }",
  ],
  ...["State Accept { ESTABLISHED CLOSED TIME_WAIT CLOSE_WAIT for TCP }", "State Accept { ESTABLISHED }"],
  ...[
    "State Ignore { SYN_SENT SYN_RECV FIN_WAIT LAST_ACK CLOSE LISTEN for TCP }",
    "State Accept { ESTABLISHED for SCTP }",
  ],
  ...["State Accept { for TCP }", "State Accept { }", "State Accept { ESTABLISHED for TCP CLOSE for TCP }"],
  ...["State Accept { established for TCP }", "State Accept { NONE for TCP }", "State Accept { ESTABLISHED for tcp }"],
];

/** What may stand in Sync beside a mode and a link. */
const SYNC = [
  ...["RefreshTime 5 CacheTimeout 5 CommitTimeout 5 PurgeTimeout 5", "StartupResync yes", "Options { }"],
  ...["Options { TCPWindowTracking Yes ExpectationSync { ftp sip q.931 } }", "Options { ExpectationSync { } }"],
  ...[
    "Options { ExpectationSync { ftp_x } }",
    "Options { ExpectationSync { 9p } }",
    "Options { ExpectationSync { FTFW } }",
  ],
  ...["Options { ExpectationSync { SYN_SENT } }", "Options { Checksum on }", "Port 3780", "UDP { ErrorQueueLength 5 }"],
  ...[
    "UDP { Group 3780 }",
    "UDP { IPv4_interface 10.0.0.1 }",
    "UDP { IPv4_address localhost }",
    "UDP { Interface UDP }",
  ],
  ...[
    "UDP { Interface on }",
    "UDP { Interface eth0:1 }",
    "UDP { Interface 0eth }",
    "UDP default { }",
    "UDP Default Default { }",
  ],
];

const MODES = [
  ...["Mode FTFW { ResendQueueSize 1 ACKWindowSize 2 DisableExternalCache yes StartupResync no PurgeTimeout 4 }"],
  ...["Mode ftfw { }", "Mode NACK { }", "Mode Alarm { RefreshTime 1 CacheTimeout 2 CommitTimeout 3 PurgeTimeout 4 }"],
  ...[
    "Mode ALARM { StartupResync on }",
    "Mode ALARM { DisableExternalCache on }",
    "Mode FTFW { DisableInternalCache on }",
  ],
  ...[
    "Mode NOTRACK { DisableInternalCache on DisableExternalCache on StartupResync on PurgeTimeout 2 }",
    "",
    "Mode FTFW",
  ],
  ...[
    "Mode FTFW { CacheTimeout 3 }",
    "Mode FTFW { CommitTimeout -5 }",
    "mode FTFW { }",
    "Mode FTFW { PurgeTimeout 0 }",
  ],
  ...["Mode FTFW { } Mode ALARM { }", 'Mode FTFW { DisableExternalCache "on" }', "Mode { }", "Mode OTHER { }"],
];

/** Refused there, taken here: what older releases took, and what only a scanner's rule forbids. */
const TAKEN_HERE = [
  ...["Nice 5", "Family IPv4", "LockFile /tmp/conntrail-none\t# a tab before a comment"],
  ...["Filter { Address Ignore { IPv6_address 1:2:3:4:5:6:7:8:9 } }"],
];
const TAKEN_HERE_IN_SYNC = [
  ...["Checksum on", "RelaxTransitions", "DelayDestroyMessages", "ListenTo 1.2.3.4", "Replicate ESTABLISHED for TCP"],
  ...["CacheWriteThrough On", "DestroyTimeout 5"],
];

/** Taken there, refused here: what it would not use as it is written. */
const TAKEN_THERE = ["HashLimit 99999999999", "LogFile o|"];

interface Parts {
  mode?: string;
  sync?: string;
  general?: string;
}

class Oracle {
  readonly #namespace: KernelNamespace;
  readonly #directory = mkdtempSync(join(tmpdir(), `conntrail-conf-${process.pid}-`));
  #files = 0;

  constructor(namespace: KernelNamespace) {
    this.#namespace = namespace;
  }

  text({ mode = MODE, sync = "", general = "" }: Parts): string {
    const [lock, socket] = [join(this.#directory, "lock"), join(this.#directory, "ctl")];
    return `Sync {\n${mode}\n${LINK}\n${sync}\n}\nGeneral { LockFile ${lock}\nUNIX { Path ${socket}\n }\n${general}\n}\n`;
  }

  /** True when conntrackd starts with this file, else the line in which it sees a mistake; null where it names none. */
  async asks(text: string): Promise<true | number | null> {
    const file = join(this.#directory, `${this.#files++}.conf`);
    writeFileSync(file, text);
    for (const name of ["lock", "ctl"]) rmSync(join(this.#directory, name), { force: true });
    const child = this.#namespace.spawn(PROGRAM, ["-C", file], { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    let started = false;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (chunk: Buffer) => {
        output += chunk.toString();
        started ||= output.includes("starting in console mode");
        if (started) child.kill("SIGKILL");
      });
    }
    await new Promise((resolve) => child.once("close", resolve));
    if (started) return true;
    const line = /parsing config file in line \((\d+)\)/.exec(output)?.[1];
    return line === undefined ? null : Number(line);
  }

  close(): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

async function withOracle(act: (oracle: Oracle) => Promise<void>): Promise<void> {
  await using namespace = await KernelNamespace.create();
  const oracle = new Oracle(namespace);
  try {
    await act(oracle);
  } finally {
    oracle.close();
  }
}

test("what conntrackd takes is taken here, and what it refuses is refused, no later in the file", {
  skip,
}, async () => {
  const all: Parts[] = [
    ...GENERAL.map((general) => ({ general })),
    ...FILTER.map((filter) => ({ general: `Filter From Userspace { ${filter} }` })),
    ...SYNC.map((sync) => ({ sync })),
    ...MODES.map((mode) => ({ mode })),
  ];
  await withOracle(async (oracle) => {
    for (const parts of all) {
      const text = oracle.text(parts);
      const there = await oracle.asks(text);
      const here = checkConntrackdConf(text, "c.conf");
      assert.equal(here.ok, there === true, `${JSON.stringify(parts)}: conntrackd ${there}`);
      if (!here.ok && there !== null) assert.ok(here.problems[0]!.line <= Number(there), JSON.stringify(parts));
    }
  });
});

test("the differences are those that are meant", { skip }, async () => {
  await withOracle(async (oracle) => {
    const here = (text: string): boolean => checkConntrackdConf(text, "c.conf").ok;
    const more = [...TAKEN_HERE.map((general) => ({ general })), ...TAKEN_HERE_IN_SYNC.map((sync) => ({ sync }))];
    for (const text of more.map((parts) => oracle.text(parts))) {
      assert.notEqual(await oracle.asks(text), true, text);
      assert.ok(here(text), text);
    }
    for (const text of TAKEN_THERE.map((general) => oracle.text({ general }))) {
      assert.equal(await oracle.asks(text), true, text);
      assert.ok(!here(text), text);
    }
  });
});
