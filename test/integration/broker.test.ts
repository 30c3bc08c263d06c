import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { existsSync, readFileSync } from "node:fs";
import { chmod, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, it } from "node:test";
import { StorageType } from "nats";
import { ConntrailError, type ErrorCode } from "../../src/errors.js";
import { EmbeddedBroker, type EmbeddedBrokerOptions } from "../../src/stream/broker/broker.js";
import { findProgram, programDirectories } from "../../src/stream/broker/broker-host.js";
import { connectBroker } from "../../src/stream/connection.js";
import { fillDisk } from "../support/full-disk.js";
import { freePort, natsServerMissing, silentLogger, temporaryDirectory, until } from "../support/nats-server.js";

const MIB = 1024 * 1024;

async function setUp(options: Partial<EmbeddedBrokerOptions> = {}) {
  const directory = await temporaryDirectory();
  const storeDir = join(directory.path, "store");
  const broker = new EmbeddedBroker({
    node: "fw1",
    listen: { host: "127.0.0.1", port: await freePort() },
    storeDir,
    storeBytesMax: 1024 ** 3,
    log: silentLogger(),
    ...options,
  });
  return {
    broker,
    directory: directory.path,
    storeDir,
    async [Symbol.asyncDispose]() {
      await broker.stop();
      await directory[Symbol.asyncDispose]();
    },
  };
}

function processGroup(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ")[2]);
}

function isAlive(pid: number): boolean {
  return existsSync(`/proc/${pid}`);
}

async function refuses(starting: Promise<void>, code: ErrorCode, text: RegExp): Promise<void> {
  await assert.rejects(starting, (error: unknown) => {
    assert.ok(error instanceof ConntrailError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, text);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  });
}

