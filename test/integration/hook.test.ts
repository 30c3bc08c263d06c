/** `hook` as keepalived calls it, against a server without a daemon behind it: which is late, away, older, or not its to ask. */
import assert from "node:assert/strict";
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { HookStart } from "../../src/control/hook-start.js";
import { type HookRecord, HookTrace } from "../../src/control/hook-trace.js";
import type { HookReport, HookRole } from "../../src/control/protocol.js";
import { type ControlServer, serveControl } from "../../src/control/server.js";
import { ConntrailError } from "../../src/errors.js";
import { waitFor } from "../../src/lab/process.js";
import { FakeHandlers } from "../support/control-handlers.js";
import { DatagramReader } from "../support/datagram-reader.js";

const WAIT_MS = 30_000;
const BUILD = fileURLToPath(new URL("../..", import.meta.url));
const PROJECT = dirname(BUILD.replace(/\/$/, ""));
const directory = mkdtempSync(join(tmpdir(), `conntrail-hook-${process.pid}-`));
const program = join(directory, "tree", "bin", "conntrail");
const isRoot = process.getuid?.() === 0;
let places = 0;

before(() => {
  chmodSync(directory, 0o755);
  const tree = join(directory, "tree");
  mkdirSync(join(tree, "bin"), { recursive: true });
  cpSync(join(PROJECT, "bin", "conntrail"), program);
  cpSync(join(PROJECT, "package.json"), join(tree, "package.json"));
  cpSync(join(BUILD, "src"), join(tree, "dist", "src"), { recursive: true });
  symlinkSync(join(PROJECT, "node_modules"), join(tree, "node_modules"));
});
/** Open control sockets, also of tests that have failed. */
const serving = new Set<ControlServer>();

after(async () => {
  await Promise.all([...serving].map((server) => server.close(100)));
  rmSync(directory, { recursive: true, force: true });
});

/** Keeps the starts that hooks tell. */
class Handlers extends FakeHandlers {
  readonly starts: (HookStart | undefined)[] = [];
  /** What the next hooks fail with, one by one. */
  readonly failures: Error[] = [];

  override async hook(role: HookRole, _progress?: unknown, group?: string, started?: HookStart): Promise<HookReport> {
    this.starts.push(started);
    const failure = this.failures.shift();
    if (failure !== undefined) throw failure;
    this.calls.push(group === undefined ? role : `${role} ${group}`);
    return { role, previous: "backup", commit: null, durationMs: 1 };
  }
}

interface Ended {
  readonly code: number | null;
  readonly stderr: string;
}

/** A node's place: its configuration, and where its control socket may come to be. */
class Place {
  readonly directory = join(directory, String(places++));
  readonly control = join(this.directory, "control.sock");
  readonly config = join(this.directory, "fw1.yaml");
  readonly handlers = new Handlers();

  constructor() {
    mkdirSync(this.directory);
    writeFileSync(this.config, `cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ncontrol: ${this.control}\n`);
  }

  async serve(): Promise<ControlServer> {
    const server = await serveControl(this.control, this.handlers);
    serving.add(server);
    return server;
  }

  /** As keepalived calls it: no shell, no PATH. */
  start(args: readonly string[], options: SpawnOptions = {}): ChildProcess {
    return spawn(program, ["hook", ...args, "-c", this.config], {
      env: {},
      ...options,
      stdio: ["ignore", "pipe", "pipe"],
    });
  }

  hook(...args: string[]): Promise<Ended> {
    return ended(this.start(args));
  }

  trace(): HookRecord[] {
    return new HookTrace(this.control).read();
  }
}

async function ended(child: ChildProcess): Promise<Ended> {
  let stderr = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { code, stderr };
}

const DONE: Ended = { code: 0, stderr: "" };

test("without PATH it does its work, and keeps what was said", async () => {
  const place = new Place();
  const server = await place.serve();
  assert.deepEqual(await place.hook("primary"), DONE);
  assert.deepEqual(await place.hook("backup", "--group", "lan"), DONE);
  assert.deepEqual(place.handlers.calls, ["primary", "backup lan"]);
  assert.deepEqual(
    place.trace().map(({ group, role, taken, error }) => ({ group, role, taken, error })),
    [
      { group: "", role: "primary", taken: true, error: null },
      { group: "lan", role: "backup", taken: true, error: null },
    ],
  );
  assert.deepEqual(
    place.trace().map(({ started }) => started),
    place.handlers.starts,
  );
  await server.close(100);
});

