/** bin/conntrackd in place of conntrackd: its files, its command line, the distribution's script, systemd. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { clusterObstacle } from "../support/cluster/cluster.js";
import { CONNTRACKD, ConntrackdHost } from "../support/conntrackd-host.js";
import { DatagramReader } from "../support/datagram-reader.js";
import { printfForm } from "../support/printf-form.js";
import { parseXmlLine, textAt } from "../support/xml-line.js";

const WAIT_MS = 30_000;
const LOCK = "/var/lock/conntrack.lock";
const SOCKET = "/var/run/conntrackd.ctl";
const SCRIPT = "/usr/share/doc/conntrackd/examples/sync/primary-backup.sh";
const QUIET = { code: 0, stdout: "", stderr: "" };

/** A file with the directives of the one that Debian's package tests itself with. */
const DEBIANS = `
Sync {
  Mode NOTRACK { DisableInternalCache on DisableExternalCache on }
  TCP {
    IPv4_address 127.0.0.1
    IPv4_Destination_Address 127.0.0.1
    Port 3780
    Interface lo
    Checksum on
    SndSocketBuffer 12492800
    RcvSocketBuffer 12492800
  }
  Options { ExpectationSync On }
}
General {
  Nice -20
  Scheduler { Type FIFO Priority 7 }
  Syslog on
  LockFile /var/lock/conntrackd.lock
  UNIX { Path /var/run/conntrackd.sock Backlog 20 }
  NetlinkBufferSize 8000000
  NetlinkBufferSizeMaxGrowth 80000000
  Filter { Address Ignore { IPv4_address 127.0.0.1 IPv6_address ::1 } }
  EventIterationLimit 10
}
`;

/** A flow that was made elsewhere; conntrack(8) puts it into the kernel. */
function insert(host: ConntrackdHost, sport: number, more: readonly string[] = []): Promise<string> {
  const flow = `-I -p tcp -s 10.1.1.1 -d 10.2.2.2 --sport ${sport} --dport 80 --state ESTABLISHED -t 300 -u SEEN_REPLY,ASSURED`;
  return host.exec("conntrack", ...flow.split(" "), ...more);
}

async function lines(host: ConntrackdHost, ...args: string[]): Promise<string[]> {
  const { code, stdout, stderr } = await host.conntrackd(...args);
  assert.equal(code, 0, stderr);
  return stdout.split("\n").filter((line) => line !== "");
}

