/** The command line as a child process, in a copy of the build, against a server without a daemon behind it. */
import assert from "node:assert/strict";
import { type ChildProcess, type StdioOptions, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseConfig } from "../../src/config/config.js";
import { type ControlServer, serveControl } from "../../src/control/server.js";
import { ConntrailError } from "../../src/errors.js";
import { COMMIT, FakeHandlers, REHEARSAL, STATS, STATUS } from "../support/control-handlers.js";
import { finish, ProgramCopy, ProgramLog, type ProgramResult } from "../support/program.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-cli-${process.pid}-`));
const tree = join(directory, "tree");
const copy = new ProgramCopy(tree);
const config = join(directory, "fw1.yaml");
const socket = join(directory, "control.sock");
const handlers = new FakeHandlers();
let server: ControlServer;

/** Stands in for the composition root: says what reaches it. */
const DAEMON = `export async function runDaemon(config, logger, controls) {
  if (config.cluster === "broken") throw new Error("cannot\\ngo on");
  if (config.cluster === "crash") setImmediate(() => { throw new Error("a bug"); });
  controls.reload.onReload(["purge.after"], (next) => {
    logger.info({ purge: next.purgeAfterSeconds }, "seen");
    return [];
  });
  logger.info("ready");
  await new Promise((resolve) => {
    const timer = setInterval(() => logger.debug("alive"), 20);
    controls.signal.addEventListener("abort", () => { clearInterval(timer); resolve(); });
  });
}
`;

before(async () => {
  copy.replace("daemon.js", DAEMON);
  writeFileSync(config, configText("edge", "info"));
  server = await serveControl(socket, handlers);
});

after(async () => {
  await server?.close(100);
  rmSync(directory, { recursive: true, force: true });
});

function configText(cluster: string, level: string): string {
  return `cluster: ${cluster}\nnode: fw1\nlisten: 10.77.0.1\ncontrol: ${socket}\nlog: { level: ${level} }\n`;
}

function start(...args: string[]): ChildProcess {
  return spawn(process.execPath, [copy.path, ...args], { cwd: "/", stdio: ["ignore", "pipe", "pipe"] });
}

/** Runs a command on the configuration of this test. */
function run(...args: string[]): Promise<ProgramResult> {
  return finish(start(...args, "-c", config));
}

async function expectText(args: readonly string[], code: number, stdout: string | RegExp): Promise<void> {
  const result = await run(...args);
  assert.equal(result.stderr, "", args.join(" "));
  if (typeof stdout === "string") assert.equal(result.stdout, stdout);
  else assert.match(result.stdout, stdout);
  assert.equal(result.code, code);
}

async function expectJson(args: readonly string[], code: number, value: unknown): Promise<void> {
  const result = await run(...args, "--json");
  assert.equal(result.stderr, "");
  assert.deepEqual(JSON.parse(result.stdout), value);
  assert.equal(result.code, code);
}

async function expectFailure(args: readonly string[], code: number, line: string): Promise<void> {
  assert.deepEqual(await finish(start(...args)), { code, stdout: "", stderr: `conntrail: ${line}\n` });
}

test("status exits 1 while the node is not in sync", async () => {
  await expectText(["status"], 1, /^node {7}fw1 of cluster edge, epoch 12\n/);
  await expectJson(["status"], 1, STATUS);
});

test("stats in all its forms", async () => {
  await expectText(["stats"], 0, /^internal\n {2}active {12,}3\n/);
  await expectText(["stats", "--format", "conntrackd"], 0, /^cache internal:\ncurrent active connections:\t {11}3\n/);
  await expectJson(["stats"], 0, STATS);
  await expectJson(["stats", "--format", "json"], 0, STATS);
});

