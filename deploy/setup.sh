#!/usr/bin/env bash
# Makes this clone ready to run: packages of the distribution, npm packages, build. It is safe to repeat: if nothing is
# missing, it changes nothing and needs no network. Services that it installs stay stopped and disabled.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

node_major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) || die "node is not in PATH; install Node.js 20 or newer"
[ "$node_major" -ge 20 ] || die "found Node.js $(node --version); install Node.js 20 or newer"
[ "$(uname -s)" = Linux ] || die "found $(uname -s); conntrail runs on Linux only"

# A package is missing if its command is. Commands that did not come from apt are fine too.
declare -A package_of=(
  [nats-server]=nats-server [keepalived]=keepalived [conntrack]=conntrack [nft]=nftables [ip]=iproute2
  [sshd]=openssh-server [ssh]=openssh-client [ping]=iputils-ping [unshare]=util-linux [modprobe]=kmod [sysctl]=procps
  [openssl]=openssl
)
# Only tests compare with these or run beside them. If a distribution lacks one, the tests say what they skip.
declare -A test_package_of=(
  [nfcapd]=nfdump [ipfixDump]=libfixbuf-tools [iptables]=iptables [wget]=wget [conntrackd]=conntrackd
  [mandoc]=mandoc [zsh]=zsh [fish]=fish [promtool]=prometheus
)
# These packages bring units that would start at the next boot.
declare -A unit_of=(
  [nats-server]=nats-server.service [keepalived]=keepalived.service [openssh-server]=ssh.service
  [conntrackd]=conntrackd.service [nfdump]=nfdump.service [prometheus]=prometheus.service
)

missing_packages() {
  local -n of=$1
  local command
  for command in "${!of[@]}"; do
    command -v "$command" >/dev/null || printf '%s\n' "${of[$command]}"
  done | sort
}

POLICY=/usr/sbin/policy-rc.d
SAVED=/usr/sbin/policy-rc.d.before-conntrail

# Debian starts a service when its package is installed, unless this file forbids it.
forbid_starts() {
  [ -e "$SAVED" ] && restore_policy # left by a run that was killed
  if [ -e "$POLICY" ]; then mv "$POLICY" "$SAVED"; fi
  trap restore_policy EXIT
  printf '#!/bin/sh\n# Written by conntrail'"'"'s setup for as long as it installs packages.\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
}

restore_policy() {
  trap - EXIT
  if [ -e "$SAVED" ]; then mv -f "$SAVED" "$POLICY"; else rm -f "$POLICY"; fi
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" </dev/null
}

# False if a package is missing that the program needs.
one_by_one() {
  local package
  if [ ${#needed[@]} -gt 0 ]; then apt_install "${needed[@]}" || return 1; fi
  for package in "${extra[@]}"; do apt_install "$package" || true; done
}

install_packages() {
  local -a needed extra missing
  mapfile -t needed < <(missing_packages package_of)
  mapfile -t extra < <(missing_packages test_package_of)
  missing=("${needed[@]}" "${extra[@]}")
  [ ${#missing[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null; then
    say "missing here: ${missing[*]}. There is no apt-get on this machine: install them its own way. Going on without."
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    say "missing here: ${missing[*]}. Not root, so they cannot be installed: run apt-get install ${missing[*]} as root."
    say "going on without them: what needs them is skipped"
    return
  fi
  say "installing ${missing[*]}"
  local log
  log=$(mktemp)
  forbid_starts
  # The package lists of a fresh machine are empty or old. They are refreshed only if the first try fails.
  if ! apt_install "${missing[@]}" >"$log" 2>&1; then
    say "refreshing the package lists"
    if ! { apt-get update -q && apt_install "${missing[@]}"; } >"$log" 2>&1 && ! one_by_one >"$log" 2>&1; then
      tail -n 20 "$log" >&2
      restore_policy
      rm -f "$log"
      die "apt-get could not install ${needed[*]}; the end of its output stands above"
    fi
  fi
  restore_policy
  rm -f "$log"
  mapfile -t extra < <(missing_packages test_package_of)
  [ ${#extra[@]} -eq 0 ] || say "not to be had here: ${extra[*]}; the tests skip what needs them"
  keep_disabled "${missing[@]}"
}

# The distribution's nats-server would take the embedded broker's port at the next boot.
keep_disabled() {
  command -v systemctl >/dev/null || return 0
  local package
  for package in "$@"; do
    [ -n "${unit_of[$package]:-}" ] || continue
    systemctl disable --quiet "${unit_of[$package]}" 2>/dev/null || continue
    say "${unit_of[$package]} is installed, neither started nor enabled; enable it with: systemctl enable --now ${unit_of[$package]}"
  done
}

install_node_modules() {
  local stamp=node_modules/.conntrail-lock wanted
  wanted="$(sha256sum <package-lock.json | cut -d' ' -f1) node$node_major $(uname -m)"
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  say "installing npm packages"
  npm ci --no-audit --no-fund --loglevel=error || die "npm ci failed; the reason stands above"
  printf '%s\n' "$wanted" >"$stamp"
}

build() {
  local stamp=dist/.sources wanted
  wanted=$({ find src test deploy/packaging -name '*.ts' -printf '%p %s %T@\n' | LC_ALL=C sort; cat tsconfig.json package-lock.json; } | sha256sum)
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  say "building"
  node_modules/.bin/tsc -p . || die "the build failed; the errors stand above"
  printf '%s\n' "$wanted" >"$stamp"
}

# npm runs hooks as the owner of the folder, who could not write files that root made.
[ -w . ] || die "$PWD is not writable for $(id -un); run setup as the owner of the clone"
install_packages
install_node_modules
build
