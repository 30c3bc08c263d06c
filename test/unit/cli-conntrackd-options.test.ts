/** conntrackd's command line as conntrackd 1.4.7 took it (test/golden/conntrackd/command-line.json, by capture-cli.sh). */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type ConntrackdRequest, parseOptions } from "../../src/cli/conntrackd/options.js";

interface Captured {
  readonly args: string;
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const captured = (JSON.parse(readFileSync("test/golden/conntrackd/command-line.json", "utf8")) as Captured[]).filter(
  ({ args }) => args !== undefined,
);

/** Said once the command line has been understood. */
const LATER = /^(can't connect|can't open config file|parsing config file|lockfile)/;

const parse = (line: string) => parseOptions(line.split(" ").filter((word) => word !== ""));

test("the same options are refused, with the same words and codes", () => {
  for (const { args, code, stdout, stderr } of captured) {
    const { does, usage, complaints } = parse(args);
    const said = [...stderr.matchAll(/^\[TIME\] \(pid=PID\) \[(\w+)\] (.*)$/gm)]
      .map(([, level, text]) => ({ level, text: text ?? "" }))
      .filter(({ text }) => !LATER.test(text));
    assert.deepEqual(complaints, said, args);
    assert.equal(usage, stdout.includes("\nUsage: conntrackd"), args);
    if (does.kind === "exit") assert.equal(does.code, code, args);
    else assert.doesNotMatch(stdout, /\nUsage:/, args);
  }
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