describe("embedded broker", { skip: natsServerMissing() }, () => {
  it("starts a server whose JetStream answers and leaves no child when it stops", async () => {
    const states: string[] = [];
    await using edge = await setUp({ onStateChange: (state) => states.push(state) });
    const { broker } = edge;
    await broker.start();
    const pid = broker.pid!;
    assert.equal(broker.state, "running");
    assert.equal(processGroup(pid), pid, "Ctrl-C on the daemon's terminal must not reach it");
    const connection = connectBroker({ servers: [broker.address], node: "fw1", purpose: "test", log: silentLogger() });
    const client = await connection.ready(30_000);
    assert.equal((await client.jetstreamManager()) !== null, true);
    await connection.close();
    await broker.stop();
    assert.equal(isAlive(pid), false);
    assert.equal(broker.pid, null);
    assert.deepEqual(states, ["starting", "running", "stopping", "stopped"]);
    await broker.stop();
  });

  it("starts it again when it dies, with its streams", async () => {
    await using edge = await setUp();
    const { broker } = edge;
    await broker.start();
    const connection = connectBroker({ servers: [broker.address], node: "fw1", purpose: "test", log: silentLogger() });
    const jsm = await (await connection.ready(30_000)).jetstreamManager();
    await jsm.streams.add({ name: "CT_fw1", subjects: ["ct.fw1.>"] });
    const first = broker.pid!;
    process.kill(first, "SIGKILL");
    await until("a new server", () => broker.state === "running" && broker.pid !== first);
    assert.equal(broker.restarts, 1);
    await until("the connection", () => connection.connected);
    assert.equal((await jsm.streams.info("CT_fw1")).config.name, "CT_fw1");
    await connection.close();
  });

  it("removes a stream whose damaged store makes every server panic, and keeps the others", async () => {
    await using programs = await temporaryDirectory();
    const file = join(programs.path, "nats-server");
    const real = await findProgram("nats-server", programDirectories());
    // As nats-server 2.9.10 ends when a bit of a message's length is another one: at each start anew.
    await writeFile(
      file,
      `#!/bin/sh
streams="$(dirname "$2")/jetstream/\\$G/streams"
if [ "$1" = -c ] && [ -e "$streams/CT_fw2/damaged" ]; then
  echo "[7] [INF]   Starting restore for stream '\\$G > CT_fw1'" >&2
  echo "[7] [INF]   Restored 3 messages for stream '\\$G > CT_fw1'" >&2
  echo "[7] [INF]   Starting restore for stream '\\$G > CT_fw2'" >&2
  echo "panic: runtime error: slice bounds out of range [::1509949516] with capacity 10880" >&2
  echo "goroutine 1 [running]:" >&2
  exit 2
fi
exec ${real} "$@"
`,
    );
    await chmod(file, 0o755);
    await using edge = await setUp({ programDirectories: [programs.path, ...programDirectories()] });
    const { broker } = edge;
    const streams = join(edge.storeDir, "jetstream", "$G", "streams");
    const damage = async (): Promise<void> => {
      await mkdir(join(streams, "CT_fw2"), { recursive: true });
      await writeFile(join(streams, "CT_fw2", "damaged"), "");
    };
    await damage();
    await broker.start();
    assert.equal(existsSync(join(streams, "CT_fw2")), false);
    const connection = connectBroker({ servers: [broker.address], node: "fw1", purpose: "test", log: silentLogger() });
    const jsm = await (await connection.ready(30_000)).jetstreamManager();
    await jsm.streams.add({ name: "CT_fw1", subjects: ["ct.fw1.>"] });
    // And one that was damaged while it ran.
    await damage();
    const first = broker.pid!;
    process.kill(first, "SIGKILL");
    await until("a new server", () => broker.state === "running" && broker.pid !== first);
    assert.equal(existsSync(join(streams, "CT_fw2")), false);
    await until("the connection", () => connection.connected);
    assert.equal((await jsm.streams.info("CT_fw1")).config.name, "CT_fw1");
    await connection.close();
  });

  it("lets a server that panicked over a message read its blocks anew, without the indexes", async () => {
    await using programs = await temporaryDirectory();
    const file = join(programs.path, "nats-server");
    const real = await findProgram("nats-server", programDirectories());
    // A reader came to the damaged message. Each start notes the indexes that it finds.
    await writeFile(
      file,
      `#!/bin/sh
[ "$1" = -c ] || exec ${real} "$@"
ls "$(dirname "$2")"/jetstream/*/streams/*/msgs >> "${programs.path}/found" 2>/dev/null
setpriv --pdeathsig KILL ${real} "$@" &
server=$!
trap 'kill $server; exit 0' TERM
while [ ! -e "${programs.path}/read" ]; do sleep 0.05; done
kill $server
wait $server
rm "${programs.path}/read"
echo "panic: runtime error: slice bounds out of range [::1509949516] with capacity 10880" >&2
exit 2
`,
    );
    await chmod(file, 0o755);
    await using edge = await setUp({ programDirectories: [programs.path, ...programDirectories()] });
    const { broker } = edge;
    await broker.start();
    const connection = connectBroker({ servers: [broker.address], node: "fw1", purpose: "test", log: silentLogger() });
    const jsm = await (await connection.ready(30_000)).jetstreamManager();
    await jsm.streams.add({ name: "CT_fw1", subjects: ["ct.fw1.>"] });
    await (await connection.ready(30_000)).jetstream().publish("ct.fw1.ev", "a message");
    const first = broker.pid!;
    await writeFile(join(programs.path, "read"), "");
    await until("a new server", () => broker.state === "running" && broker.pid !== first);
    assert.deepEqual((await readFile(join(programs.path, "found"), "utf8")).trim().split("\n"), ["1.blk"]);
    await until("the connection", () => connection.connected);
    assert.equal((await jsm.streams.info("CT_fw1")).state.messages, 1);
    await connection.close();
  });

  it("does not say for a moment that it runs while there is no process", async () => {
    await using edge = await setUp();
    const { broker } = edge;
    const seen: unknown[] = [];
    const watch = (message: unknown): void => {
      const { process: child } = message as { process: ChildProcess };
      // Behind the listeners of who has started it.
      queueMicrotask(() => child.once("close", () => seen.push([broker.pid, broker.state])));
    };
    subscribe("child_process", watch);
    try {
      await broker.start();
      seen.length = 0;
      process.kill(broker.pid!, "SIGKILL");
      await until("its end", () => seen.length === 1);
    } finally {
      unsubscribe("child_process", watch);
    }
    assert.deepEqual(seen, [[null, "waiting"]]);
  });

  it("lets the timers of every thread of it come late", {
    skip: process.geteuid?.() === 0 ? false : "needs root",
  }, async () => {
    await using edge = await setUp({ timerSlackMs: 3 });
    const { broker } = edge;
    const slacks = async (): Promise<Set<string>> => {
      const threads = await readdir(`/proc/${broker.pid}/task`);
      return new Set(await Promise.all(threads.map((thread) => readFile(`/proc/${thread}/timerslack_ns`, "utf8"))));
    };
    const late = new Set(["3000000\n"]);
    await broker.start();
    assert.deepEqual(await slacks(), late);
    const first = broker.pid!;
    process.kill(first, "SIGKILL");
    await until("a new server", () => broker.state === "running" && broker.pid !== first);
    assert.deepEqual(await slacks(), late);
  });

  it("kills a server that does not end by itself", async () => {
    await using edge = await setUp({ stopTimeoutMs: 200 });
    await edge.broker.start();
    const pid = edge.broker.pid!;
    process.kill(pid, "SIGSTOP");
    await edge.broker.stop();
    assert.equal(isAlive(pid), false);
  });

  it("names a missing nats-server", async () => {
    await using edge = await setUp({ programDirectories: [] });
    await refuses(edge.broker.start(), "BROKER_MISSING", /apt-get install nats-server \(2\.9\.10 or newer\)/);
  });

  it("refuses a nats-server that is too old", async () => {
    await using directory = await temporaryDirectory();
    const file = join(directory.path, "nats-server");
    await writeFile(file, "#!/bin/sh\necho nats-server: v2.8.4\n");
    await chmod(file, 0o755);
    await using edge = await setUp({ programDirectories: [directory.path] });
    await refuses(edge.broker.start(), "BROKER", /is 2\.8\.4, conntrail needs 2\.9\.10/);
  });

  it("names the address when the port is taken", async () => {
    const other = createServer();
    const port = await freePort();
    await new Promise<void>((resolve) => other.listen(port, "127.0.0.1", resolve));
    try {
      await using edge = await setUp({ listen: { host: "127.0.0.1", port } });
      await refuses(edge.broker.start(), "PORT_TAKEN", new RegExp(`127\\.0\\.0\\.1:${port} is taken`));
      assert.equal(edge.broker.pid, null);
    } finally {
      other.close();
    }
  });

  it("names an address that is none of this machine", async () => {
    await using edge = await setUp({ listen: { host: "192.0.2.1", port: 4222 } });
    await refuses(edge.broker.start(), "BROKER", /192\.0\.2\.1 is no address of this machine/);
  });

  it("names a store that cannot be written", async () => {
    await using directory = await temporaryDirectory();
    const file = join(directory.path, "store");
    await writeFile(file, "in the way");
    await using edge = await setUp({ storeDir: file });
    await refuses(edge.broker.start(), "STORE", /broker\.store must be a directory/);
  });

  it("says why when the server refuses its configuration", async () => {
    const tls = { ca: "/nonexistent/ca.pem", cert: "/nonexistent/cert.pem", key: "/nonexistent/key.pem" };
    await using edge = await setUp({ tls });
    await refuses(edge.broker.start(), "BROKER", /did not start: .*nonexistent/);
    assert.equal(edge.broker.pid, null);
  });

  it("does not share a store with a broker of a living daemon", async () => {
    await using edge = await setUp();
    await edge.broker.start();
    await using second = await setUp({ storeDir: edge.storeDir });
    await refuses(second.broker.start(), "ALREADY_RUNNING", /in use by the conntrail with process id \d+/);
    assert.equal(edge.broker.state, "running");
  });

  it("stops the broker that a killed daemon left over", async () => {
    await using edge = await setUp();
    await mkdir(join(edge.storeDir, "jetstream"), { recursive: true });
    const config = join(edge.storeDir, "nats.conf");
    const { port } = new URL(`nats://${edge.broker.address}`);
    await writeFile(config, `listen: "127.0.0.1:${port}"\njetstream { store_dir: "${edge.storeDir}" }\n`);
    const file = await findProgram("nats-server", programDirectories());
    // The daemon it names is not its parent, as after that daemon's death.
    const orphan = spawn(file!, ["-c", config], { stdio: "ignore", env: { CONNTRAIL_DAEMON_PID: "1" } });
    const ended = new Promise((resolve) => orphan.once("exit", resolve));
    try {
      await until("the orphan to hold the port", () => portIsTaken(Number(port)));
      await edge.broker.start();
      await ended;
      assert.equal(edge.broker.state, "running");
    } finally {
      orphan.kill("SIGKILL");
    }
  });

  it("encrypts its store, also one that was not, and refuses another key or none", async () => {
    await using edge = await setUp();
    const text = "who-talked-to-whom";
    const stored = (): string =>
      execFileSync("grep", ["-rlF", text, join(edge.storeDir, "jetstream")], { encoding: "utf8" });
    const withStream = async (broker: EmbeddedBroker, messages: number): Promise<void> => {
      await broker.start();
      const own = connectBroker({ servers: [broker.address], node: "fw1", purpose: "test", log: silentLogger() });
      const client = await own.ready(30_000);
      const jsm = await client.jetstreamManager();
      if (messages === 0) await jsm.streams.add({ name: "CT_fw1", subjects: ["ct.fw1.>"] });
      assert.equal((await jsm.streams.info("CT_fw1")).state.messages, messages);
      await client.jetstream().publish("ct.fw1.ev", text);
      await own.close();
      await broker.stop();
    };
    const another = async (encryptionKey?: string): Promise<EmbeddedBroker> =>
      new EmbeddedBroker({
        node: "fw1",
        listen: { host: "127.0.0.1", port: await freePort() },
        storeDir: edge.storeDir,
        storeBytesMax: 1024 ** 3,
        log: silentLogger(),
        ...(encryptionKey === undefined ? {} : { encryptionKey }),
      });
    const key = join(edge.directory, "store.key");
    const other = join(edge.directory, "other.key");
    // Digits alone would be a number in nats.conf.
    await writeFile(key, `${"1234567890".repeat(5)}\n`, { mode: 0o600 });
    await writeFile(other, `${"f".repeat(64)}\n`, { mode: 0o600 });
    await withStream(edge.broker, 0);
    assert.match(stored(), /CT_fw1/);
    await withStream(await another(key), 1);
    assert.throws(stored, "the plain text is still there");
    assert.doesNotMatch(await readFile(join(edge.storeDir, "nats.conf"), "utf8"), /1234567890/);
    await refuses((await another(other)).start(), "STORE", /is encrypted, and .*other\.key is another one/);
    await refuses((await another()).start(), "STORE", /is encrypted, and broker\.encryption_key is missing/);
    await withStream(await another(key), 2);
    await chmod(key, 0o644);
    await refuses((await another(key)).start(), "CONFIG", /others may read it/);
    await writeFile(other, "short", { mode: 0o600 });
    await refuses((await another(other)).start(), "CONFIG", /openssl rand -hex 32/);
  });

  it("is not kept from starting by another user's process that looks like a broker", {
    skip: rootMissing(),
  }, async () => {
    await using edge = await setUp();
    await mkdir(edge.storeDir);
    // Its parent is the process that it names, as a living daemon's broker has it.
    const likeness = spawn(
      process.execPath,
      ["-e", "setInterval(() => 0, 1e3)", "--", "-c", join(edge.storeDir, "nats.conf")],
      {
        argv0: "nats-server",
        stdio: "ignore",
        uid: 65_534,
        gid: 65_534,
        cwd: "/",
        env: { CONNTRAIL_DAEMON_PID: String(process.pid) },
      },
    );
    try {
      await until("its command line", () =>
        readFileSync(`/proc/${likeness.pid}/cmdline`, "utf8").startsWith("nats-server"),
      );
      await edge.broker.start();
      assert.equal(edge.broker.state, "running");
      assert.equal(likeness.exitCode ?? likeness.signalCode, null, "it was signalled");
    } finally {
      likeness.kill("SIGKILL");
    }
  });

  it("runs without capabilities and within a bound of memory", { skip: rootMissing() }, async () => {
    await using edge = await setUp();
    await edge.broker.start();
    const status = await readFile(`/proc/${edge.broker.pid}/status`, "utf8");
    assert.match(status, /^CapAmb:\s+0+$/m);
    assert.match(status, /^CapInh:\s+0+$/m);
    assert.match(status, /^NoNewPrivs:\s+1$/m);
    assert.match(
      await readFile(`/proc/${edge.broker.pid}/limits`, "utf8"),
      /^Max data size\s+1073741824 +1073741824 /m,
    );
    assert.match(await readFile(`/proc/${edge.broker.pid}/environ`, "utf8"), /GOMEMLIMIT=268435456\0/);
  });

  it("ends a server that listens and does nothing since it began on a full disk", {
    skip: rootMissing() || mountsMissing(),
    timeout: 120_000,
  }, async () => {
    await using edge = await setUp({ storeBytesMax: 200 * MIB });
    const { broker, storeDir } = edge;
    await mkdir(storeDir);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64m", "store", storeDir]);
    const connection = connectBroker({ servers: [broker.address], node: "fw1", purpose: "test", log: silentLogger() });
    const names = ["a", "b", "c"];
    const payload = new Uint8Array(4000);
    const publish = (times: number): void => {
      for (let i = 0; i < times; i++) for (const name of names) connection.client?.publish(`x.${name}`, payload);
    };
    let load: NodeJS.Timeout | undefined;
    try {
      await broker.start();
      const jsm = await (await connection.ready(30_000)).jetstreamManager();
      for (const name of names)
        await jsm.streams.add({ name, subjects: [`x.${name}`], max_bytes: 20 * MIB, storage: StorageType.File });
      publish(2000);
      load = setInterval(publish, 50, 5);
      const filler = join(storeDir, "filler");
      fillDisk(filler);
      const { pid } = broker;
      process.kill(pid ?? 0, "SIGKILL");
      await until("another one", () => broker.pid !== null && broker.pid !== pid);
      // It has its time to hang.
      await new Promise((resolve) => setTimeout(resolve, 2000));
      await rm(filler);
      const isStored = async (name: string): Promise<boolean> => {
        const client = connection.client?.jetstream({ timeout: 1000 });
        return (await client?.publish(`x.${name}`, payload).catch(() => null)) != null;
      };
      await until("each stream stores", async () => (await Promise.all(names.map(isStored))).every(Boolean), 60_000);
    } finally {
      clearInterval(load);
      await connection.close();
      await broker.stop();
      execFileSync("umount", ["-l", storeDir]);
    }
  });

  it("leaves a container's broker alone whose store has the same name", { skip: mountsMissing() }, async () => {
    await using edge = await setUp();
    const port = await freePort();
    const file = await findProgram("nats-server", programDirectories());
    await mkdir(edge.storeDir);
    const script = `mount -t tmpfs tmpfs "$1" && echo 'listen: "127.0.0.1:${port}"' >"$1/nats.conf" && exec "$2" -c "$1/nats.conf"`;
    // Seen from outside, a container's daemon has another process id than the one that its broker names.
    const other = spawn("unshare", ["--mount", "sh", "-c", script, "sh", edge.storeDir, file!], {
      stdio: "ignore",
      env: { ...process.env, CONNTRAIL_DAEMON_PID: "1" },
    });
    try {
      await until("the other broker to listen", () => portIsTaken(port));
      await edge.broker.start();
      assert.ok(await portIsTaken(port), "it has been stopped");
    } finally {
      other.kill("SIGKILL");
    }
  });

  it("dies with a daemon that is killed", { skip: existsSync("/usr/bin/setpriv") ? false : "no setpriv" }, async () => {
    await using directory = await temporaryDirectory();
    const options = {
      node: "fw1",
      listen: { host: "127.0.0.1", port: await freePort() },
      storeDir: join(directory.path, "store"),
      storeBytesMax: 1024 ** 3,
    };
    const source = `
      import { pino } from "pino";
      import { EmbeddedBroker } from ${JSON.stringify(new URL("../../src/stream/broker/broker.js", import.meta.url).href)};
      const broker = new EmbeddedBroker({ ...${JSON.stringify(options)}, log: pino({ level: "silent" }) });
      await broker.start();
      process.stdout.write(String(broker.pid));
      setInterval(() => undefined, 1000);`;
    const daemon = spawn(process.execPath, ["--input-type=module", "-e", source], {
      cwd: new URL(".", import.meta.url),
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      const pid = Number(await new Promise((resolve) => daemon.stdout.once("data", resolve)));
      assert.match(await readFile(`/proc/${pid}/cmdline`, "utf8"), /nats-server/);
      daemon.kill("SIGKILL");
      await until("the end of the server", () => !isAlive(pid));
    } finally {
      daemon.kill("SIGKILL");
    }
  });
});

function rootMissing(): string | false {
  return process.getuid?.() === 0 ? false : "only root can run processes of other users";
}

function mountsMissing(): string | false {
  return spawnSync("unshare", ["--mount", "true"]).status === 0 ? false : "no mount namespaces: run it as root";
}

async function portIsTaken(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", () => resolve(true));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(false)));
  });
}
