/** What drives conntrackd in the field, with bin/conntrackd in its place: Pacemaker's agent, VyOS, Debian's own test. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { clusterObstacle } from "../support/cluster/cluster.js";
import { CONNTRACKD, ConntrackdHost } from "../support/conntrackd-host.js";
import { conntrackdPackageTests, resourceAgents } from "../support/distribution.js";
import { parseXmlLine, textAt } from "../support/xml-line.js";

const WAIT_MS = 30_000;
const ORACLE = "/usr/sbin/conntrackd";
const CONNTRAIL = join(dirname(CONNTRACKD), "conntrail");

/** A connection that was made elsewhere. */
function insert(host: ConntrackdHost, sport: number): Promise<string> {
  const flow = `-I -p tcp -s 10.1.1.1 -d 10.2.2.2 --sport ${sport} --dport 80 --state ESTABLISHED -t 300 -u SEEN_REPLY,ASSURED`;
  return host.exec("conntrack", ...flow.split(" "));
}

async function kernelHas(host: ConntrackdHost, sport: number): Promise<boolean> {
  return (await host.exec("conntrack", "-L", "-p", "tcp", "--orig-port-src", String(sport))) !== "";
}

/** A directory of programs that comes first in PATH. */
function programs(host: ConntrackdHost, files: Readonly<Record<string, string>>): string {
  const directory = join(host.directory, "bin");
  mkdirSync(directory, { recursive: true });
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(join(directory, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  }
  return directory;
}

describe("in the field", { skip: clusterObstacle(), timeout: 200_000 }, () => {
  it("Pacemaker's agent starts, monitors, promotes, demotes and stops it as it does conntrackd", async (t) => {
    const found = resourceAgents();
    if ("missing" in found) return t.skip(found.missing);
    const [a, b] = await ConntrackdHost.pair();
    await using _b = b;
    await using _a = a;
    const root = resolve(found.directory);
    // The agent looks for the socket's path in a line of its own.
    for (const host of [a, b]) {
      const text = host.conf().replace(/UNIX \{(.*)\}/, "UNIX {\n$1\n}");
      await host.configure(text.replace("FTFW { }", "FTFW { PurgeTimeout 1 }"));
    }
    const acts = async (host: ConntrackdHost, binary: string, action: string): Promise<number> => {
      const meta = { master_max: 1, master_node_max: 1, clone_node_max: 1, interval: 0 };
      const env = [
        `OCF_ROOT=${root}`,
        `OCF_FUNCTIONS_DIR=${join(root, "lib", "heartbeat")}`,
        `OCF_RESKEY_binary=${binary}`,
        "OCF_RESOURCE_INSTANCE=conntrackd:0",
        "HA_RSCTMP=/run/resource-agents",
        // The scores that it gives the cluster.
        `HA_SBIN_DIR=${programs(host, { crm_master: "exit 0" })}`,
        ...Object.entries(meta).map(([name, value]) => `OCF_RESKEY_CRM_meta_${name}=${value}`),
      ];
      await host.exec("mkdir", "-p", "/run/resource-agents");
      return (await host.run("env", ...env, join(root, "resource.d", "heartbeat", "conntrackd"), action)).code;
    };
    const life = async (binary: string): Promise<Record<string, number>> => {
      const codes: Record<string, number> = {};
      const act = async (host: ConntrackdHost, action: string, step: string): Promise<void> => {
        codes[step] = await acts(host, binary, action);
      };
      await act(a, "monitor", "monitored before");
      await act(a, "start", "started");
      await act(a, "promote", "promoted");
      await act(a, "monitor", "monitored as primary");
      await insert(a, 1000);
      await act(b, "start", "peer started");
      await act(b, "monitor", "peer monitored");
      const shown = async () => (await b.run(binary, "-e")).stdout.includes(" sport=1000 ");
      await waitFor("the primary's flow", WAIT_MS, shown);
      await act(a, "demote", "demoted");
      await act(b, "promote", "peer promoted");
      assert.equal(await kernelHas(b, 1000), true);
      // Each has connections of its own all the time, which prove no second sync group.
      assert.equal((await a.run(binary, "-t")).code, 0);
      await waitFor("the purge", WAIT_MS, async () => !(await kernelHas(a, 1000)));
      await act(b, "demote", "peer demoted");
      for (const host of [a, b]) await act(host, "stop", `stopped ${host.number}`);
      await act(a, "monitor", "monitored after");
      for (const host of [a, b]) await host.exec("conntrack", "-F");
      return codes;
    };
    const here = await life(CONNTRACKD);
    assert.deepEqual([here["monitored as primary"], here.started, here["monitored after"]], [8, 0, 7]);
    if (existsSync(ORACLE)) assert.deepEqual(here, await life(ORACLE));
  });

  it("VyOS' file, transitions and commands", async () => {
    const [a, b] = await ConntrackdHost.pair();
    await using _b = b;
    await using _a = a;
    const conf = "/run/conntrackd/conntrackd.conf";
    for (const host of [a, b]) {
      await host.exec("mkdir", "-p", "/run/conntrackd");
      writeFileSync(join(host.directory, "vyos.conf"), vyosConf(host.number));
      await host.exec("cp", join(host.directory, "vyos.conf"), conf);
    }
    const ask = async (host: ConntrackdHost, ...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await host.conntrackd("-C", conf, ...args);
      assert.deepEqual([code, stderr], [0, ""], args.join(" "));
      return stdout;
    };
    const becomes = async (host: ConntrackdHost, ...requests: string[]): Promise<void> => {
      for (const request of requests) await ask(host, ...request.split(" "));
    };
    const MASTER = ["-c", "-c exp", "-f", "-R", "-B"];
    const BACKUP = ["-s", "-t", "-n"];
    await Promise.all([ask(a, "-d"), ask(b, "-d")]);
    assert.match(await a.exec("pgrep", "-x", "conntrackd"), /^\d+\n$/);
    await Promise.all([becomes(a, ...MASTER), becomes(b, ...BACKUP)]);
    await insert(a, 1000);
    const flows = async (host: ConntrackdHost, cache: string): Promise<(string | undefined)[]> => {
      const text = await ask(host, cache, "ct", "-x");
      const rows = text.split("\n").filter((line) => line !== "");
      return rows.map((line) => textAt(parseXmlLine(line).children[0], "layer4", "sport"));
    };
    await waitFor("the flow on both", WAIT_MS, async () => (await flows(b, "-e")).length === 1);
    assert.deepEqual([await flows(a, "-i"), await flows(b, "-e")], [["1000"], ["1000"]]);
    for (const cache of ["-i", "-e"]) assert.equal(await ask(a, cache, "expect", "-x"), "");
    // reset conntrack-sync external-cache, and internal-cache
    await becomes(b, "-f external", "-n");
    await waitFor("the flow again", WAIT_MS, async () => (await flows(b, "-e")).length === 1);
    await becomes(a, "-f internal", "-R", "-B");
    await waitFor("the flow again", WAIT_MS, async () => (await flows(a, "-i")).length === 1);
    // show conntrack-sync statistics
    assert.match(await ask(a, "-s"), /^cache internal:\ncurrent active connections:\t {11}1\n/);
    assert.match(await ask(a, "-s", "exp"), /^cache internal:\ncurrent active connections:\t {11}0\n/);
    await becomes(a, "-t");
    await becomes(b, ...MASTER);
    assert.equal(await kernelHas(b, 1000), true);
    await becomes(a, ...BACKUP.slice(1));
    await Promise.all([ask(a, "-k"), ask(b, "-k")]);
  });

  it("both side by side, as the page on migrating says, and back", {
    skip: existsSync(ORACLE) ? false : "needs conntrackd(8)",
  }, async () => {
    const [a, b] = await ConntrackdHost.pair();
    await using _b = b;
    await using _a = a;
    const count = async (host: ConntrackdHost, command: string): Promise<number> =>
      Number(await host.exec("sh", "-c", `${command.replace(/^conntrail/, CONNTRAIL)} | wc -l`));
    const conntrail = async (host: ConntrackdHost, ...words: string[]): Promise<void> => {
      const { code, stdout, stderr } = await host.run(CONNTRAIL, ...words);
      assert.equal(code, 0, stdout + stderr);
    };
    for (const host of [a, b]) {
      await host.exec(ORACLE, "-d");
      await host.exec("mkdir", "-p", "/etc/conntrail", "/run/conntrail");
    }
    await insert(a, 1000);
    const file = "/etc/conntrail/conntrail.yaml";
    const imported = ["import", "/etc/conntrackd/conntrackd.conf", "-o", file];
    await conntrail(a, ...imported);
    await a.exec("cp", "/etc/conntrail/10-9-8-2.bundle", b.directory);
    await conntrail(b, ...imported, "--bundle", join(b.directory, "10-9-8-2.bundle"));
    const [strip = ""] = /^ +sed .*$/m.exec(readFileSync("docs/migrating.md", "utf8")) ?? [];
    for (const host of [a, b]) {
      await host.exec("sh", "-c", strip);
      await conntrail(host, "check");
      host.spawn(CONNTRAIL, ["daemon"]);
    }
    for (const host of [a, b])
      await waitFor("sync", WAIT_MS, async () => (await host.run(CONNTRAIL, "status")).code === 0);
    await insert(a, 1001);
    await waitFor("the flows in all caches", WAIT_MS, async () => {
      const own = await Promise.all([`${ORACLE} -i`, "conntrail dump internal"].map((each) => count(a, each)));
      const peers = await Promise.all([`${ORACLE} -e`, "conntrail dump external"].map((each) => count(b, each)));
      return [...own, ...peers].every((each) => each === 2);
    });
    await conntrail(a, "hook", "primary");
    await conntrail(b, "hook", "backup");
    for (const host of [b, a]) await host.exec(ORACLE, "-k");
    await conntrail(b, "hook", "primary");
    assert.deepEqual([await kernelHas(b, 1000), await kernelHas(b, 1001)], [true, true]);

    for (const host of [a, b]) {
      await waitFor("conntrackd's end", WAIT_MS, async () => !(await host.has("/var/lock/conntrack.lock")));
      await host.exec(ORACLE, "-d");
      await waitFor("conntrackd", WAIT_MS, async () => (await host.run(ORACLE, "-s")).code === 0);
    }
    await a.exec(ORACLE, "-n");
    await waitFor("conntrackd's external cache", WAIT_MS, async () => (await count(a, `${ORACLE} -e`)) === 2);
  });

  it("the test of Debian's package", async (t: TestContext) => {
    const found = conntrackdPackageTests();
    if ("missing" in found) return t.skip(found.missing);
    await using host = await ConntrackdHost.create(1);
    // It gives the daemon time to start and to end; -d and -k return when that is done.
    const first = programs(host, { conntrackd: `exec ${CONNTRACKD} "$@"`, sleep: "exit 0" });
    const script = join(resolve(found.directory), "basic-daemon-test.sh");
    const { code, stdout, stderr } = await host.run("env", `PATH=${first}:/usr/sbin:/usr/bin:/sbin:/bin`, "sh", script);
    assert.equal(code, 0, stdout + stderr);
    assert.match(stderr, /INFO all tests OK/);
  });
});

/** A file as VyOS writes it for unicast, with everything that its configuration can add. */
function vyosConf(number: number): string {
  const policy = (name: string): string => `Policy ${name} { ExpectMax 1 ExpectTimeout 300 }`;
  return `### autogenerated ###
Sync {
    Mode FTFW {
        DisableExternalCache off
        StartupResync on
    }
    UDP {
        IPv4_address 10.9.8.${number}
        IPv4_Destination_Address 10.9.8.${3 - number}
        Port 3780
        Interface sync0
        SndSocketBuffer 1048576
        RcvSocketBuffer 1048576
        Checksum on
    }
    Options {
        ExpectationSync {
            ftp
            sip
        }
    }
}
Helper {
    Type rpc inet tcp { QueueNum 3 ${policy("rpc")} }
    Type rpc inet udp { QueueNum 4 ${policy("rpc")} }
    Type tns inet tcp { QueueNum 5 ${policy("tns")} }
}
General {
    HashSize 32768
    HashLimit 524288
    LogFile off
    Syslog on
    LockFile /var/lock/conntrack.lock
    UNIX {
        Path /var/run/conntrackd.ctl
    }
    NetlinkBufferSize 2097152
    NetlinkBufferSizeMaxGrowth 8388608
    NetlinkOverrunResync off
    NetlinkEventsReliable on
    Filter From Userspace {
        Address Ignore {
            IPv4_address 127.0.0.1
            IPv6_address ::1
        }
        Protocol Accept {
            TCP
            UDP
            ICMP
            IPv6-ICMP
        }
    }
}
`;
}
