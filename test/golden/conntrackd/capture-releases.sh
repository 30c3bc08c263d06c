#!/usr/bin/env bash
# Captures what later releases of conntrackd say and do differently from 1.4.7, for releases.json. Each argument is a
# directory with a program conntrackd of such a release; command-line.json is that of 1.4.7. Needs what capture-cli.sh needs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for programs in "$@"; do
  PATH=$(cd "$programs" && pwd):$PATH bash "$here/capture-cli.sh" "$dir/$("$programs/conntrackd" -v | grep -o '[0-9.]*[0-9]' | head -n 1)"
done
HERE=$here DIR=$dir node --input-type=module <<'JS'
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
const { HERE, DIR } = process.env;
const read = (path) => JSON.parse(readFileSync(path, "utf8"));
// Figures and their widths are of the moment.
const form = (text) => text?.replace(/\bv1\.4\.\d+/g, "RELEASE").replace(/ *\d+/g, " #");
const base = read(`${HERE}/command-line.json`);
const differs = ({ code, stdout, stderr }, i) =>
  code !== base[i].code || form(stdout) !== form(base[i].stdout) || form(stderr) !== form(base[i].stderr);
const releases = readdirSync(DIR).sort().map((release) => [release, read(`${DIR}/${release}`).filter(differs)]);
writeFileSync(`${HERE}/releases.json`, `${JSON.stringify(Object.fromEntries(releases)).replaceAll("},{", "},\n{")}\n`);
JS
