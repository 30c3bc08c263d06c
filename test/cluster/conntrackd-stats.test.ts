/** Statistics alone (`Stats { LogFile }`): beside conntrackd itself, on the same kernel, line for line. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { clusterObstacle } from "../support/cluster/cluster.js";
import { CONNTRACKD, ConntrackdHost } from "../support/conntrackd-host.js";

const WAIT_MS = 30_000;
const ORACLE = "/usr/sbin/conntrackd";
const QUIET = { code: 0, stdout: "", stderr: "" };

const FLOWS = [
  "-p tcp -s 10.1.1.1 -d 10.2.2.2 --sport 1000 --dport 80 --state ESTABLISHED -u SEEN_REPLY,ASSURED --mark 7",
  "-p udp -s 10.1.1.1 -d 10.2.2.2 --sport 1000 --dport 53 --src-nat 192.0.2.1",
  "-p icmp -s 10.1.1.1 -d 10.2.2.2 --icmp-type 8 --icmp-code 0 --icmp-id 5 --zone 3",
  "-p sctp -s 10.1.1.1 -d 10.2.2.2 --sport 1000 --dport 80 --state ESTABLISHED --orig-vtag 5 --reply-vtag 6",
  "-p gre -s 10.1.1.1 -d 10.2.2.2 --srckey 1 --dstkey 2",
  "-p tcp -s 2001:db8::1 -d 2001:db8::2 --sport 1000 --dport 80 --state SYN_SENT",
];

/** Packets of a connection that is over and of one that waits for its answer. */
const TRAFFIC = `
const net = require("node:net"), dgram = require("node:dgram");
const server = net.createServer((socket) => socket.end("bye")).listen(8080, "127.0.0.1", () => {
  net.connect(8080, "127.0.0.1").on("data", () => {}).on("close", () => server.close());
});
const udp = dgram.createSocket("udp4");
udp.send("x", 9, "127.0.0.5", () => udp.close());`;

/** The two programs with a file each, which differ in nothing but where their own files are. */
class Beside {
  readonly host: ConntrackdHost;

  constructor(host: ConntrackdHost) {
    this.host = host;
  }

  file(name: string): string {
    return join(this.host.directory, name);
  }

  /** Starts both with this Stats block and more of General. */
  async start(stats: string, general = ""): Promise<void> {
    for (const [name, program] of [
      ["there", ORACLE],
      ["here", CONNTRACKD],
    ] as const) {
      const at = (ending: string): string => this.file(`${name}.${ending}`);
      const own = `LockFile ${at("lock")}\nUNIX {\n Path ${at("ctl")}\n }\nLogFile ${at("log")}\n`;
      const text = `Stats {\n${stats.replace("FILE", at("stats"))}\n}\nGeneral {\n${own}${general}\n}\n`;
      writeFileSync(at("conf"), text);
      assert.deepEqual(await this.host.run(program, "-C", at("conf"), "-d"), QUIET);
    }
  }

  /** What both answer; fails when it differs in more than ages. */
  async ask(...args: string[]): Promise<string> {
    const [there, here] = await Promise.all([
      this.host.run(ORACLE, "-C", this.file("there.conf"), ...args),
      this.host.run(CONNTRACKD, "-C", this.file("here.conf"), ...args),
    ]);
    assert.equal(here.code, there.code, args.join(" "));
    assert.equal(here.stderr, there.stderr, args.join(" "));
    assert.deepEqual(plainLines(here.stdout), plainLines(there.stdout), args.join(" "));
    return here.stdout;
  }

  /** The lines of a log without their times, in an order of their own: equal times, but the kernel's order. */
  log(name: "there" | "here"): string[] {
    const path = this.file(`${name}.stats`);
    return existsSync(path)
      ? readFileSync(path, "utf8")
          .split("\n")
          .filter((line) => line !== "")
      : [];
  }

