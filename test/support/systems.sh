#!/usr/bin/env bash
# Two systems with systemd as process 1, in nspawn: the Debian package is installed by the README's commands, fails over,
# is upgraded while hooks are called, rolled back, killed, rebooted, and purged without a trace.
#
#   npm run systems [-- SUITE]          SUITE of Debian: bookworm (the default) or trixie
#
# Needs root, debootstrap and systemd-nspawn. The root directory of each suite is made once, in .tmp/systems.
set -euo pipefail
cd "$(dirname "$0")/../.."
SUITE=${1:-bookworm}
WORK=$PWD/.tmp/systems
BASE=$WORK/$SUITE
SESSION_CGROUP=/sys/fs/cgroup/conntrail-systems-$$

say() { printf '%s %s\n' "$(date +%T)" "$*"; }
die() { printf 'systems: %s\n' "$*" >&2; exit 1; }

if [ "${SYSTEMS_INSIDE:-}" != yes ]; then
  [ "$(id -u)" -eq 0 ] || die "run it as root"
  for program in debootstrap systemd-nspawn nsenter dpkg-deb; do
    command -v "$program" >/dev/null || die "no $program: apt-get install debootstrap systemd-container util-linux dpkg"
  done
  mkdir -p "$WORK"
  if [ ! -e "$BASE.complete" ]; then
    say "making a root directory of $SUITE"
    rm -rf "$BASE"
    mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
    [ -n "$mirror" ] || mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list | head -n 1)
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,procps,kmod,keepalived,conntrack,nftables,nats-server,openssl,init-system-helpers "$SUITE" "$BASE" "$mirror" >"$WORK/debootstrap.log" 2>&1 || die "debootstrap failed: see $WORK/debootstrap.log"
    touch "$BASE.complete"
  fi
  rm -rf "$WORK/packages"
  node dist/test/support/systems-packages.js "$WORK/packages"
  exec env SYSTEMS_INSIDE=yes unshare --net --mount bash "$0" "$SUITE"
fi

# From here on in a network and a mount namespace of its own.
unset NODE_EXTRA_CA_CERTS
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p "$SESSION_CGROUP"
ip link set lo up
for bridge in brlink brlan; do ip link add "$bridge" type bridge && ip link set "$bridge" up; done
declare -A NSPAWN INIT
end() {
  local pid
  for pid in "${NSPAWN[@]}"; do kill "$pid" 2>/dev/null || true; done
  sleep 1
  for pid in "${NSPAWN[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  umount -R "$WORK"/fw1/root "$WORK"/fw2/root 2>/dev/null || true
  rm -rf "$WORK"/fw1 "$WORK"/fw2
  find "$SESSION_CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || true
}
trap end EXIT

on() {
  local name=$1
  shift
  nsenter -t "${INIT[$name]}" -m -u -i -n -p -C -r -w "$@"
}

# Waits up to a minute until a command succeeds.
until_true() {
  local what=$1 i
  shift
  for ((i = 0; i < 240; i++)); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.25
  done
  die "waited in vain until $what"
}

boot() {
  local name=$1 state
  mkdir -p "$WORK/$name"/{upper,work,root}
  mountpoint -q "$WORK/$name/root" ||
    mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$WORK/$name/upper,workdir=$WORK/$name/work" "$WORK/$name/root"
  mkdir -p "$SESSION_CGROUP/$name"
  (
    echo "$BASHPID" >"$SESSION_CGROUP/$name/cgroup.procs"
    exec systemd-nspawn -q -D "$WORK/$name/root" -M "$name" --boot --keep-unit --register=no --console=pipe \
      --resolv-conf=off --timezone=off --link-journal=no --private-network \
      "--network-veth-extra=$name-s:sync0" "--network-veth-extra=$name-l:lan0"
  ) >"$WORK/$name.console" 2>&1 &
  NSPAWN[$name]=$!
  until_true "$name has its interfaces" ip link show "$name-l"
  ip link set "$name-s" master brlink up
  ip link set "$name-l" master brlan up
  until_true "$name has begun" pgrep -P "${NSPAWN[$name]}"
  INIT[$name]=$(pgrep -P "${NSPAWN[$name]}" | head -n 1)
  until_true "$name has booted" booted "$name"
  on "$name" sh -c "ip address add 10.77.0.${name#fw}/24 dev sync0; ip link set sync0 up
    ip address add 10.0.0.${name#fw}/24 dev lan0; ip link set lan0 up"
}

booted() {
  case $(on "$1" systemctl is-system-running) in running | degraded) ;; *) return 1 ;; esac
}

