import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  lchownSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pino } from "pino";
import { takeLock } from "../../src/cli/process/lock-file.js";
import { openLog } from "../../src/cli/process/log.js";
import { LogFile } from "../../src/cli/process/log-file.js";
import { Syslog } from "../../src/cli/process/syslog.js";
import { parseConfig } from "../../src/config/config.js";
import { Systemd, statusLine } from "../../src/daemon/systemd.js";
import { ConntrailError } from "../../src/errors.js";
import { STATUS } from "../support/control-handlers.js";
import { DatagramReader } from "../support/datagram-reader.js";
import { waitUntil } from "../support/kernel-namespace.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-log-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));

const file = (name: string): string => join(directory, name);
const refusal = { name: "ConntrailError", code: "ALREADY_RUNNING" };

test("a lock file holds the pid while its daemon lives", () => {
  const path = file("lock");
  const lock = takeLock(path);
  assert.equal(lock.takenOverFrom, null);
  assert.equal(readFileSync(path, "utf8"), `${process.pid}\n`);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.throws(() => takeLock(path), {
    ...refusal,
    message: `lockfile \`${path}' exists, perhaps conntrackd already running?`,
  });
  lock.remove();
  assert.equal(existsSync(path), false);
});

test("one that a dead daemon left is taken over; an empty one and one of others are refused", () => {
  const path = file("stale");
  writeFileSync(path, "4194303\n");
  const lock = takeLock(path);
  assert.equal(lock.takenOverFrom, 4_194_303);
  assert.equal(readFileSync(path, "utf8"), `${process.pid}\n`);
  lock.remove();
  for (const content of ["", "12 34\n", "conntrackd\n", "0\n"]) {
    writeFileSync(path, content);
    assert.throws(() => takeLock(path), refusal, JSON.stringify(content));
    assert.equal(readFileSync(path, "utf8"), content);
  }
});

test("a lock that is no file is refused unread", () => {
  execFileSync("mkfifo", [file("fifo")]);
  assert.throws(() => takeLock(file("fifo")), refusal);
});