test("it waits for a daemon whose socket is not there yet, and for one that took over from a killed one", async () => {
  for (const left of [false, true]) {
    const place = new Place();
    if (left) await leaveSocket(place.control);
    const hook = place.hook("primary");
    await waitFor("what was said is kept", WAIT_MS, () => place.trace().length === 1);
    await delay(1500);
    const server = await place.serve();
    assert.deepEqual(await hook, DONE);
    assert.deepEqual(place.handlers.calls, ["primary"]);
    await server.close(100);
  }
});

test("it asks again when the daemon has not started, or hangs up", async () => {
  const place = new Place();
  const hangsUp = createServer((socket) => socket.destroy()).listen(place.control);
  await once(hangsUp, "listening");
  const hook = place.hook("backup");
  await once(hangsUp, "connection");
  await new Promise((resolve) => hangsUp.close(resolve));
  place.handlers.failures.push(new ConntrailError("AGAIN", "the daemon has not started"));
  const server = await place.serve();
  assert.deepEqual(await hook, DONE);
  assert.equal(place.handlers.starts.length, 2);
  await server.close(100);
});

test("where no daemon is to be seen it gives up after some seconds, in one line, and leaves a trace", async () => {
  const place = new Place();
  const startMs = performance.now();
  const result = await place.hook("primary", "--group", "lan");
  const seconds = (performance.now() - startMs) / 1000;
  assert.ok(seconds > 4 && seconds < 15, `${seconds} s`);
  const line = `no conntrail daemon answers on ${place.control}: start it with systemctl start conntrail, or conntrail daemon`;
  assert.deepEqual(result, { code: 1, stderr: `conntrail: ${line}\n` });
  const [record] = place.trace();
  assert.deepEqual(
    { ...record, started: null, saidMs: 0 },
    {
      ...{ group: "lan", role: "primary", started: null, saidMs: 0, taken: false, error: line },
    },
  );
});

test("it waits longer while the process of this node's daemon is there", async () => {
  const place = new Place();
  const looks = ["-e", "setInterval(() => {}, 1e6)", "/opt/conntrail/bin/conntrail", "daemon", "-c"];
  const daemon = spawn(process.execPath, [...looks, place.config]);
  const other = spawn(process.execPath, [...looks, `${place.config}.other`]);
  try {
    const hook = place.hook("primary");
    await delay(8000);
    const server = await place.serve();
    assert.deepEqual(await hook, DONE);
    await server.close(100);
    rmSync(place.control, { force: true });
    daemon.kill();
    await once(daemon, "exit");
    const startMs = performance.now();
    assert.equal((await place.hook("primary")).code, 1);
    assert.ok(performance.now() - startMs < 15_000, "another node's daemon is none of its own");
  } finally {
    daemon.kill();
    other.kill();
  }
});

test("what the daemon refuses is not asked again, and leaves a trace", async () => {
  const place = new Place();
  place.handlers.failures.push(new ConntrailError("KERNEL", "the kernel refuses"));
  const server = await place.serve();
  assert.deepEqual(await place.hook("primary"), { code: 1, stderr: "conntrail: the kernel refuses\n" });
  assert.equal(place.trace()[0]?.error, "the kernel refuses");
  assert.equal(place.handlers.starts.length, 1);
  await server.close(100);
});

test("a daemon of an earlier release, which knows nothing of starts, is asked without", async () => {
  const place = new Place();
  place.handlers.failures.push(
    new ConntrailError("MALFORMED", 'request is not one: args: Unrecognized key: "started"'),
  );
  const server = await place.serve();
  assert.deepEqual(await place.hook("primary"), DONE);
  assert.deepEqual(place.handlers.starts.slice(1), [undefined]);
  await server.close(100);
});

test("another user is told so in one line", { skip: isRoot ? false : "needs root" }, async () => {
  const place = new Place();
  const server = await place.serve();
  const user = { uid: 65_534, gid: 65_534 };
  const result = await ended(place.start(["primary"], user));
  const text = `the control socket ${place.control} is for root alone: run as root (keepalived: script_user root)`;
  assert.deepEqual(result, { code: 1, stderr: `conntrail: ${text}\n` });
  assert.deepEqual(place.trace(), []);
  // Nor may that user leave a word in root's name.
  mkdirSync(`${place.control}.hooks`, { mode: 0o777 });
  chownSync(`${place.control}.hooks`, user.uid, user.gid);
  assert.throws(() => new HookTrace(place.control).prepare(), { code: "CONTROL" });
  await server.close(100);
});

