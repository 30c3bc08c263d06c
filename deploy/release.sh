#!/usr/bin/env bash
# Tags a release, if version, changelog, generated pages and build fit together. Pushes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'release: %s\n' "$*" >&2; exit 1; }

version=$(node -p 'require("./package.json").version')
[ "$(node -p 'require("./package-lock.json").version')" = "$version" ] || die "package-lock.json has another version: npm install --package-lock-only"
grep -q "^## \[$version\] - [0-9-]\{10\}$" CHANGELOG.md || die "CHANGELOG.md has no heading \"## [$version] - YYYY-MM-DD\""
[ -z "$(git status --porcelain)" ] || die "there are changes that are not committed"
git rev-parse -q --verify "refs/tags/v$version" >/dev/null && die "the tag v$version is there already"
npm run -s docs
[ -z "$(git status --porcelain)" ] || die "docs/configuration.md was not current: commit it"
npm run -s check
npm run -s deb
git tag -a "v$version" -m "v$version"
printf 'release: tagged v%s; packages are in dist/packages; now: git push origin v%s\n' "$version" "$version"