  async flows(): Promise<void> {
    for (const flow of FLOWS) await this.host.exec("conntrack", "-I", "-t", "300", ...flow.split(" "));
  }

  async settled(lines: number): Promise<void> {
    await waitFor(`${lines} lines in both logs`, WAIT_MS, () =>
      (["there", "here"] as const).every((name) => this.log(name).length >= lines),
    );
  }

  async stop(): Promise<void> {
    assert.deepEqual(await this.host.run(CONNTRACKD, "-C", this.file("here.conf"), "-k"), QUIET);
    await this.host.run(ORACLE, "-C", this.file("there.conf"), "-k");
  }
}

/**
 * Lists have no order; dumps that are not taken in the same moment differ in ages, which conntrackd prints twice of flows
 * that a dump lists with their start. Its XML names SCTP's states out of TCP's table.
 */
function plainLines(text: string): string[] {
  const plain = text.replaceAll(/( delta-time=\d+)? \[active since \d+s/g, " [active since");
  const lines = plain.split("\n").map((line) => (line.includes('"sctp"') ? line.replace(/<state>\w+</, "<") : line));
  return text.startsWith("cache") || text.startsWith("daemon") ? lines : lines.sort();
}

function withoutTime(line: string): string {
  const [time, flow] = line.split("\t");
  assert.match(time ?? "", /^\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}$/);
  return flow ?? assert.fail(line);
}