describe("bin/conntrackd", { skip: clusterObstacle(), timeout: 400_000 }, () => {
  it("-d returns when the daemon is ready; -k when it is gone", async () => {
    const [host, other] = await ConntrackdHost.pair();
    await using _other = other;
    await using _host = host;
    const before = await host.conntrackd("-s");
    assert.equal(before.code, 1);
    assert.match(
      before.stderr,
      /\] \(pid=\d+\) \[ERROR\] can't connect: is conntrackd running\? appropriate permissions\?\n$/,
    );

    assert.deepEqual(await host.conntrackd("-d"), QUIET);
    assert.match(
      (await host.conntrackd("-s", "link")).stdout,
      /^UDP traffic device=sync0 status=RUNNING role=ACTIVE:\n/,
    );
    const pid = (await host.exec("cat", LOCK)).trim();
    assert.match(pid, /^\d+$/);
    assert.equal((await host.exec("readlink", `/proc/${pid}/cwd`)).trim(), "/");
    for (const search of [
      ["pgrep", "-x", "conntrackd"],
      ["pidof", "conntrackd"],
      ["pgrep", "-f", "conntrackd -d"],
      ["pgrep", "-f", "^conntrackd -d -C /etc/conntrackd/conntrackd.conf$"],
      ["ps", "-o", "pid=", "-C", "conntrackd"],
    ]) {
      const [file = "", ...args] = search;
      assert.equal((await host.exec(file, ...args)).trim(), pid, search.join(" "));
    }
    assert.equal((await host.exec("ps", "-o", "sid=", "-p", pid)).trim(), pid);
    for (const fd of [0, 1, 2])
      assert.equal((await host.exec("readlink", `/proc/${pid}/fd/${fd}`)).trim(), "/dev/null");

    for (const args of [["-d"], []]) {
      const { code, stdout, stderr } = await host.conntrackd(...args);
      assert.deepEqual({ code, stdout }, { code: 1, stdout: "" });
      assert.match(
        stderr,
        /\[ERROR\] lockfile `\/var\/lock\/conntrack\.lock' exists, perhaps conntrackd already running\?\n$/,
      );
    }
    assert.deepEqual(await host.conntrackd("-k"), QUIET);
    assert.equal(await host.has(LOCK), false);
    assert.equal(await host.has(SOCKET), false);
    assert.equal((await host.conntrackd("-k")).code, 1);
    assert.equal(host.log().at(-1), "ended");
  });

  it("-d says why it cannot start; a lock file of the dead is taken over, an empty one is not", async () => {
    const [host, other] = await ConntrackdHost.pair();
    await using _other = other;
    await using _host = host;
    await host.configure(host.conf().replace(host.logFile, "/none/log"));
    const unwritable = await host.conntrackd("-d");
    assert.equal(unwritable.code, 1);
    assert.match(unwritable.stderr, /\[ERROR\] log\.file \/none\/log cannot be written: ENOENT.*\n$/);
    await host.configure(host.conf("Bogus 1"));
    for (const args of [["-d"], ["-s"], []]) {
      const { code, stderr } = await host.conntrackd(...args);
      assert.equal(code, 1);
      assert.match(stderr, /\[ERROR\] \/etc\/conntrackd\/conntrackd\.conf:19:3: .*Bogus.*\n$/);
    }
    const missing = await host.conntrackd("-C", "/none", "-s");
    assert.deepEqual([missing.code, missing.stdout], [1, ""]);
    assert.match(missing.stderr, /\[ERROR\] can't open config file `\/none'\n$/);

    using syslog = host.syslog();
    await host.configure(host.conf("Nice -5\n  Syslog local5"));
    assert.equal((await host.conntrackd("-d")).code, 0);
    assert.ok(
      syslog.read().some((line) => /^<174>\w{3} [ \d]\d [\d:]{8} conntrail\[\d+\]: ready epoch=\d+ /.test(line)),
    );
    const pid = (await host.exec("cat", LOCK)).trim();
    assert.equal((await host.exec("ps", "-o", "ni=", "-p", pid)).trim(), "-5");
    assert.match(await host.exec("ps", "-o", "ni=,args=", "-e"), /^ *-5 \S*nats-server/m);
    await host.exec("kill", "-KILL", pid);
    await waitFor("the daemon's end", WAIT_MS, async () => (await host.conntrackd("-s")).code === 1);
    assert.equal(await host.has(LOCK), true);
    assert.deepEqual(await host.conntrackd("-d"), QUIET);
    assert.ok(host.log().includes("took over the lock file of a daemon that did not end cleanly"));
    assert.deepEqual(await host.conntrackd("-k"), QUIET);
    await host.exec("touch", LOCK);
    assert.match((await host.conntrackd("-d")).stderr, /lockfile `\/var\/lock\/conntrack\.lock' exists/);
  });

  it("each request prints and ends as conntrackd's own did", async () => {
    const [host, other] = await ConntrackdHost.pair();
    await using _other = other;
    await using _host = host;
    await host.conntrackd("-d");
    await insert(host, 1000);
    await waitFor("the flow", WAIT_MS, async () => (await lines(host, "-i")).length === 1);
    const captured = JSON.parse(readFileSync("test/golden/conntrackd/command-line.json", "utf8")) as {
      daemon?: boolean;
      args: string;
      code: number;
      stdout: string;
      stderr: string;
    }[];
    // How long its resend queue is, is a matter of the moment.
    const differs = /-k$|DIR\/conf$|rsqueue|-S/;
    const comparable = captured.filter(({ daemon, args }) => daemon === true && !differs.test(args));
    assert.ok(comparable.length > 30);
    for (const { args, code, stdout, stderr } of comparable) {
      const words = args.split(" ").map((word) => word.replace("DIR/conf", "/etc/conntrackd/conntrackd.conf"));
      const result = await host.conntrackd(...words);
      assert.equal(result.stderr === "", stderr === "", `${args}: ${result.stderr}`);
      assert.equal(result.code, code, args);
      const form = (text: string): string => printfForm(text.replace(/active since \d+s/, ""));
      if (!args.includes(" -i ct")) assert.equal(form(result.stdout), form(stdout), args);
    }
    // The captured list empties caches, and has the kernel read again.
    await waitFor("the flow again", WAIT_MS, async () => (await lines(host, "-i")).length === 1);
    assert.match(
      (await lines(host, "-i", "ct"))[0] ?? "",
      /^tcp {6}6 ESTABLISHED src=10\.1\.1\.1 .* \[ASSURED\] mark=0 \[active since \d+s\]$/,
    );
    assert.match((await lines(host, "-s", "rsqueue"))[0] ?? "", /^resent queue \(len=\d+\)$/);
    assert.deepEqual(await host.conntrackd("-F"), QUIET);
    assert.equal(await host.exec("conntrack", "-L", "-p", "tcp", "--dport", "80"), "");
  });

  it("XML can be read line by line; a link that is open in one direction brings that", async () => {
    const [a, b] = await ConntrackdHost.pair();
    await using _b = b;
    await using _a = a;
    await Promise.all([a.conntrackd("-d"), b.conntrackd("-d")]);
    for (const sport of [1000, 1001, 1002]) await insert(a, sport, ["--mark", String(sport)]);
    await insert(a, 1003, ["--src-nat", "192.0.2.1"]);
    await waitFor("the flows on both", WAIT_MS, async () => (await lines(b, "-e")).length === 4);
    for (const [host, option] of [
      [a, "-i"],
      [b, "-e"],
    ] as const) {
      const flows = (await lines(host, option, "-x")).map(parseXmlLine);
      assert.deepEqual(
        flows.map(({ name }) => name),
        ["flow", "flow", "flow", "flow"],
      );
      const ports = flows.map((flow) => {
        const [original, reply, independent] = flow.children;
        assert.equal(original?.attributes.direction, "original");
        assert.equal(textAt(original, "layer3", "src"), "10.1.1.1");
        assert.equal(original?.children[1]?.attributes.protoname, "tcp");
        assert.equal(reply?.attributes.direction, "reply");
        assert.equal(independent?.attributes.direction, "independent");
        assert.equal(textAt(independent, "state"), "ESTABLISHED");
        return Number(textAt(original, "layer4", "sport"));
      });
      assert.deepEqual(ports.sort(), [1000, 1001, 1002, 1003]);
    }
    assert.deepEqual(await b.conntrackd("-f", "ext"), QUIET);
    assert.deepEqual(await lines(b, "-e"), []);
    assert.deepEqual(await b.conntrackd("-n"), QUIET);
    await waitFor("the peer's cache again", WAIT_MS, async () => (await lines(b, "-e")).length === 4);

    // A link on which one node reaches the other, and not the reverse: it has what it can have, and the rest comes later.
    const rule =
      "add table ip w; add chain ip w in { type filter hook input priority 0; }; add rule ip w in tcp dport 3780 drop";
    await a.exec("nft", rule);
    await insert(a, 1004);
    await insert(b, 1005);
    const has = async (host: ConntrackdHost, sport: number) =>
      (await lines(host, "-e")).some((line) => line.includes(` sport=${sport} `));
    await waitFor("the flow by the way that is open", WAIT_MS, () => has(a, 1005));
    assert.equal(await has(b, 1004), false);
    await a.exec("nft", "delete table ip w");
    await waitFor("the flow by the other way", WAIT_MS, () => has(b, 1004));
  });

  it("the distribution's primary-backup.sh works with another path of the program", {
    skip: scriptMissing(),
  }, async () => {
    const [a, b] = await ConntrackdHost.pair();
    await using _b = b;
    await using _a = a;
    const file = scriptIn(a);
    for (const host of [a, b]) await host.configure(host.conf().replace("FTFW { }", "FTFW { PurgeTimeout 1 }"));
    using syslogA = a.syslog();
    using syslogB = b.syslog();
    const becomes = async (host: ConntrackdHost, state: string) => {
      const { code, stderr } = await host.run("sh", file, state);
      return { code, stderr, logged: [...syslogA.read(), ...syslogB.read()].map((line) => line.replace(/^.*?: /, "")) };
    };
    const clean = { code: 0, stderr: "", logged: [] };
    assert.deepEqual(await a.conntrackd("-d"), QUIET);
    assert.deepEqual(await becomes(a, "primary"), clean);
    await insert(a, 1000);
    // No daemon runs here, and one before it was killed: the script removes its lock and starts another.
    await b.exec("touch", LOCK);
    const started = await becomes(b, "backup");
    assert.equal(started.code, 0, started.stderr);
    assert.match(started.stderr, /^\[.*\[ERROR\] can't connect: is conntrackd running\? appropriate permissions\?\n$/);
    assert.equal(started.logged[0], "WARNING: conntrackd was not cleanly stopped.");
    assert.doesNotMatch(started.logged.join("\n"), /ERROR/);
    await waitFor("the primary's flow", WAIT_MS, async () => (await lines(b, "-e")).length === 1);
    assert.deepEqual(await becomes(b, "backup"), clean);

    assert.deepEqual(await becomes(b, "primary"), clean);
    assert.match(
      await b.exec("conntrack", "-L", "-p", "tcp", "--dport", "80"),
      /ESTABLISHED src=10\.1\.1\.1 .*\[ASSURED\]/,
    );
    // The script empties the caches, and has the kernel read again, which is answered when it has begun.
    await waitFor("the committed flow its own", WAIT_MS, async () => (await lines(b, "-i")).length === 1);
    assert.deepEqual(await becomes(a, "backup"), clean);
    await waitFor("the new primary's flow", WAIT_MS, async () => (await lines(a, "-e")).length === 1);
    // The brokers' connections between the two pass all the time, and prove no second sync group.
    await waitFor(
      "the purge",
      WAIT_MS,
      async () => (await a.exec("conntrack", "-L", "-p", "tcp", "--dport", "80")) === "",
    );
    assert.deepEqual(await becomes(a, "fault"), clean);
    assert.equal((await a.run("sh", file, "nonsense")).code, 1);
  });

  it("links of the field: to oneself on lo, of link-local addresses, of an interface with several", async () => {
    const [a, b] = await ConntrackdHost.pair();
    await using _b = b;
    await using _a = a;
    const link = /UDP \{[^}]*\}/;
    await a.configure(DEBIANS);
    assert.deepEqual(await a.conntrackd("-d"), QUIET);
    assert.match((await lines(a, "-s"))[0] ?? "", /^internal bypass:$/);
    const scheduled = await a.exec("ps", "-o", "cls=,rtprio=,comm=", "-e", "-L");
    for (const name of ["conntrackd", "nats-server"]) assert.match(scheduled, new RegExp(`^ *FF +7 ${name}$`, "m"));
    assert.deepEqual(await a.conntrackd("-k"), QUIET);
    assert.equal(await a.has("/var/lock/conntrackd.lock"), false);

    const passes = async (sport: number): Promise<void> => {
      assert.deepEqual([await a.conntrackd("-d"), await b.conntrackd("-d")], [QUIET, QUIET]);
      await insert(a, sport);
      const shown = new RegExp(` sport=${sport} `);
      await waitFor(`the flow ${sport}`, WAIT_MS, async () => shown.test((await b.conntrackd("-e")).stdout));
      assert.deepEqual([await a.conntrackd("-k"), await b.conntrackd("-k")], [QUIET, QUIET]);
    };
    for (const host of [a, b]) {
      await host.exec("ip", "addr", "add", `fe80::${host.number}/64`, "dev", "sync0", "nodad");
      const ends = `IPv6_address fe80::${host.number}\n IPv6_Destination_Address fe80::${3 - host.number}`;
      await host.configure(host.conf().replace(link, `UDP { ${ends}\n Port 3780\n Interface sync0\n }`));
    }
    await passes(1000);

    await a.exec("ip", "addr", "add", "10.9.7.1/24", "dev", "sync0");
    await b.exec("ip", "addr", "add", "10.9.7.2/24", "dev", "sync0");
    const unnamed = "UDP { IPv4_Destination_Address 10.9.7.2\n Port 3780\n Interface sync0\n }";
    await a.configure(a.conf().replace(link, unnamed));
    await b.configure(b.conf().replaceAll("10.9.8.", "10.9.7."));
    await passes(1001);
  });

  it("daemons in two network namespaces of a host run side by side", async () => {
    const [host, other] = await ConntrackdHost.pair();
    await using _other = other;
    await using _host = host;
    await host.exec("ip", "netns", "add", "lb2");
    const inside = (...words: string[]) => host.run("ip", "netns", "exec", "lb2", ...words);
    for (const line of [
      "link set lo up",
      "link add sync0 type veth peer name sync1",
      "addr add 10.9.8.1/24 dev sync0",
      "link set sync0 up",
    ])
      await host.exec("ip", "-n", "lb2", ...line.split(" "));
    await inside("sysctl", "-qw", "net.netfilter.nf_conntrack_events=1");
    const conf = join(host.directory, "lb2.conf");
    const own = { "conntrack.lock": "lb2.lock", "conntrackd.ctl": "lb2.ctl", [host.logFile]: `${host.logFile}2` };
    const text = Object.entries(own).reduce((before, [from, to]) => before.replace(from, to), host.conf());
    writeFileSync(conf, text);
    assert.deepEqual(await host.conntrackd("-d"), QUIET);
    assert.deepEqual(await inside(CONNTRACKD, "-C", conf, "-d"), QUIET);
    await insert(host, 1000);
    await waitFor("the flow", WAIT_MS, async () => (await lines(host, "-i")).length === 1);
    assert.deepEqual(await inside(CONNTRACKD, "-C", conf, "-i"), QUIET);
    assert.equal(await host.has("/var/lib/conntrail/instances/var-run-lb2.ctl/jetstream"), true);
    assert.deepEqual(await inside(CONNTRACKD, "-C", conf, "-k"), QUIET);

    const same = await inside("env", "CONNTRAIL_STORE=/var/lib/conntrail", CONNTRACKD, "-C", conf, "-d");
    assert.equal(same.code, 1);
    assert.match(
      same.stderr,
      /the store of \/var\/lib\/conntrail\/nats\.conf is in use by the conntrail with process id \d+/,
    );
  });

  it("starts although the link, and so the nodes, have other addresses than before", async () => {
    const [a, b] = await ConntrackdHost.pair();
    await using _b = b;
    await using _a = a;
    assert.deepEqual([await a.conntrackd("-d"), await b.conntrackd("-d")], [QUIET, QUIET]);
    const copy = "/var/lib/conntrail/jetstream/$G/streams/CT_10-9-8-2";
    await waitFor("the copy of the peer's stream", WAIT_MS, () => a.has(copy));
    assert.deepEqual(await a.conntrackd("-k"), QUIET);
    await a.exec("ip", "addr", "add", "10.9.7.1/24", "dev", "sync0");
    await a.configure(a.conf().replaceAll("10.9.8.", "10.9.7."));
    assert.deepEqual(await a.conntrackd("-d"), QUIET);
    assert.ok(a.log().includes("the store has streams of nodes that the configuration does not name"));
  });

  it("a request waits for a daemon that starts, so the script starts no second one", {
    skip: scriptMissing(),
  }, async () => {
    const [host, other] = await ConntrackdHost.pair();
    await using _other = other;
    await using _host = host;
    using syslog = host.syslog();
    const broker = (await host.exec("sh", "-c", "command -v nats-server")).trim();
    const slow = `#!/bin/sh\ncase "$*" in *-c*) while [ ! -e /run/go ]; do sleep 0.05; done;; esac\nexec /run/nats-server "$@"\n`;
    writeFileSync(join(host.directory, "slow"), slow, { mode: 0o755 });
    await host.exec("touch", "/run/nats-server");
    await host.exec("mount", "--bind", broker, "/run/nats-server");
    await host.exec("mount", "--bind", join(host.directory, "slow"), broker);
    const started = host.conntrackd("-d");
    await waitFor("its control socket", WAIT_MS, () => host.has(SOCKET));
    let answered = false;
    const script = host.run("sh", scriptIn(host), "backup").then((result) => {
      answered = true;
      return result;
    });
    await waitFor("the script's request", WAIT_MS, async () =>
      (await host.exec("ps", "-eo", "args")).includes(" -s\n"),
    );
    assert.equal(answered, false);
    await host.exec("touch", "/run/go");
    assert.deepEqual(await started, QUIET);
    const { code, stderr } = await script;
    assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
    assert.deepEqual(
      syslog.read().filter((line) => / (WARNING|ERROR): /.test(line)),
      [],
    );
  });

  it("a unit of Type=notify is told of the start, of life and of the end; logrotate gets a new file; HUP applies what it can", async () => {
    const [host, other] = await ConntrackdHost.pair();
    await using _other = other;
    await using _host = host;
    using reader = new DatagramReader(join(host.directory, "notify"));
    const daemon = host.spawn(CONNTRACKD, ["-C", "/etc/conntrackd/conntrackd.conf"], {
      NOTIFY_SOCKET: reader.path,
      WATCHDOG_USEC: "200000",
    });
    const heard: string[] = [];
    await waitFor("three signs of life", 30_000, () => {
      heard.push(...reader.read());
      return heard.filter((text) => text === "WATCHDOG=1").length >= 3;
    });
    assert.match(heard[0] ?? "", /^STATUS=starting/);
    assert.match(heard.find((text) => text.startsWith("READY=")) ?? "", /^READY=1\nMAINPID=\d+/);

    renameSync(host.logFile, `${host.logFile}.1`);
    await host.exec("sh", "-c", `kill -HUP $(cat ${LOCK})`);
    await waitFor("a new log file", WAIT_MS, () => host.log().includes("reloaded"));
    assert.match(readFileSync(`${host.logFile}.1`, "utf8"), /"msg":"ready"/);

    const changes = {
      "FTFW { }": "FTFW { CommitTimeout 77 }",
      "HashLimit 4096": "HashLimit 5000",
      "Sync On": "Sync Off",
    };
    const moved = { "Address 10.9.8.2": "Address 10.9.8.3", "Port 3780": "Port 3781", "{ VRRP }": "{ VRRP UDP }" };
    const differs = Object.entries({ ...changes, ...moved });
    await host.configure(differs.reduce((text, [from, to]) => text.replace(from, to), host.conf()));
    await host.exec("sh", "-c", `kill -HUP $(cat ${LOCK})`);
    const inPart = "reloaded in part: what is named restart needs a restart";
    await waitFor("the reload", WAIT_MS, () => host.log().includes(inPart));
    const line = readFileSync(host.logFile, "utf8").match(new RegExp(`^.*${inPart}.*$`, "m"))?.[0] ?? "{}";
    const { applied, restart } = JSON.parse(line) as Readonly<Record<"applied" | "restart", string[]>>;
    assert.deepEqual(
      [applied.sort(), restart.sort()],
      [
        ["cache.limit", "commit.timeout", "expectations", "filter.protocols", "peers.10-9-8-3"],
        ["broker.port", "peers.10-9-8-2"],
      ],
    );

    const ended = once(daemon, "exit");
    assert.deepEqual(await host.conntrackd("-C", "/etc/conntrackd/conntrackd.conf", "-k"), QUIET);
    assert.deepEqual(await ended, [0, null]);
    assert.ok(reader.read().some((text) => text.startsWith("STOPPING=1")));
  });
});

/** The distribution's script with the path of another program in it. */
function scriptIn({ directory }: ConntrackdHost): string {
  const script = readFileSync(SCRIPT, "utf8").replace(/^CONNTRACKD_BIN=.*$/m, `CONNTRACKD_BIN=${CONNTRACKD}`);
  const file = join(directory, "primary-backup.sh");
  writeFileSync(file, script, { mode: 0o755 });
  return file;
}

function scriptMissing(): string | false {
  return existsSync(SCRIPT) ? false : `needs ${SCRIPT}, of Debian's package conntrackd`;
}
