#!/usr/bin/env bash
# Captures what conntrackd and conntrack(8) print for the flows in flows.json, one line for each flow and in that order:
#   internal.txt internal-xml.txt external.txt external-xml.txt kernel.txt
# Two network namespaces with a conntrackd each, joined by a veth pair. Needs root, conntrackd, conntrack, nft and iproute2.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
a=ctgold-a-$$ b=ctgold-b-$$
dir=$(mktemp -d)
pids=()
clean() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$dir"
}
trap clean EXIT

ip netns add "$a"
ip netns add "$b"
ip link add "cta$$" netns "$a" type veth peer name "ctb$$" netns "$b"
ip -n "$a" addr add 10.9.9.1/24 dev "cta$$"
ip -n "$b" addr add 10.9.9.2/24 dev "ctb$$"
for side in a b; do
  ns=${!side}
  me=1 peer=2
  [ $side = b ] && me=2 peer=1
  ip -n "$ns" link set lo up
  ip -n "$ns" link set "ct$side$$" up
  ip netns exec "$ns" sysctl -qw net.netfilter.nf_conntrack_events=1 net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_timestamp=1
  cat >"$dir/$side.conf" <<CONF
Sync {
  Mode NOTRACK { }
  UDP {
    IPv4_address 10.9.9.$me
    IPv4_Destination_Address 10.9.9.$peer
    Port 3780
    Interface ct$side$$
    Checksum on
  }
}
General {
  HashSize 1024
  HashLimit 4096
  LogFile $dir/$side.log
  LockFile $dir/$side.lock
  UNIX { Path $dir/$side.ctl }
  Filter From Userspace { Protocol Ignore { VRRP } }
}
CONF
  ip netns exec "$ns" conntrackd -C "$dir/$side.conf" >"$dir/$side.out" 2>&1 &
  pids+=($!)
done
for side in a b; do
  for _ in $(seq 100); do [ -S "$dir/$side.ctl" ] && break; sleep 0.05; done
done
# A flow with a helper comes from real traffic: the ruleset attaches it to a SYN that nobody answers.
ip netns exec "$a" nft -f - <<'NFT'
table ip golden {
  ct helper ftp { type "ftp" protocol tcp; }
  chain out { type filter hook output priority 0; tcp dport 21 ct helper set "ftp" ct mark set 3; }
}
NFT
ip netns exec "$b" nft 'add table ip golden; add chain ip golden in { type filter hook input priority -400; }; add rule ip golden in tcp dport 21 drop'

HERE=$here A=$a B=$b DIR=$dir node --input-type=module <<'JS'
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
const { HERE, A, B, DIR } = process.env;
const flows = JSON.parse(readFileSync(`${HERE}/flows.json`, "utf8"));
const run = (ns, ...args) => execFileSync("ip", ["netns", "exec", ns, ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
for (const { insert, traffic } of flows) {
  if (insert) run(A, "conntrack", "-I", "-t", "3000", ...insert);
  if (traffic) {
    const code = `require("net").connect({host:"10.9.9.2",port:${traffic.dport},localPort:${traffic.sport}}).on("error",()=>{});setTimeout(()=>process.exit(),300)`;
    spawnSync("ip", ["netns", "exec", A, "node", "-e", code]);
  }
}
const pick = (text, key) => flows.map(({ flow }) => {
  // The daemons' own datagrams (port 3780) are flows too.
  const lines = text.split("\n").filter((line) => line.includes(key(flow.orig)) && !/port(=|>)3780/.test(line));
  if (lines.length !== 1) throw new Error(`${lines.length} lines for ${JSON.stringify(flow.orig)}`);
  return lines[0];
});
const text = (o) => `src=${o.src} dst=${o.dst} ${o.sport === undefined ? "" : "sport="}`;
const xml = (o) => `<meta direction="original"><layer3 protonum="${o.src.includes(":") ? 10 : 2}" protoname="${o.src.includes(":") ? "ipv6" : "ipv4"}"><src>${o.src}</src><dst>${o.dst}</dst></layer3>`;
const deadline = Date.now() + 5000;
const capture = (name, command, key) => {
  for (;;) {
    try {
      writeFileSync(`${HERE}/${name}.txt`, `${pick(command(), key).join("\n")}\n`);
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      execFileSync("sleep", ["0.1"]);
    }
  }
};
const own = (o) => text(o).replace(/ sport=$/, o.sport === undefined ? "" : ` sport=${o.sport} dport=${o.dport}`);
capture("internal", () => run(A, "conntrackd", "-C", `${DIR}/a.conf`, "-i"), own);
capture("internal-xml", () => run(A, "conntrackd", "-C", `${DIR}/a.conf`, "-i", "-x"), xml);
const tuple = (o) => `src=${o.src} dst=${o.dst} `;
capture("external", () => run(B, "conntrackd", "-C", `${DIR}/b.conf`, "-e"), tuple);
capture("external-xml", () => run(B, "conntrackd", "-C", `${DIR}/b.conf`, "-e", "-x"), xml);
capture("kernel", () => run(A, "conntrack", "-L"), own);
JS