test("a script that keepalived starts counts by its own start", async () => {
  const place = new Place();
  const server = await place.serve();
  const keepalived = join(place.directory, "keepalived");
  copyFileSync("/bin/sh", keepalived);
  const script = join(place.directory, "notify.sh");
  // Later scripts may come first: what they do before the hook takes its time.
  writeFileSync(script, `#!/bin/sh\nsleep "$1"\n${program} hook "$2" -c ${place.config}\nexit $?\n`, { mode: 0o755 });
  const both = `${script} 1 backup & ${script} 0 primary & wait`;
  const result = await ended(spawn(keepalived, ["-c", both], { stdio: ["ignore", "ignore", "pipe"] }));
  assert.deepEqual(result, DONE);
  assert.deepEqual(place.handlers.calls, ["primary", "backup"]);
  const [primary, backup] = place.handlers.starts as [HookStart, HookStart];
  assert.ok(backup.ticks < primary.ticks || (backup.ticks === primary.ticks && backup.pid < primary.pid));
  await server.close(100);
});

test("syslog hears of it", { skip: isRoot ? false : "needs root" }, async () => {
  const place = new Place();
  using syslog = new DatagramReader(join(place.directory, "log"));
  place.handlers.failures.push(new ConntrailError("KERNEL", "the kernel\nrefuses"));
  const server = await place.serve();
  const result = await ended(inOwnDev(syslog.path, [program, "hook", "primary", "-c", place.config]));
  assert.deepEqual(result, { code: 1, stderr: "conntrail: the kernel refuses\n" });
  const [line, ...more] = syslog.read();
  assert.match(line ?? "", /^<27>\w{3} [ \d]\d [\d:]{8} conntrail\[\d+\]: hook failed: the kernel refuses$/);
  assert.deepEqual(more, []);
  const usage = await ended(inOwnDev(syslog.path, [program, "hook", "master"]));
  assert.equal(usage.code, 2);
  assert.match(syslog.read()[0] ?? "", /^<27>.*hook failed: .*argument value 'master' is invalid/);
  await server.close(100);
});

test("while the program is replaced it says so in one line and leaves its traces", {
  skip: isRoot ? false : "needs root",
}, async () => {
  const tree = join(directory, "tree");
  for (const [missing, why] of [
    [
      "dist/src/cli/hook-main.js",
      /the program is not whole: Cannot find module '.*hook-main\.js'.*: wait for an upgrade/,
    ],
    ["dist", /not built yet: run npm run setup in /],
  ] as const) {
    const place = new Place();
    using syslog = new DatagramReader(join(place.directory, "log"));
    renameSync(join(tree, missing), join(tree, "aside"));
    try {
      const command = [program, "-c", place.config, "hook", "primary", "--group", "lan"];
      const { code, stderr } = await ended(inOwnDev(syslog.path, command));
      assert.equal(code, 1);
      assert.match(stderr, /^conntrail: [^\n]+\n$/);
      assert.match(stderr, why);
      const [record, ...more] = place.trace();
      assert.deepEqual([record?.group, record?.role, record?.taken, more.length], ["lan", "primary", false, 0]);
      assert.match(record?.error ?? "", why);
      assert.match(syslog.read()[0] ?? "", /^<27>.*conntrail: hook primary failed: /);
      // A later one takes its place, and an operator's command leaves none.
      assert.equal((await ended(place.start(["fault", "--group", "lan"]))).code, 1);
      assert.deepEqual(
        place.trace().map(({ role }) => role),
        ["fault"],
      );
      assert.equal((await ended(spawn(program, ["status", "-c", place.config]))).code, 1);
    } finally {
      renameSync(join(tree, "aside"), join(tree, missing));
    }
  }
});

test("without the packages, as an upgrade leaves the program for some seconds, it works as always", async () => {
  const place = new Place();
  const server = await place.serve();
  const packages = join(directory, "tree", "node_modules");
  renameSync(packages, `${packages}.aside`);
  try {
    assert.deepEqual(await place.hook("primary"), DONE);
    assert.equal((await ended(spawn(program, ["status", "-c", place.config]))).code, 1);
  } finally {
    renameSync(`${packages}.aside`, packages);
  }
  assert.deepEqual(place.handlers.calls, ["primary"]);
  await server.close(100);
});

/** Runs a command that has a /dev of its own, with this as its /dev/log. */
function inOwnDev(log: string, command: readonly string[]): ChildProcess {
  const script =
    'mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && ln -s "$0" /dev/log && exec "$@"';
  return spawn("unshare", ["--mount", "sh", "-c", script, log, ...command], { stdio: ["ignore", "ignore", "pipe"] });
}

/** As a daemon leaves it that was killed. */
async function leaveSocket(path: string): Promise<void> {
  const listen = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
  await once(spawn(process.execPath, ["-e", listen]), "exit");
  assert.ok(existsSync(path));
  assert.ok(readFileSync("/proc/net/unix", "utf8").includes(path) === false);
}
