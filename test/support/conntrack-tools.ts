/**
 * The tests that conntrack-tools has for its conntrackd. They are not ours and not kept here: they come with the source
 * of the distribution's package when a test runs, or from a directory that CONNTRACK_TOOLS_TESTS names.
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

const SUITE = join("tests", "conntrackd");
const PROGRAM = "conntrackd-tests.py";
const FETCH_MS_MAX = 90_000;
const AGAIN_MS = 24 * 3600 * 1000;
/** Says in a build's directory for files of its own why the source could not be fetched, so that not every run tries. */
const REFUSED = join(".tmp", "conntrack-tools-refused");

/** The directory of the tests; or why there is none, in words. */
export function conntrackToolsTests(): { readonly directory: string } | { readonly missing: string } {
  const named = process.env.CONNTRACK_TOOLS_TESTS;
  if (named !== undefined) return { directory: named };
  if (spawnSync("python3", ["-c", "import yaml"]).status !== 0) return { missing: "needs python3-yaml" };
  const kept = join(".tmp", "conntrack-tools");
  if (!existsSync(join(kept, SUITE, PROGRAM))) {
    const refused = statSync(REFUSED, { throwIfNoEntry: false });
    if (refused !== undefined && Date.now() - refused.mtimeMs < AGAIN_MS)
      return { missing: readFileSync(REFUSED, "utf8") };
    const reason = fetchSource(kept);
    if (reason !== null) {
      mkdirSync(".tmp", { recursive: true });
      writeFileSync(REFUSED, reason);
      return { missing: reason };
    }
  }
  return { directory: join(kept, SUITE) };
}

/** Fetches the package's source, from where the machine gets its packages. Null, or why that failed. */
function fetchSource(to: string): string | null {
  const work = mkdtempSync(join(tmpdir(), "conntrail-source-"));
  try {
    const parts = join(work, "parts");
    for (const directory of [parts, join(work, "lists", "partial"), join(work, "cache")]) {
      mkdirSync(directory, { recursive: true });
    }
    writeFileSync(join(parts, "source.list"), oneLineSources());
    writeFileSync(join(parts, "source.sources"), deb822Sources());
    const places = { "Dir::State::lists": join(work, "lists"), "Dir::Cache": join(work, "cache") };
    const options = Object.entries({ ...places, "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": parts });
    const apt = (...words: string[]): boolean => {
      const args = [...options.flatMap(([key, value]) => ["-o", `${key}=${value}`]), "-o", "APT::Sandbox::User=root"];
      return spawnSync("apt-get", [...args, ...words], { cwd: work, timeout: FETCH_MS_MAX }).status === 0;
    };
    // Of several lists one may fail.
    apt("update");
    if (!apt("source", "--download-only", "conntrack-tools")) return "conntrack-tools' source cannot be fetched";
    const archive = readdirSync(work).find((name) => name.includes(".orig.tar") && !name.endsWith(".asc"));
    if (archive === undefined) return "conntrack-tools' source has no archive";
    mkdirSync(to, { recursive: true });
    const unpack = ["-xf", join(work, archive), "-C", to, "--strip-components=1", "--wildcards", `*/${SUITE}/*`];
    return spawnSync("tar", unpack).status === 0 ? null : "conntrack-tools' source has no tests of conntrackd";
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Other places have no conntrack-tools, and often no sources. */
const DISTRIBUTION = /\/(debian|ubuntu)\b/;

/** The machine's own lists of packages, as lists of their sources. */
function oneLineSources(): string {
  const lines = listFiles(/\.list$/).flatMap((text) => text.split("\n"));
  const packages = lines.filter((line) => /^deb /.test(line) && DISTRIBUTION.test(line));
  return `${packages.map((line) => line.replace(/^deb /, "deb-src ")).join("\n")}\n`;
}

function deb822Sources(): string {
  const all = listFiles(/\.sources$/).flatMap((text) => text.split(/\n\s*\n/));
  const paragraphs = all.filter((text) => DISTRIBUTION.test(/^URIs:.*$/m.exec(text)?.[0] ?? ""));
  return paragraphs.map((text) => text.replace(/^Types:.*$/m, "Types: deb-src")).join("\n\n");
}

function listFiles(name: RegExp): string[] {
  const directory = "/etc/apt/sources.list.d";
  const paths = existsSync(directory) ? readdirSync(directory).map((file) => join(directory, file)) : [];
  const all = [...paths, "/etc/apt/sources.list"].filter((path) => name.test(path) && existsSync(path));
  return all.map((path) => readFileSync(path, "utf8"));
}