test("what changes something says so in one line, or as JSON", async () => {
  handlers.calls.length = 0;
  const commit = "5 committed, 1 updated, 0 skipped, 2 failed (ENOENT 2), 1 stale in 12 ms";
  await expectText(["commit"], 0, `${commit}\n`);
  await expectText(["flush"], 0, "flushed 3 from internal, 2 from external\n");
  await expectText(["flush", "kernel"], 0, "flushed 9 from kernel\n");
  await expectText(["resync", "kernel"], 0, "resynced with kernel: 4 flows read, 1 put right in 3 ms\n");
  await expectText(["bulk"], 0, "sent 4 flows in 2 ms\n");
  await expectText(["purge"], 0, "purge in 60 s, unless a commit comes first\n");
  await expectText(["hook", "primary"], 0, `backup -> primary in 4 ms: ${commit}\n`);
  await expectText(["hook", "fault"], 0, "backup -> fault in 4 ms\n");
  await expectJson(["commit"], 0, COMMIT);
  await expectJson(["flush", "internal"], 0, { internal: 3, external: null, kernel: null });
  await expectJson(["resync", "peers"], 0, { source: "peers", flows: 4, changed: 1, durationMs: 3 });
  await expectJson(["bulk"], 0, { flows: 4, durationMs: 2 });
  await expectJson(["purge"], 0, { afterSeconds: 60 });
  await expectJson(["hook", "backup"], 0, { role: "backup", previous: "backup", commit: null, durationMs: 4 });
  assert.deepEqual(
    handlers.calls.filter((call) => call !== "committed"),
    [
      "commit",
      "flush caches",
      "flush kernel",
      "resync kernel",
      "bulk",
      "purge",
      "hook primary",
      "hook fault",
      "commit",
      "flush internal",
      "resync peers",
      "bulk",
      "purge",
      "hook backup",
    ],
  );
});

test("rehearse exits 1 when a takeover would lose something", async () => {
  const text = [
    "fw1 carries 3 flows; the filter leaves 1 more out, which every takeover loses (checked in 12 ms)",
    "",
    "TAKEOVER BY  CHECKED  MISSING  DIFFERING  NO HELPER  NO ROOM  WOULD LOSE",
    "fw2          3        1        0          0          0        something",
    "fw3          0        0        0          0          0        not known: its broker is away",
    "",
    "fw2 does not have",
    "  udp 17 29 src=10.0.0.1",
    "",
  ];
  await expectText(["rehearse"], 1, text.join("\n"));
  await expectJson(["rehearse"], 1, REHEARSAL);
});

test("dump prints conntrackd's lines, of an external cache without the reply", async () => {
  const orig = "tcp      6 ESTABLISHED src=10.0.0.10 dst=192.168.255.33 sport=48070 dport=22 ";
  const reply = "src=192.168.255.33 dst=192.168.255.250 sport=22 dport=48070 ";
  const since = (await run("dump", "internal")).stdout.split("\n");
  assert.equal(since.length, 4);
  assert.match(since[0]!, new RegExp(`^${orig}${reply}\\[ASSURED\\] mark=0 \\[active since \\d+s\\]$`));
  await expectText(
    ["dump", "external", "--mark", "2"],
    0,
    new RegExp(`^${orig}\\[ASSURED\\] mark=2 \\[active since \\d+s\\]\n$`),
  );
  await expectText(["dump", "kernel", "--mark", "0"], 0, /^tcp {6}6 100 ESTABLISHED src=.* mark=0\n$/);
});

test("dump as JSON and XML, all or some", async () => {
  const { stdout } = await run("dump", "internal", "--json");
  const flows = JSON.parse(stdout) as { mark: number; orig: { src: string }; helper?: string }[];
  assert.deepEqual(
    flows.map(({ mark, helper, orig }) => [mark, helper, orig.src]),
    [
      [0, undefined, "10.0.0.10"],
      [1, "ftp", "10.0.0.10"],
      [2, undefined, "10.0.0.10"],
    ],
  );
  for (const none of [
    ["--proto", "udp"],
    ["--src", "10.9.0.0/16"],
    ["--port", "1"],
    ["--dst", "10.0.0.10"],
  ]) {
    await expectJson(["dump", "internal", ...none], 0, []);
    await expectText(["dump", "internal", ...none], 0, "");
  }
  for (const all of [["--proto", "tcp"], ["--host", "192.168.255.250"], ["--port", "22"], ["--nat"]]) {
    assert.equal(
      (await run("dump", "external", "--format", "xml", ...all)).stdout.match(/<flow>.*<\/flow>\n/g)?.length,
      3,
    );
  }
});

