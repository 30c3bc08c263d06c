#!/usr/bin/env bash
# Captures what conntrackd prints in each mode, with each choice of caches, for modes.json: from the node whose kernel has the
# flows (own), and from its peer. Needs root, conntrackd, conntrack, nft, python3 and iproute2.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
a=ctgold-a-$$ b=ctgold-b-$$
clean() {
  for ns in "$a" "$b"; do
    if [ -S "$dir/$ns.ctl" ]; then ip netns exec "$ns" conntrackd -C "$dir/$ns.conf" -k || true; fi
    ip netns del "$ns" 2>/dev/null || true
  done
  rm -rf "$dir"
}
trap clean EXIT

for ns in "$a" "$b"; do
  ip netns add "$ns"
  ip -n "$ns" link set lo up
  ip netns exec "$ns" sysctl -qw net.netfilter.nf_conntrack_events=1 net.netfilter.nf_conntrack_acct=1
done
ip -n "$a" link add sync0 type veth peer name sync0 netns "$b"
ip -n "$a" addr add 10.9.8.1/24 dev sync0
ip -n "$b" addr add 10.9.8.2/24 dev sync0
ip -n "$a" link set sync0 up
ip -n "$a" addr add 10.3.3.1/32 dev lo
ip -n "$a" addr add 10.3.3.3/32 dev lo
ip netns exec "$a" nft -f - <<NFT
table inet t {
  ct helper ftp { type "ftp" protocol tcp; }
  chain out { type filter hook output priority 0; tcp dport 21 ct helper set "ftp"; }
}
NFT
ip -n "$b" link set sync0 up

HERE=$here DIR=$dir A=$a B=$b node --input-type=module <<'JS'
import { spawn, spawnSync } from "node:child_process";
import { existsSync, rmSync, writeFileSync } from "node:fs";
const { HERE, DIR, A, B } = process.env;
const enter = (ns, ...args) => spawnSync("ip", ["netns", "exec", ns, ...args], { encoding: "utf8", timeout: 10_000 });
const ask = (ns, ...args) => enter(ns, "conntrackd", "-C", `${DIR}/${ns}.conf`, ...args);
const until = (what, done) => {
  for (const deadline = Date.now() + 8000; Date.now() < deadline; spawnSync("sleep", ["0.05"])) if (done()) return;
  throw new Error(`no ${what}`);
};
const link = (kind, own, other) => kind === "Multicast"
  ? `Multicast { IPv4_address 225.0.0.50 IPv4_interface 10.9.8.${own} Group 3780 Interface sync0 }`
  : `${kind} { IPv4_address 10.9.8.${own} IPv4_Destination_Address 10.9.8.${other} Port 3780 Interface sync0 }`;
const general = (ns, more = "") => `General { HashSize 1024 HashLimit 4096 LogFile ${DIR}/${ns}.log LockFile ${DIR}/${ns}.lock
UNIX { Path ${DIR}/${ns}.ctl }
Filter From Userspace { Protocol Ignore { UDP } }
}
${more}`;
const sync = (mode, { kind = "UDP", expect = true } = {}) => (ns, own, other) =>
  `Sync { ${mode} ${link(kind, own, other)}${expect ? " Options { ExpectationSync On }" : ""} }\n${general(ns)}`;
