/**
 * conntrackd's command line as conntrackd 1.4.7 took it (test/golden/conntrackd/command-line.json, by capture-cli.sh), and
 * what its later releases do differently (releases.json, by capture-releases.sh).
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type ConntrackdRequest, parseOptions, usageText, versionText } from "../../src/cli/conntrackd/options.js";
import { type Release, requestedRelease } from "../../src/cli/conntrackd/release.js";

interface Captured {
  readonly args: string;
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const read = (name: string): unknown => JSON.parse(readFileSync(`test/golden/conntrackd/${name}.json`, "utf8"));
const captured = (read("command-line") as Captured[]).filter(({ args }) => args !== undefined);
const later = read("releases") as Readonly<Record<string, readonly Captured[]>>;

/** Said once the command line has been understood. */
const LATER = /^(can't connect|can't open config file|parsing config file|lockfile|deprecated)/;

const parse = (line: string, release: Release = "1.4.7") =>
  parseOptions(
    line.split(" ").filter((word) => word !== ""),
    release,
  );

for (const release of ["1.4.7", "1.4.8", "1.4.9"] as const) {
  test(`the options that ${release} refuses are refused, with the same words and codes`, () => {
    const differs = new Map(later[release]?.map((each) => [each.args, each]));
    assert.equal(differs.size > 0, release === "1.4.9");
    for (const each of captured) check(differs.get(each.args) ?? each, release);
  });
}

function check({ args, code, stdout, stderr }: Captured, release: Release): void {
  const { does, usage, complaints } = parse(args, release);
  const said = [...stderr.matchAll(/^\[TIME\] \(pid=PID\) \[(\w+)\] (.*)$/gm)]
    .map(([, level, text]) => ({ level, text: text ?? "" }))
    .filter(({ text }) => !LATER.test(text));
  assert.deepEqual(complaints, said, args);
  assert.equal(usage, stdout.includes("\nUsage: conntrackd"), args);
  if (does.kind === "exit") assert.equal(does.code, code, args);
  else assert.equal(usage, / -C$/.test(args), args);
}

test("the release that is asked for", () => {
  assert.equal(requestedRelease(undefined), "1.4.7");
  assert.equal(requestedRelease(""), "1.4.7");
  assert.equal(requestedRelease("1.4.9"), "1.4.9");
  assert.throws(
    () => requestedRelease("1.5"),
    /^.*CONNTRAIL_CONNTRACKD: found "1.5", allowed is 1.4.7 or 1.4.8 or 1.4.9$/,
  );
  assert.match(
    versionText("1.4.8", "1.0.0"),
    /^Connection tracking userspace daemon v1\.4\.8, as conntrail 1\.0\.0 has/,
  );
  assert.match(
    usageText("1.4.9", "1.0.0"),
    /^Connection tracking userspace daemon v1\.4\.9, as .*\nUsage: conntrackd /,
  );
});

test("what is asked", () => {
  const asked: [string, ConntrackdRequest][] = [
    ["-c", { kind: "commit", part: null }],
    ["-c ct", { kind: "commit", part: "ct" }],
    ["-c e", { kind: "commit", part: "expect" }],
    ["-i", { kind: "dump", table: "internal", part: "ct", xml: false }],
    ["-i -x", { kind: "dump", table: "internal", part: "ct", xml: true }],
    ["-i exp -x", { kind: "dump", table: "internal", part: "expect", xml: true }],
    ["-e -x -C file", { kind: "dump", table: "external", part: "ct", xml: true }],
    ["-i -e", { kind: "dump", table: "external", part: "ct", xml: false }],
    ["-ix -s", { kind: "stats", part: "ct" }],
    ["-f", { kind: "flush", cache: "caches" }],
    ["-f int", { kind: "flush", cache: "internal" }],
    ["-f e", { kind: "flush", cache: "external" }],
    ["-F", { kind: "flush-kernel", part: null }],
    ["-F expect", { kind: "flush-kernel", part: "expect" }],
    ["-R c", { kind: "resync-kernel", part: "ct" }],
    ["-B", { kind: "bulk" }],
    ["-n", { kind: "resync-peers" }],
    ["-t", { kind: "purge" }],
    ["-k", { kind: "stop" }],
    ["-s", { kind: "stats", part: "ct" }],
    ["-s c", { kind: "stats", part: "cache" }],
    ["-s r", { kind: "stats", part: "runtime" }],
    ["-s rs", { kind: "stats", part: "rsqueue" }],
    ["-s m", { kind: "stats", part: "link" }],
    ["-s exp", { kind: "stats", part: "expect" }],
  ];
  for (const [line, request] of asked) assert.deepEqual(parse(line).does, { kind: "request", request }, line);
});

test("the daemon, and the file", () => {
  assert.deepEqual(parse("").does, { kind: "daemon", background: false });
  assert.deepEqual(parse("-C a").does, { kind: "daemon", background: false });
  assert.deepEqual(parse("-d -C a"), {
    does: { kind: "daemon", background: true },
    configPath: "a",
    usage: false,
    complaints: [],
  });
  assert.equal(parse("-C a -s -C b").configPath, "b");
  assert.deepEqual(parse("-s -C").complaints, [{ level: "ERROR", text: "Missing config filename" }]);
  assert.deepEqual(parse("-d -v").does, { kind: "version" });
});