test("dump ends quietly when its reader goes, and the daemon's part too", async () => {
  handlers.flows = 3_000_000;
  const stopped = handlers.dumpsStopped;
  const child = start("dump", "internal", "-c", config);
  const result = finish(child);
  await once(child.stdout!, "data");
  child.stdout!.destroy();
  const { code, stderr } = await result;
  assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
  const deadline = Date.now() + 10_000;
  while (handlers.dumpsStopped === stopped && Date.now() < deadline) await new Promise(setImmediate);
  assert.equal(handlers.dumpsStopped, stopped + 1);
  handlers.flows = 3;
});

test("output that cannot be written is a failure", {
  skip: existsSync("/dev/full") ? false : "no /dev/full",
}, async () => {
  const full = openSync("/dev/full", "w");
  try {
    for (const command of [["stats"], ["dump", "internal"], ["dump", "internal", "--json"]]) {
      const stdio: StdioOptions = ["ignore", full, "pipe"];
      const child = spawn(process.execPath, [copy.path, ...command, "-c", config], { stdio });
      const { code, stderr } = await finish(child);
      assert.deepEqual(
        [code, stderr.split(":").slice(0, 3)],
        [1, ["conntrail", " the output cannot be written", " ENOSPC"]],
      );
    }
  } finally {
    closeSync(full);
  }
});

test("what the daemon refuses ends with its message and 1", async () => {
  handlers.failure = new ConntrailError("BROKER", "the broker is away:\nstart it");
  try {
    await expectFailure(["commit", "-c", config], 1, "the broker is away: start it");
    await expectFailure(["dump", "kernel", "--json", "-c", config], 1, "the broker is away: start it");
  } finally {
    handlers.failure = null;
  }
});

test("mistakes end with one line and 2", async () => {
  await expectFailure(["statuss"], 2, "unknown command 'statuss' (Did you mean status?)");
  await expectFailure(["status", "--bogus"], 2, "unknown option '--bogus'");
  await expectFailure(["status", "more"], 2, "too many arguments for 'status'. Expected 0 arguments but got 1.");
  await expectFailure(["resync"], 2, "missing required argument 'source'");
  await expectFailure(
    ["-c", config, "hook", "master"],
    2,
    "command-argument value 'master' is invalid for argument 'role'. Allowed choices are primary, backup, fault.",
  );
  await expectFailure(
    ["dump", "internal", "--src", "here", "-c", config],
    2,
    '--src: "here" is not allowed; give an IPv4 or IPv6 address, or a network such as 192.0.2.0/24',
  );
  const none = await finish(start());
  assert.equal(none.code, 2);
  assert.match(none.stderr, /^Usage: conntrail /);
});

test("help and version end with 0", async () => {
  const { version } = JSON.parse(readFileSync(join(tree, "package.json"), "utf8")) as { version: string };
  assert.deepEqual(await finish(start("--version")), { code: 0, stdout: `${version}\n`, stderr: "" });
  const help = await finish(start("--help"));
  assert.equal(help.code, 0);
  for (const name of [
    "daemon",
    "status",
    "dump",
    "stats",
    "commit",
    "flush",
    "resync",
    "bulk",
    "purge",
    "hook",
    "init",
  ]) {
    assert.match(help.stdout, new RegExp(`^ {2}${name} `, "m"));
  }
});

test("a missing or wrong configuration ends with 2, a missing daemon with 1", async () => {
  const none = join(directory, "none.yaml");
  const unread = `${none}: cannot be read: no such file: write one with conntrail init, or name one with -c`;
  await expectFailure(["status", "-c", none], 2, unread);
  await expectFailure(["daemon", "-c", none], 2, unread);
  const wrong = join(directory, "wrong.yaml");
  writeFileSync(wrong, `${configText("edge", "info")}mode: x\n`);
  await expectFailure(
    ["daemon", "-c", wrong],
    2,
    `${wrong}:6: mode: found "x", allowed is cache, inject, observer, stats`,
  );
  const lonely = join(directory, "lonely.yaml");
  const path = join(directory, "lonely.sock");
  writeFileSync(lonely, `cluster: a\nnode: b\nlisten: 10.0.0.1\ncontrol: ${path}\n`);
  await expectFailure(
    ["commit", "-c", lonely],
    1,
    `no conntrail daemon answers on ${path}: start it with systemctl start conntrail, or conntrail daemon`,
  );
});