role_of() { on "$1" conntrail status --json | sed -n 's/^  "role": "\(.*\)",$/\1/p'; }
has_role() { [ "$(role_of "$1")" = "$2" ]; }
settled() {
  on fw1 conntrail status >/dev/null && on fw2 conntrail status >/dev/null &&
    [ "$(printf '%s\n' "$(role_of fw1)" "$(role_of fw2)" | sort | tr '\n' ' ')" = "backup primary " ]
}
primary() { if has_role fw1 primary; then echo fw1; else echo fw2; fi; }
other() { if [ "$1" = fw1 ]; then echo fw2; else echo fw1; fi; }
install_package() { on "$1" sh -c "DEBIAN_FRONTEND=noninteractive dpkg -i /root/$2" >"$WORK/$1.dpkg" 2>&1 || { cat "$WORK/$1.dpkg"; die "dpkg failed on $1"; }; }
files_of() { on "$1" sh -c 'find / -xdev \( -path /proc -o -path /sys -o -path /root -o -path /tmp -o -path /run -o -path /var/tmp -o -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/systemd \) -prune -o -print | sort'; }

say "booting two systems of $SUITE"
boot fw1
boot fw2

for name in fw1 fw2; do
  cp "$WORK"/packages/*.deb "$WORK/$name/root/root/"
  on "$name" systemctl disable --now nats-server keepalived >/dev/null 2>&1
done
files_of fw1 >"$WORK/before"

say "installing"
for name in fw1 fw2; do install_package "$name" "conntrail_1.0.0_*.deb /root/conntrail-node_*.deb"; done
on fw1 systemctl is-enabled --quiet conntrail || die "the unit is not enabled"
! on fw1 systemctl is-active --quiet conntrail || die "the daemon runs without a configuration"

on fw1 conntrail init --cluster edge --node fw1 --listen 10.77.0.1 --peer fw2=10.77.0.2 >/dev/null
mv "$WORK/fw1/root/etc/conntrail/fw2.bundle" "$WORK/fw2/root/root/"
on fw2 conntrail init --bundle /root/fw2.bundle >/dev/null
on fw1 sh -c 'echo "metrics: { listen: 127.0.0.1:9469 }" >>/etc/conntrail/conntrail.yaml'
for name in fw1 fw2; do
  on "$name" sh -c '
    systemctl restart systemd-modules-load systemd-sysctl
    sysctl -q -w net.ipv4.ip_forward=1
    cd /usr/share/doc/conntrail/examples
    sed "s/define WAN = wan0/define WAN = lan0/" nftables.conf >/etc/nftables.conf
    nft -f /etc/nftables.conf
    sed "s/dev wan0/dev lan0/; s/interface wan0/interface lan0/" keepalived.conf >/etc/keepalived/keepalived.conf
    [ "$(ip -br address show lan0 | grep -c 10.0.0.1/24)" = 1 ] || sed -i "s/priority 150/priority 140/; s/router_id fw1/router_id fw2/" /etc/keepalived/keepalived.conf
    systemctl start conntrail
    systemctl enable -q keepalived
    systemctl start keepalived'
done
until_true "the nodes are in sync, and one is primary" settled
for name in fw1 fw2; do
  on "$name" conntrail doctor --quiet >"$WORK/$name.doctor" || { cat "$WORK/$name.doctor"; die "the doctor finds $name broken"; }
done
for check in '/metrics ^conntrail_in_sync.1$' '/healthz "ok":true'; do
  on fw1 /usr/lib/conntrail/node/bin/node -e 'const [path, pattern] = process.argv[1].split(" ");
    fetch("http://127.0.0.1:9469" + path).then((answer) => answer.text()).then((text) => process.exit(new RegExp(pattern, "m").test(text) ? 0 : 1))' "$check" || die "$check is not served"
done
on fw1 sh -c 'journalctl -q -u conntrail -p info -o cat | grep -q "daemon.ready"' || die "the journal has no line that says ready"
on fw1 sh -c '[ "$(journalctl -q -u conntrail -p err -o cat | wc -l)" = 0 ]' || die "the journal has errors"
until_true "systemctl status shows the state" on fw1 sh -c 'systemctl show -p StatusText conntrail | grep -q "in sync with fw2"'

say "failing over"
first=$(primary)
on "$first" systemctl stop keepalived
until_true "the other one is primary" has_role "$(other "$first")" primary
on "$first" systemctl start keepalived
until_true "both are settled" settled

say "upgrading, while hooks are called"
backup=$(other "$(primary)")
for name in "$backup" "$(other "$backup")"; do
  role=$(role_of "$name")
  on "$name" sh -c "while [ ! -e /run/stop ]; do conntrail hook $role || echo FAILED; conntrail --version || echo FAILED; done" >"$WORK/$name.hooks" 2>&1 &
  hooks=$!
  until_true "a hook was called" grep -q -- '->' "$WORK/$name.hooks"
  install_package "$name" "conntrail_1.0.1_*.deb"
  until_true "the new version runs" grep -q '^1.0.1$' "$WORK/$name.hooks"
  on "$name" touch /run/stop
  wait "$hooks"
  ! grep -q FAILED "$WORK/$name.hooks" || { grep -B3 FAILED "$WORK/$name.hooks"; die "a hook failed on $name"; }
  say "$name: $(grep -c -- '->' "$WORK/$name.hooks") hooks, none failed"
  until_true "both are settled" settled
done

say "failing over with keepalived as it was started before the upgrade"
first=$(primary)
on "$first" systemctl stop keepalived
until_true "the other one is primary" has_role "$(other "$first")" primary
on "$first" systemctl start keepalived
until_true "both are settled" settled

say "rolling back"
install_package fw2 "conntrail_1.0.0_*.deb"
[ "$(on fw2 conntrail --version)" = 1.0.0 ] || die "fw2 is not back at 1.0.0"
until_true "both are settled" settled

say "killing a daemon"
on fw1 systemctl kill -s KILL --kill-whom=main conntrail
until_true "both are settled" settled

say "refusing a configuration"
on fw2 sh -c 'cp /etc/conntrail/conntrail.yaml /root/ && echo "nonsense: 1" >>/etc/conntrail/conntrail.yaml && ! systemctl restart conntrail 2>/dev/null'
[ "$(on fw2 systemctl show -p NRestarts --value conntrail)" = 0 ] || die "systemd starts a daemon again that refuses its configuration"
on fw2 sh -c 'journalctl -q -u conntrail -p err -o cat | grep -q "nonsense: unknown key"' || die "the journal does not say why, as an error"
on fw2 sh -c 'cp /root/conntrail.yaml /etc/conntrail/ && systemctl reset-failed conntrail && systemctl start conntrail'
until_true "both are settled" settled

say "rebooting"
on fw2 systemctl reboot || true
wait "${NSPAWN[fw2]}" || true
boot fw2
on fw2 sh -c 'nft -f /etc/nftables.conf; systemctl restart conntrail keepalived'
until_true "both are settled" settled
[ "$(on fw2 sysctl -n net.netfilter.nf_conntrack_acct)" = 1 ] || die "the package's sysctls are not set after a boot"

say "cutting the power"
kill -KILL "${INIT[fw2]}"
wait "${NSPAWN[fw2]}" || true
until_true "fw1 is primary" has_role fw1 primary
boot fw2
on fw2 sh -c 'nft -f /etc/nftables.conf; systemctl restart conntrail keepalived'
until_true "both are settled" settled

say "purging"
on fw1 sh -c 'systemctl disable -q --now keepalived; dpkg --purge conntrail conntrail-node; rm /etc/keepalived/keepalived.conf /etc/nftables.conf; [ ! -e /etc/keepalived/keepalived.conf.dpkg-new ]' >"$WORK/fw1.purge" 2>&1
files_of fw1 >"$WORK/after"
left=$(comm -13 "$WORK/before" "$WORK/after")
[ -z "$left" ] || die "the purge has left $left"
! on fw1 id conntrail >/dev/null 2>&1 || die "the purge has left the user"
! on fw1 pgrep nats-server >/dev/null || die "the purge has left a nats-server"
say "all is well"
