#!/usr/bin/env bash
# Captures what conntrackd's command line says and how it ends, for command-line.json or the file that is named: first with
# no daemon, then with one in mode FTFW and one flow in its cache. Needs root, conntrackd, conntrack and iproute2.
set -euo pipefail
file=${1:-$(cd "$(dirname "$0")" && pwd)/command-line.json}
ns=ctgold-cli-$$
dir=$(mktemp -d)
clean() {
  if [ -S "$dir/ctl" ]; then conntrackd -C "$dir/conf" -k || true; fi
  ip netns del "$ns" 2>/dev/null || true
  rm -rf "$dir"
}
trap clean EXIT

ip netns add "$ns"
ip -n "$ns" link set lo up
ip -n "$ns" link add sync0 type veth peer name sync1
ip -n "$ns" link set sync1 up
ip -n "$ns" addr add 10.9.8.1/24 dev sync0
ip -n "$ns" link set sync0 up
ip netns exec "$ns" sysctl -qw net.netfilter.nf_conntrack_events=1
cat >"$dir/conf" <<CONF
Sync {
  Mode FTFW { }
  UDP {
    IPv4_address 10.9.8.1
    IPv4_Destination_Address 10.9.8.2
    Port 3780
    Interface sync0
    Checksum on
  }
  Options { ExpectationSync On }
}
General {
  HashSize 1024
  HashLimit 4096
  LogFile $dir/log
  LockFile $dir/lock
  UNIX { Path $dir/ctl }
  Filter From Userspace { Protocol Ignore { VRRP } }
}
CONF
printf 'Sync {\n  Mode FTFW {\n  }\n Bogus 1\n}\n' >"$dir/bad"

FILE=$file NS=$ns DIR=$dir node --input-type=module <<'JS'
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
const { FILE, NS, DIR } = process.env;
const enter = (...args) => spawnSync("ip", ["netns", "exec", NS, ...args], { encoding: "utf8", timeout: 10_000 });
const cases = [];
const clean = (text) => text.replaceAll(DIR, "DIR").replace(/^\[\w{3} \w{3} [ \d]\d [\d:]+ \d+\] \(pid=\d+\)/gm, "[TIME] (pid=PID)");
const run = (line, daemon) => {
  const args = line.split(" ").filter((word) => word !== "");
  const { status, stdout, stderr } = enter("conntrackd", ...args.map((word) => word.replace("DIR", DIR)));
  cases.push({ daemon, args: line, code: status, stdout: clean(stdout), stderr: clean(stderr) });
};
const C = "-C DIR/conf";
for (const line of ["-h", "-v", "-z", "foo", "-", "--help", "--version", "-x", "-s -x", "-d -s", "-i -d", "-s -S", "-s -C",
  "-C DIR/none -s", "-C DIR/none", "-C DIR/bad -s", "-C DIR/bad"]) run(line, false);
for (const line of ["-s", "-c", "-i", "-e", "-f", "-F", "-R", "-B", "-n", "-t", "-k", "-s network", "-i -x", "-x -i", "-s bogus",
  "-f bogus", "-c bogus", "-i bogus", "-F bogus", "-R bogus", "-B bogus", "-t ct", "-n x", "-k x", "-s internalx", "-s multicast", "-s m", "-iz",
  "-stats"]) run(`${C} ${line}`, false);
run(`${C} -d`, false);
for (const deadline = Date.now() + 5000; !existsSync(`${DIR}/ctl`) && Date.now() < deadline; ) execFileSync("sleep", ["0.05"]);
run(C, true);
enter("conntrack", "-I", "-p", "tcp", "-s", "10.1.1.1", "-d", "10.2.2.2", "--sport", "1000", "--dport", "80", "--state", "ESTABLISHED",
  "-t", "300", "-u", "SEEN_REPLY,ASSURED");
for (const deadline = Date.now() + 5000; enter("conntrackd", "-C", `${DIR}/conf`, "-i").stdout === "" && Date.now() < deadline; );
for (const line of ["-s", "-s ct", "-s network", "-s cache", "-s runtime", "-s link", "-s rsqueue", "-s process", "-s queue", "-s expect",
  "-s exp", "-s net", "-s run", "-s multicast", "-i ct", "-i expect", "-e", "-e exp", "-i exp -x", "-i -e", "-e -i -s link", "-s -S", "-c", "-c ct",
  "-c exp", "-F exp", "-f int", "-f ext", "-f", "-R", "-R ct", "-R exp", "-B", "-n", "-t", "-iz -s link"]) run(`${C} ${line}`, true);
run(`-s link ${C}`, true);
run(`${C} -k`, true);
run(`${C} -s`, false);
cases.push({ lockAfterKill: existsSync(`${DIR}/lock`), socketAfterKill: existsSync(`${DIR}/ctl`) });
writeFileSync(FILE, `[\n${cases.map((each) => JSON.stringify(each)).join(",\n")}\n]\n`);
JS