test("init writes what the daemon reads, once", async () => {
  const path = join(directory, "etc", "conntrail.yaml");
  const flags = ["--cluster", "edge", "--node", "fw1", "--listen", "10.77.0.1", "--peer", "fw2=10.77.0.2"];
  const args = ["init", ...flags, "--peer", "fw3=fd00::3", "--no-keys", "--out", path];
  const snippet = join(directory, "etc", "keepalived-snippet.conf");
  const first = await finish(start(...args));
  assert.deepEqual(first, {
    code: 0,
    stdout: `wrote ${path}\nwrote ${snippet}\nnext: look it over, do the same on fw2, fw3, then start it with: conntrail daemon -c ${path}\n`,
    stderr: "",
  });
  const written = parseConfig(readFileSync(path, "utf8"), path);
  assert.equal(written.node, "fw1");
  assert.deepEqual(written.peers, [
    { node: "fw2", address: "10.77.0.2" },
    { node: "fw3", address: "fd00::3" },
  ]);
  assert.equal(written.filter.local, true);
  assert.equal(written.isOpen, true);
  await expectFailure(args, 1, `${path}: exists already: replace it with --force or name another with --out`);
  const again = await finish(start("init", ...flags, "--no-keys", "--force", "--json", "-c", path));
  assert.deepEqual(JSON.parse(again.stdout), {
    path,
    cluster: "edge",
    node: "fw1",
    listen: "10.77.0.1",
    peers: [{ node: "fw2", address: "10.77.0.2" }],
    bundles: [],
    keepalived: snippet,
  });
});

test("init writes both of keepalived's ways, the one that the node has and the other as comments", async () => {
  const place = join(directory, "ways");
  const path = join(place, "conntrail.yaml");
  const flags = ["init", "--cluster", "edge", "--node", "fw1", "--listen", "10.77.0.1", "--no-keys", "--force"];
  const lines = (text: string, comment: string): string[] =>
    text.split("\n").flatMap((line) => (line.startsWith(comment) ? [line.slice(comment.length).trim()] : []));
  const ways: string[][] = [];
  for (const options of [[], ["--hooks"]]) {
    await finish(start(...flags, ...options, "--out", path));
    const { keepalived } = parseConfig(readFileSync(path, "utf8"), path);
    const fifo = options.length === 0 ? "/run/conntrail/keepalived.fifo" : null;
    assert.equal(keepalived.fifo, fifo);
    const text = readFileSync(join(place, "keepalived-snippet.conf"), "utf8");
    assert.equal(/^ {2}vrrp_notify_fifo/m.test(text), fifo !== null);
    assert.equal(/^ {2}notify_master/m.test(text), fifo === null);
    assert.equal(/^# {3}notify_stop/m.test(text), fifo !== null);
    ways.push(lines(text, "  "), lines(text, "#   "));
  }
  assert.deepEqual(ways[0], ways[3], "the same words, with and without the sign of a comment");
  assert.deepEqual(ways[1], ways[2]);
});

test("init refuses what the daemon would refuse, by the flag's name", async () => {
  const path = join(directory, "refused.yaml");
  const flags = ["init", "--out", path, "--cluster", "edge", "--node", "fw1"];
  await expectFailure(["init", "--out", path], 2, "required option '--cluster <name>' not specified");
  await expectFailure(
    [...flags, "--listen", "10.77.0.1", "--peer", "fw2"],
    2,
    '--peer: found "fw2", allowed is NAME=ADDRESS',
  );
  await expectFailure(
    [...flags, "--listen", "10.77.0.1\nmode: x"],
    2,
    '--listen: found "10.77.0.1\\nmode: x", allowed is the IPv4 or IPv6 address of this node on the dedicated link',
  );
  await expectFailure(
    [...flags, "--listen", "10.77.0.1", "--peer", "fw2=10.77.0.1"],
    2,
    '--peer fw2: found "10.77.0.1", allowed is an address of its own: this one is that of this node (listen) already',
  );
  assert.ok(!existsSync(path));
});

test("lines that a program logs in one piece are found one after the other", async () => {
  const lines = ["first", "second"].map((msg) => `${JSON.stringify({ msg })}\n`).join("");
  const child = spawn(process.execPath, ["-e", `process.stdout.write(${JSON.stringify(lines)})`]);
  const log = new ProgramLog(child);
  assert.deepEqual([await log.next("first"), await log.next("second")], [{ msg: "first" }, { msg: "second" }]);
  await assert.rejects(log.next("third"), /ended before it logged third/);
});

test("daemon: ready, reload at SIGHUP, clean end at SIGTERM", async () => {
  const path = join(directory, "daemon.yaml");
  writeFileSync(path, configText("edge", "info"));
  const child = start("daemon", "-c", path);
  const [result, log] = [finish(child), new ProgramLog(child)];
  assert.equal((await log.next("ready")).node, "fw1");
  writeFileSync(path, `${configText("edge", "debug")}purge: { after: 5s }\n`);
  child.kill("SIGHUP");
  assert.equal((await log.next("seen")).purge, 5);
  assert.equal((await log.next("alive")).level, 20);
  writeFileSync(path, "nonsense: 1\n");
  child.kill("SIGHUP");
  const failed = await log.next("reload failed, the configuration stays as it was");
  assert.match(String(failed.error), /daemon\.yaml:1: /);
  child.kill("SIGTERM");
  const { code, stdout, stderr } = await result;
  assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
  assert.match(stdout, /"msg":"ended"}\n$/);
});