const SHAPES = {
  ftfw: sync("Mode FTFW { }"),
  "ftfw without expectations": sync("Mode FTFW { }", { expect: false }),
  "ftfw without external": sync("Mode FTFW { DisableExternalCache on }"),
  "ftfw over TCP": sync("Mode FTFW { }", { kind: "TCP" }),
  "ftfw by multicast": sync("Mode FTFW { }", { kind: "Multicast" }),
  alarm: sync("Mode ALARM { RefreshTime 15 CacheTimeout 180 }"),
  notrack: sync("Mode NOTRACK { }"),
  "notrack without internal": sync("Mode NOTRACK { DisableInternalCache on }"),
  "notrack without external": sync("Mode NOTRACK { DisableExternalCache on }"),
  "notrack without both": sync("Mode NOTRACK { DisableInternalCache on DisableExternalCache on }"),
  "notrack without both and expectations": sync("Mode NOTRACK { DisableInternalCache on DisableExternalCache on }", { expect: false }),
  stats: (ns) => general(ns, `Stats { LogFile ${DIR}/${ns}.stats }`),
};
const FLOWS = [
  ["-p", "tcp", "-s", "10.1.1.1", "-d", "10.2.2.2", "--sport", "1000", "--dport", "80", "--state", "ESTABLISHED", "-t", "3000", "-u", "SEEN_REPLY,ASSURED", "--mark", "7"],
  ["-p", "tcp", "-s", "2001:db8::1", "-d", "2001:db8::2", "--sport", "1001", "--dport", "80", "--state", "SYN_SENT", "-t", "3000"],
  ["-p", "icmp", "-s", "10.1.1.1", "-d", "10.2.2.2", "--icmp-type", "8", "--icmp-code", "0", "--icmp-id", "5", "-t", "3000", "--src-nat", "192.0.2.1"],
];
// A connection whose helper expects another one; it stays open.
const FTP = `import socket, time
server = socket.create_server(("10.3.3.3", 21))
client = socket.create_connection(("10.3.3.3", 21), source_address=("10.3.3.1", 1002))
served, _ = server.accept()
served.sendall(b"220 ready\\r\\n"); client.recv(100)
client.sendall(b"USER x\\r\\n"); served.recv(100); served.sendall(b"331 ok\\r\\n"); client.recv(100)
client.sendall(b"PORT 10,3,3,1,11,184\\r\\n"); served.recv(100)
time.sleep(6)`;
const ARGS = ["-s", "-s expect", "-s network", "-s cache", "-s runtime", "-s link", "-s rsqueue", "-s queue", "-s process",
  "-i", "-i expect", "-i -x", "-i expect -x", "-e", "-e expect", "-e -x", "-e expect -x"];
const AFTER = ["-c", "-B", "-n", "-R", "-f", "-f internal", "-f external", "-t", "-F expect", "-s"];
const clean = (text) => text.replaceAll(DIR, "DIR").replace(/^\[\w{3} \w{3} [ \d]\d [\d:]+ \d+\] \(pid=\d+\)/gm, "[TIME] (pid=PID)");
const cases = [];
for (const [shape, conf] of Object.entries(SHAPES)) {
  const texts = { own: conf(A, 1, 2), peer: conf(B, 2, 1) };
  for (const [ns, text] of [[A, texts.own], [B, texts.peer]]) {
    writeFileSync(`${DIR}/${ns}.conf`, text);
    enter(ns, "conntrack", "-F");
    rmSync(`${DIR}/${ns}.lock`, { force: true });
    const { status, stderr } = ask(ns, "-d");
    if (status !== 0) throw new Error(`${shape}: ${stderr}`);
    until("daemon", () => existsSync(`${DIR}/${ns}.ctl`));
  }
  spawnSync("sleep", ["0.5"]);
  for (const flow of FLOWS) enter(A, "conntrack", "-I", ...flow);
  const ftp = spawn("ip", ["netns", "exec", A, "python3", "-c", FTP], { stdio: "inherit" });
  until("expectation", () => enter(A, "conntrack", "-L", "expect").stdout !== "");
  spawnSync("sleep", ["1.5"]);
  for (const [node, ns] of [["own", A], ["peer", B]]) {
    for (const line of [...ARGS, ...(node === "own" ? AFTER : [])]) {
      const { status, stdout, stderr } = ask(ns, ...line.split(" "));
      cases.push({ shape, node, args: line, code: status, stdout: clean(stdout), stderr: clean(stderr) });
    }
  }
  ftp.kill();
  for (const ns of [A, B]) {
    ask(ns, "-k");
    until("end", () => !existsSync(`${DIR}/${ns}.lock`));
  }
}
const confs = Object.fromEntries(Object.entries(SHAPES).map(([shape, conf]) => [shape, conf("NODE", "OWN", "PEER").replaceAll(DIR, "DIR")]));
writeFileSync(`${HERE}/modes.json`, `${JSON.stringify({ confs, cases }, null, 0).replaceAll("},{", "},\n{")}\n`);
JS