test("what a link in the lock's place leads to is not touched, and only the own file is removed", () => {
  const target = file("pid-of-another");
  writeFileSync(target, "123\n");
  symlinkSync(target, file("link"));
  assert.throws(() => takeLock(file("link")), { name: "ConntrailError", code: "CONTROL" });
  assert.equal(readFileSync(target, "utf8"), "123\n");
  assert.throws(() => takeLock(file("none/lock")), /none\/lock' cannot be made: ENOENT/);
  const lock = takeLock(file("replaced"));
  rmSync(file("replaced"));
  writeFileSync(file("replaced"), "");
  lock.remove();
  assert.equal(existsSync(file("replaced")), true);
});

test("what another user has put in the lock's place does not keep the daemon from starting", (t) => {
  if (process.getuid?.() !== 0) return t.skip("only root can give files to others");
  const path = file("foreign");
  for (const make of [
    () => writeFileSync(path, ""),
    () => writeFileSync(path, `${process.pid}\n`),
    () => execFileSync("mkfifo", [path]),
    () => symlinkSync("/etc/passwd", path),
  ]) {
    make();
    lchownSync(path, 65_534, 65_534);
    const lock = takeLock(path);
    assert.deepEqual([lock.held, lock.takenOverFrom], [true, null]);
    assert.equal(readFileSync(path, "utf8"), `${process.pid}\n`);
    lock.remove();
  }
  assert.equal(existsSync(path), false);
  // In a folder with the sticky bit, an ordinary user cannot remove another one's file.
  const folder = file("sticky");
  mkdirSync(folder);
  chmodSync(folder, 0o1777);
  const taken = join(folder, "lock");
  writeFileSync(taken, "");
  lchownSync(taken, 65_534, 65_534);
  chmodSync(directory, 0o755);
  process.seteuid?.(64_321);
  try {
    assert.equal(takeLock(taken).held, false);
  } finally {
    process.seteuid?.(0);
  }
});

test("a log file goes on in a new file after logrotate has moved the old one", () => {
  const path = file("log");
  const log = new LogFile(path);
  log.write("one\n");
  renameSync(path, file("log.1"));
  log.write("two\n");
  log.reopen();
  log.write("three\n");
  assert.equal(readFileSync(file("log.1"), "utf8"), "one\ntwo\n");
  assert.equal(readFileSync(path, "utf8"), "three\n");
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test("a reload moves the log: to another file, to none, to syslog", () => {
  const [one, two] = [file("one.log"), file("two.log")];
  const config = (text: string) =>
    parseConfig(`cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ntls: false\nlog: { ${text} }\n`, "fw.yaml");
  const log = openLog(config(`file: ${one}`));
  log.logger.info("first");
  assert.throws(() => log.moveTo(config(`file: ${file("none/log")}, syslog: true`)), ConntrailError);
  log.logger.info("second");
  log.moveTo(config(`file: ${two}, syslog: true`));
  log.logger.info("third");
  assert.equal(log.kept, true);
  log.moveTo(config("syslog: local3"));
  log.moveTo(config("level: info"));
  assert.equal(log.kept, false);
  const texts = (path: string) => readFileSync(path, "utf8").match(/"msg":"\w+"/g);
  assert.deepEqual([texts(one), texts(two)], [['"msg":"first"', '"msg":"second"'], ['"msg":"third"']]);
});

test("a log file that cannot be written is an error at the start, and lines lost later do no harm", () => {
  assert.throws(
    () => new LogFile(file("none/log")),
    (error) =>
      error instanceof ConntrailError &&
      error.code === "CONFIG" &&
      error.message.startsWith(`log.file ${file("none/log")} cannot be written: ENOENT`),
  );
  const full = new LogFile("/dev/full");
  full.write("lost\n");
  full.write("lost, too\n");
});

test("lines that were lost are told of on a line of their own: the file may have the beginning of one", () => {
  const path = file("filled");
  symlinkSync("/dev/full", path);
  const log = new LogFile(path);
  log.write("lost\n");
  rmSync(path);
  log.reopen();
  log.write("three\n");
  const [begun, told, three] = readFileSync(path, "utf8").split("\n");
  assert.deepEqual([begun, three], ["", "three"]);
  assert.equal((JSON.parse(told ?? "") as { lost: number }).lost, 1);
});

test("syslog gets lines for people, with their priority", () => {
  using reader = new DatagramReader(file("syslog"));
  const log = pino({ level: "trace", base: { node: "fw1" } }, new Syslog("local3", reader.path));
  log.info({ peers: 2 }, "ready");
  log.warn("two\nlines");
  log.error({ error: "it is full" }, "failed");
  log.debug("quiet");
  log.fatal("the end");
  const lines = reader.read();
  assert.match(
    lines[0] ?? "",
    new RegExp(`^<158>[A-Z][a-z]{2} [ \\d]\\d [\\d:]{8} conntrail\\[${process.pid}\\]: ready peers=2$`),
  );
  assert.match(lines[1] ?? "", /^<156>.*: two lines$/);
  assert.match(lines[2] ?? "", /^<155>.*: failed error="it is full"$/);
  assert.match(lines[3] ?? "", /^<159>.*: quiet$/);
  assert.match(lines[4] ?? "", /^<154>.*: the end$/);
});

test("lines that syslog does not take are counted and told", () => {
  const path = file("late");
  const log = pino({ level: "info", base: null }, new Syslog("daemon", path));
  log.info("nobody reads");
  log.info("nor this");
  using reader = new DatagramReader(path);
  log.info("somebody does");
  const lines = reader.read();
  assert.match(lines[0] ?? "", /^<28>.*: lines of the log were not taken by syslog lost=2$/);
  assert.match(lines[1] ?? "", /: somebody does$/);
  // A reader that has stopped reading holds nobody up.
  for (let i = 0; i < 10_000; i++) log.info("more than its buffer holds");
  reader.read();
  log.info("again");
  assert.match(reader.read()[0] ?? "", /lost=\d+$/);
});

test("systemd is told of the start, of life and of the end", async () => {
  using reader = new DatagramReader(file("notify"));
  const env: NodeJS.ProcessEnv = {
    NOTIFY_SOCKET: reader.path,
    WATCHDOG_USEC: "20000",
    WATCHDOG_PID: String(process.pid),
  };
  const systemd = Systemd.open(env, pino({ level: "silent" }));
  assert.deepEqual(env, {});
  systemd?.ready(() => "primary");
  assert.deepEqual(reader.read(), [`READY=1\nMAINPID=${process.pid}\nSTATUS=primary`]);
  const heard: string[] = [];
  await waitUntil(() => heard.push(...reader.read()) >= 3, "three signs of life");
  assert.ok(heard.every((text) => text === "WATCHDOG=1"));
  reader.read();
  systemd?.stopping();
  assert.ok(reader.read().includes("STOPPING=1\nSTATUS=ending"));
  systemd?.close();
});

test("a watchdog that is meant for another process is left alone, and no service manager is no fault", async () => {
  const log = pino({ level: "silent" });
  assert.equal(Systemd.open({}, log), null);
  using reader = new DatagramReader(file("notify2"));
  using watched = new DatagramReader(file("notify3"));
  const other = Systemd.open({ NOTIFY_SOCKET: reader.path, WATCHDOG_USEC: "1000", WATCHDOG_PID: "1" }, log);
  const own = Systemd.open({ NOTIFY_SOCKET: watched.path, WATCHDOG_USEC: "2000" }, log);
  other?.ready(() => "primary");
  own?.ready(() => "backup");
  const signs: string[] = [];
  await waitUntil(() => signs.push(...watched.read()) > 3, "signs of life from the one that is watched");
  assert.deepEqual(reader.read(), [`READY=1\nMAINPID=${process.pid}\nSTATUS=primary`]);
  other?.close();
  own?.close();
});

test("systemd's status is a line: the role, who is in sync, and who is not and why", () => {
  const [fw2, fw3] = STATUS.peers as [(typeof STATUS.peers)[0], (typeof STATUS.peers)[0]];
  const peers = [
    { ...fw2, inSync: true, reason: null },
    { ...fw3, inSync: false, reason: "its daemon has been silent for 12 s" },
  ];
  assert.equal(
    statusLine({ ...STATUS, role: "primary", reason: null, peers }),
    "primary; in sync with fw2; not in sync with fw3: its daemon has been silent for 12 s",
  );
  const alone = {
    ...STATUS,
    role: "unknown",
    reason: "nothing is published",
    peers: [],
  };
  assert.equal(statusLine(alone as typeof STATUS), "no role yet; no peers; not in sync: nothing is published");
});