test("daemon: of a conntrackd.conf it runs with, it logs what it leaves out", async () => {
  const path = join(directory, "conntrackd.conf");
  const link = "UDP { IPv4_address 10.77.0.1 IPv4_Destination_Address 10.77.0.2 Port 3780 }";
  const general = `LockFile ${join(directory, "lock")}\nUNIX { Path ${socket} }\nScheduler { Priority 5 }`;
  writeFileSync(path, `Sync { ${link} }\nGeneral {\n${general}\n}\n`);
  const child = start("daemon", "-c", path);
  const [result, log] = [finish(child), new ProgramLog(child)];
  const { level, line, directive } = await log.next("directive not supported");
  assert.deepEqual({ level, line, directive }, { level: 40, line: 5, directive: "Scheduler" });
  assert.equal((await log.next("ready")).node, "10-77-0-1");
  child.kill("SIGTERM");
  assert.equal((await result).code, 0);
});

test("daemon: what it cannot go on with is one line and 1", async () => {
  const path = join(directory, "broken.yaml");
  writeFileSync(path, configText("broken", "info"));
  await expectFailure(["daemon", "-c", path], 1, "cannot go on");
});

test("the launcher works through a link, and says what to run when nothing is built", async () => {
  const link = join(directory, "link");
  symlinkSync(copy.path, link);
  const linked = spawn(link, ["status", "-c", config], { cwd: directory, stdio: ["ignore", "pipe", "pipe"] });
  assert.equal((await finish(linked)).code, 1);
  const bare = join(directory, "bare");
  mkdirSync(join(bare, "bin"), { recursive: true });
  cpSync(copy.path, join(bare, "bin", "conntrail"));
  cpSync(join(tree, "package.json"), join(bare, "package.json"));
  const child = spawn(join(bare, "bin", "conntrail"), ["status"], { stdio: ["ignore", "pipe", "pipe"] });
  assert.deepEqual(await finish(child), {
    code: 1,
    stdout: "",
    stderr: `conntrail: not built yet: run npm run setup in ${bare}/\n`,
  });
});

test("with a log file nothing is printed, and a crash or a failure is in it", async () => {
  const log = join(directory, "daemon.log");
  const file = join(directory, "logged.yaml");
  const daemon = async (cluster: string): Promise<ProgramResult> => {
    writeFileSync(file, `${configText(cluster, "info").replace("}", `, file: ${log} }`)}lock: ${directory}/lock\n`);
    return finish(start("daemon", "-c", file));
  };
  const crashed = await daemon("crash");
  assert.notEqual(crashed.code, 0);
  assert.equal(crashed.stdout, "");
  assert.match(readFileSync(log, "utf8"), /"level":60,.*"message":"a bug".*"msg":"crashed"\}\n$/);
  // The crash has left its lock file.
  assert.deepEqual(await daemon("broken"), { code: 1, stdout: "", stderr: "conntrail: cannot go on\n" });
  assert.match(
    readFileSync(log, "utf8"),
    /"msg":"took over the lock file .*"\}\n.*"level":60,.*"msg":"cannot\\ngo on"\}\n$/,
  );
  assert.equal(existsSync(join(directory, "lock")), false);
});
