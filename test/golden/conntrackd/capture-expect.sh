#!/usr/bin/env bash
# Captures what conntrackd and conntrack(8) print for expectations of the FTP helper, into
#   expect-internal.txt expect-internal-xml.txt expect-external.txt expect-external-xml.txt expect-kernel.txt expect-kernel-xml.txt
# Two network namespaces with a conntrackd each, joined by a veth pair; the FTP dialogues run on the loopback of the first,
# in IPv4 (PORT) and IPv6 (EPRT). Needs root, conntrackd, conntrack, nft, node and iproute2.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
a=ctgexp-a-$$ b=ctgexp-b-$$
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
  ip netns exec "$ns" sysctl -qw net.netfilter.nf_conntrack_events=1
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
  Options { ExpectationSync on }
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
ip netns exec "$a" nft -f - <<'NFT'
table inet golden {
  ct helper ftp { type "ftp" protocol tcp; }
  chain out { type filter hook output priority 0; tcp dport 21 ct helper set "ftp"; }
}
NFT
cat >"$dir/ftp.mjs" <<'JS'
import net from "node:net";
for (const [host, command] of [["127.0.0.2", "PORT 127,0,0,1,200,10"], ["::1", "EPRT |2|::1|51210|"]]) {
  const server = net.createServer((socket) => {
    socket.write("220 ready\r\n");
    socket.on("data", () => socket.write("200 ok\r\n"));
  });
  server.listen(21, host, () => {
    const commands = ["USER x", command];
    const client = net.connect({ host, port: 21, localPort: 40000 });
    client.on("data", () => commands.length > 0 && client.write(`${commands.shift()}\r\n`));
  });
}
JS
ip netns exec "$a" node "$dir/ftp.mjs" &
pids+=($!)

lines() { grep "$1" | sort; }
capture() {
  local file=$1 pattern=$2
  shift 2
  for _ in $(seq 50); do
    "$@" 2>/dev/null | lines "$pattern" >"$dir/lines" || true
    if [ "$(wc -l <"$dir/lines")" = 2 ]; then
      cp "$dir/lines" "$here/$file"
      return
    fi
    sleep 0.1
  done
  echo "$file: no two lines" >&2
  exit 1
}
kernel() { for family in ipv4 ipv6; do ip netns exec "$a" conntrack -L expect -f $family "$@"; done; }
daemon() { local side=$1; shift; ip netns exec "${!side}" conntrackd -C "$dir/$side.conf" "$@"; }
capture expect-kernel.txt proto= kernel
capture expect-kernel-xml.txt '<flow>' kernel -o xml
capture expect-internal.txt proto= daemon a -i expect
capture expect-internal-xml.txt '<flow>' daemon a -i expect -x
capture expect-external.txt proto= daemon b -e expect
capture expect-external-xml.txt '<flow>' daemon b -e expect -x
