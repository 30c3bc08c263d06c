/**
 * What others have written to drive or to test conntrackd. It is not ours and not kept here: it comes from where the machine
 * gets its packages when a test runs, or from a directory that the environment names.
 */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A directory with the files; or why there is none, in words. */
export type Found = { readonly directory: string } | { readonly missing: string };

interface Wanted {
  /** A binary package, or one of the archives of a source package. */
  readonly kind: "deb" | "deb-src";
  readonly package: string;
  readonly archive: RegExp;
  /** What is unpacked, relative to the archive's own top. */
  readonly files: string;
  /** Below the archive's top. */
  readonly directory: string;
  readonly proof: string;
  /** Names a directory with the files. */
  readonly variable: string;
}

const SUITE: Wanted = {
  kind: "deb-src",
  package: "conntrack-tools",
  archive: /\.orig\.tar\.\w+$/,
  files: "*/tests/conntrackd/*",
  directory: "tests/conntrackd",
  proof: "conntrackd-tests.py",
  variable: "CONNTRACK_TOOLS_TESTS",
};

const PACKAGE_TESTS: Wanted = {
  kind: "deb-src",
  package: "conntrack-tools",
  archive: /\.debian\.tar\.\w+$/,
  files: "debian/tests/*",
  directory: "tests",
  proof: "basic-daemon-test.sh",
  variable: "CONNTRACKD_PACKAGE_TESTS",
};

const AGENTS: Wanted = {
  kind: "deb",
  package: "resource-agents",
  archive: /\.deb$/,
  files: "*",
  directory: "usr/lib/ocf",
  proof: "resource.d/heartbeat/conntrackd",
  variable: "OCF_ROOT",
};

/** conntrack-tools' own tests of conntrackd. */
export function conntrackToolsTests(): Found {
  if (spawnSync("python3", ["-c", "import yaml"]).status !== 0) return { missing: "needs python3-yaml" };
  return find(SUITE);
}

/** The tests that Debian's package conntrackd runs after its installation. */
export function conntrackdPackageTests(): Found {
  return find(PACKAGE_TESTS);
}

/** Pacemaker's resource agents, as OCF_ROOT. */
export function resourceAgents(): Found {
  return find(AGENTS);
}

const FETCH_MS_MAX = 90_000;
const AGAIN_MS = 24 * 3600 * 1000;

function find(wanted: Wanted): Found {
  const named = process.env[wanted.variable];
  if (named !== undefined) return { directory: named };
  const kept = join(".tmp", wanted.variable.toLowerCase());
  const directory = join(kept, wanted.directory);
  if (existsSync(join(directory, wanted.proof))) return { directory };
  // Says why it could not be fetched, so that not every run tries.
  const refused = `${kept}-refused`;
  const before = statSync(refused, { throwIfNoEntry: false });
  if (before !== undefined && Date.now() - before.mtimeMs < AGAIN_MS) return { missing: readFileSync(refused, "utf8") };
  const reason = fetchTo(kept, wanted);
  if (reason === null) return { directory };
  mkdirSync(".tmp", { recursive: true });
  writeFileSync(refused, reason);
  return { missing: reason };
}

/** Fetches a package, from where the machine gets its packages. Null, or why that failed. */
function fetchTo(to: string, wanted: Wanted): string | null {
  const { kind, package: name, archive, files, directory, proof, variable } = wanted;
  const work = mkdtempSync(join(tmpdir(), "conntrail-source-"));
  try {
    const isSource = kind === "deb-src";
    const apt = aptGet(work, kind);
    // Of several lists one may fail.
    apt("update");
    const done = isSource ? apt("source", "--download-only", name) : apt("download", name);
    if (!done) return `${name} cannot be fetched: set ${variable}`;
    const found = readdirSync(work).find((file) => archive.test(file));
    if (found === undefined) return `${name} has no such archive`;
    mkdirSync(to, { recursive: true });
    const path = join(work, found);
    const unpacked = isSource
      ? spawnSync("tar", ["-xf", path, "-C", to, "--strip-components=1", "--wildcards", files])
      : spawnSync("dpkg-deb", ["-x", path, to]);
    const isWhole = unpacked.status === 0 && existsSync(join(to, directory, proof));
    return isWhole ? null : `${name} has no ${proof}`;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** apt-get in a directory, with the machine's lists of packages but a state of its own. */
function aptGet(work: string, type: Wanted["kind"]): (...words: string[]) => boolean {
  const parts = join(work, "parts");
  for (const directory of [parts, join(work, "lists", "partial"), join(work, "cache")]) {
    mkdirSync(directory, { recursive: true });
  }
  writeFileSync(join(parts, "source.list"), oneLineSources(type));
  writeFileSync(join(parts, "source.sources"), deb822Sources(type));
  const places = { "Dir::State::lists": join(work, "lists"), "Dir::Cache": join(work, "cache") };
  const options = Object.entries({ ...places, "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": parts });
  const args = [...options.flatMap(([key, value]) => ["-o", `${key}=${value}`]), "-o", "APT::Sandbox::User=root"];
  return (...words) => spawnSync("apt-get", [...args, ...words], { cwd: work, timeout: FETCH_MS_MAX }).status === 0;
}

/** Other places have no conntrack-tools, and often no sources. */
const DISTRIBUTION = /\/(debian|ubuntu)\b/;

/** The machine's own lists of packages, as lists of their sources or of binary packages. */
function oneLineSources(type: string): string {
  const lines = listFiles(/\.list$/).flatMap((text) => text.split("\n"));
  const packages = lines.filter((line) => /^deb /.test(line) && DISTRIBUTION.test(line));
  return `${packages.map((line) => line.replace(/^deb /, `${type} `)).join("\n")}\n`;
}

function deb822Sources(type: string): string {
  const all = listFiles(/\.sources$/).flatMap((text) => text.split(/\n\s*\n/));
  const paragraphs = all.filter((text) => DISTRIBUTION.test(/^URIs:.*$/m.exec(text)?.[0] ?? ""));
  return paragraphs.map((text) => text.replace(/^Types:.*$/m, `Types: ${type}`)).join("\n\n");
}

function listFiles(name: RegExp): string[] {
  const directory = "/etc/apt/sources.list.d";
  const paths = existsSync(directory) ? readdirSync(directory).map((file) => join(directory, file)) : [];
  const all = [...paths, "/etc/apt/sources.list"].filter((path) => name.test(path) && existsSync(path));
  return all.map((path) => readFileSync(path, "utf8"));
}
