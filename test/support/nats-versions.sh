#!/usr/bin/env bash
# Runs tests with several versions of nats-server: the one in the path, and those of later Debian suites, which are downloaded and
# unpacked below .tmp/ and never installed.
#
#   npm run matrix -- integration cluster            # all versions
#   NATS_SUITES="sid" npm run matrix -- integration  # one suite
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'matrix: %s\n' "$*"; }
die() { printf 'matrix: %s\n' "$*" >&2; exit 1; }

command -v apt-get >/dev/null || die "no apt-get here: put another nats-server first in PATH and run the tests themselves"
[ $# -gt 0 ] || set -- integration cluster
cache=$PWD/.tmp/nats-versions
suites=${NATS_SUITES-trixie sid}
mkdir -p "$cache/lists/partial" "$cache/archives/partial"

# The machine's own mirror, with other suites; nothing of the machine's own lists is touched.
site=$(apt-get indextargets --format '$(SITE) $(ORIGIN) $(COMPONENT)' 'Created-By: Packages' | awk '$2 == "Debian" && $3 == "main" { print $1; exit }')
[ -n "$site" ] || die "apt knows no Debian mirror: see /etc/apt/sources.list.d"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
debian() {
  local tool=$1
  shift
  "$tool" -q -o Dir::Etc::sourcelist="$cache/sources" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$cache/lists" \
    -o Dir::Cache="$cache" -o APT::Get::List-Cleanup=0 "$@"
}

# Prints the directory that holds nats-server of a suite; downloads it when it is not there yet.
fetch() {
  local suite=$1 root=$cache/$1
  if [ ! -x "$root/usr/sbin/nats-server" ]; then
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$site" "$suite" >"$cache/sources"
    debian apt-get update >/dev/null || return 1
    rm -rf "$root" && mkdir -p "$root/package"
    (cd "$root/package" && debian apt-get download nats-server >/dev/null) || return 1
    dpkg-deb -x "$root"/package/*.deb "$root" || return 1
    rm -rf "$root/package"
  fi
  printf '%s\n' "$root/usr/sbin"
}

run() {
  say "nats-server $(nats-server --version | grep -o '[0-9.]*$'): $*"
  node dist/test/support/runner.js "$@" || failed+=("$(nats-server --version)")
}

failed=()
run "$@"
for suite in $suites; do
  directory=$(fetch "$suite") || die "nats-server of $suite cannot be downloaded"
  PATH="$directory:$PATH" run "$@"
done
[ ${#failed[@]} -eq 0 ] || die "failed with ${failed[*]}"