describe("statistics alone", { skip: obstacle(), timeout: 200_000 }, () => {
  it("log and answers are conntrackd's, without a broker", async () => {
    await using host = await ConntrackdHost.create(1);
    const both = new Beside(host);
    await host.exec("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1");
    await host.exec(
      "sh",
      "-c",
      "echo 'table t { chain c { type filter hook output priority 0; ct state new accept; }; }' | nft -f -",
    );
    // There before the daemons are.
    await host.exec("conntrack", "-I", "-t", "300", ...FLOWS[0]!.replace("1000", "1001").split(" "));
    await both.start("LogFile FILE", "Filter From Userspace { Address Ignore { IPv4_address 127.0.0.9 } }");
    assert.doesNotMatch(await host.exec("ps", "-eo", "args"), /nats-server/);
    await host.exec("sysctl", "-qw", "net.netfilter.nf_conntrack_timestamp=1");
    await both.flows();
    await host.exec("node", "-e", TRAFFIC);
    await waitFor("the flows in both", WAIT_MS, async () => {
      const counts = await Promise.all(
        [ORACLE, CONNTRACKD].map((program, i) =>
          host.run(program, "-C", both.file(`${["there", "here"][i]}.conf`), "-i"),
        ),
      );
      return counts.every(({ stdout }) => stdout.split("\n").length === FLOWS.length + 4);
    });
    for (const part of ["", "ct", "cache", "network", "link", "rsqueue", "queue", "process", "expect", "exp"]) {
      await both.ask("-s", ...(part === "" ? [] : [part]));
    }
    assert.match(await both.ask("-s"), /^cache stats:\ncurrent active connections:\t {11}9\n/);
    for (const line of [
      "-i",
      "-i ct",
      "-i -x",
      "-i expect",
      "-e",
      "-e expect",
      "-e -x",
      "-n",
      "-B",
      "-c",
      "-t",
      "-f external",
    ]) {
      await both.ask(...line.split(" "));
    }
    await host.exec("conntrack", "-D");
    await both.settled(FLOWS.length + 3);
    const lines = both.log("here");
    assert.deepEqual(lines.map(withoutTime).sort(), both.log("there").map(withoutTime).sort());
    assert.match(
      lines.join("\n"),
      /\ttcp {6}6 \w+ src=127\.0\.0\.1 .*packets=\d+ bytes=\d+ .*\[ASSURED\] delta-time=\d+$/m,
    );
    assert.equal(statSync(both.file("here.stats")).mode & 0o777, 0o600);
    assert.match(await both.ask("-s"), /traffic processed:\n +[1-9]\d* Bytes +[1-9]\d* Pckts\n/);

    // What a flush has emptied of the cache is not logged.
    await both.flows();
    await waitFor("the flows in both", WAIT_MS, async () =>
      /connections:\t {11}6\n/.test(await both.ask("-s").catch(String)),
    );
    await both.ask("-f", "internal");
    await both.ask("-i");
    await host.exec("conntrack", "-D");
    await both.flows();
    await waitFor("the flows in both", WAIT_MS, async () =>
      /connections:\t {11}6\n/.test(await both.ask("-s").catch(String)),
    );
    await both.ask("-F");
    await both.settled(2 * FLOWS.length + 3);
    assert.deepEqual(both.log("here").map(withoutTime).sort(), both.log("there").map(withoutTime).sort());

    await both.flows();
    await both.ask("-R");
    await waitFor(
      "the flows in both",
      WAIT_MS,
      async () => (await both.ask("-i").catch(String)).split("\n").length === 7,
    );

    // logrotate
    renameSync(both.file("here.stats"), both.file("here.stats.1"));
    await host.exec("sh", "-c", `kill -HUP $(cat ${both.file("here.lock")})`);
    await waitFor("a new file", WAIT_MS, () => existsSync(both.file("here.stats")));
    await both.stop();
    assert.equal((await host.run(CONNTRACKD, "-C", both.file("here.conf"), "-s")).code, 1);
  });

  it("beside Sync, which conntrackd refuses, it is one more log", async () => {
    await using host = await ConntrackdHost.create(1);
    const file = join(host.directory, "ended");
    const lo = "TCP { IPv4_address 127.0.0.1\n IPv4_Destination_Address 127.0.0.1\n Port 3780\n Interface lo\n }";
    const synced = host.conf().replace(/UDP \{[^}]*\}/, lo);
    await host.configure(`${synced}Stats { LogFile ${file} }\n`);
    assert.deepEqual(await host.conntrackd("-d"), QUIET);
    await host.exec("conntrack", "-I", "-t", "300", ...FLOWS[1]!.split(" "));
    await waitFor("the flow", WAIT_MS, async () => (await host.conntrackd("-i")).stdout.includes(" sport=1000 "));
    await host.exec("conntrack", "-D", "-p", "udp", "--orig-port-dst", "53");
    await waitFor("its line", WAIT_MS, () => readFileSync(file, "utf8").includes(" sport=1000 dport=53 "));
    assert.match((await host.conntrackd("-s")).stdout, /^cache internal:\n/);
    assert.deepEqual(await host.conntrackd("-k"), QUIET);
  });

  it("syslog gets the lines too, and the filter applies", async () => {
    await using host = await ConntrackdHost.create(1);
    using syslog = host.syslog();
    const both = new Beside(host);
    // Without it in General, conntrackd forgets the facility.
    await both.start("Syslog on", "Syslog on\nFilter From Userspace { Protocol Accept { UDP } }");
    await both.flows();
    await waitFor("the flow in both", WAIT_MS, async () =>
      /connections:\t {11}1\n/.test(await both.ask("-s").catch(String)),
    );
    await host.exec("conntrack", "-D");
    const heard: string[] = [];
    await waitFor("two lines", WAIT_MS, () => {
      heard.push(...syslog.read().filter((line) => line.includes("sport=1000")));
      return heard.length >= 2;
    });
    const plain = heard.map((line) => line.replace(/^(<\d+>)\w{3} [ \d]\d [\d:]{8} (.*)\[\d+\]/, "$1$2").trim());
    assert.equal(plain[0], plain[1]);
    assert.match(plain[0] ?? "", /^<30>conntrack-tools: udp {6}17 src=10\.1\.1\.1 /);
    await both.stop();
  });
});

function obstacle(): string | false {
  return clusterObstacle() || (existsSync(ORACLE) ? false : "needs conntrackd(8)");
}
