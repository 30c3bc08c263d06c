import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, readdir, readFile, rename, rm, stat, unlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import type { Logger } from "pino";
import { ConntrailError, errorText } from "../../errors.js";
import { makeDirectory } from "../../os/make-directory.js";
import { pause } from "../../os/pause.js";
import { processUser } from "../../os/process-stat.js";
import { OPEN_ACCOUNT, OWN_ACCOUNT } from "./access.js";
import {
  BROKER_VERSION_MIN,
  type BrokerConfigOptions,
  type BrokerVersion,
  brokerConfig,
  hostPort,
  parseBrokerVersion,
  versionAtLeast,
} from "./broker-config.js";
import { STORE_KEY_VARIABLE } from "./store-key.js";

/** Environment variable of the broker with its daemon's process id: see `stopLeftovers`. */
export const DAEMON_PID_VARIABLE = "CONNTRAIL_DAEMON_PID";

/** Debian installs nats-server to /usr/sbin, which is not in the PATH of users. */
const MORE_DIRECTORIES = ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin"];
const LEFTOVER_TERM_MS = 3000;
const LEFTOVER_KILL_MS = 3000;
const POLL_MS = 10;

/** Where programs are searched: in the PATH, then in the usual directories. */
export function programDirectories(): readonly string[] {
  return [...(process.env.PATH ?? "").split(delimiter).filter((path) => path !== ""), ...MORE_DIRECTORIES];
}

/** The first executable of that name, or null. */
export async function findProgram(name: string, directories: readonly string[]): Promise<string | null> {
  for (const directory of directories) {
    const file = join(directory, name);
    if (await succeeds(access(file, constants.X_OK))) return file;
  }
  return null;
}

/** nats-server and its version. @throws ConntrailError BROKER_MISSING, BROKER when it is too old or does not run */
export async function findBroker(directories: readonly string[]): Promise<{ file: string; version: BrokerVersion }> {
  const least = BROKER_VERSION_MIN.join(".");
  const file = await findProgram("nats-server", directories);
  if (file === null) {
    const message = `nats-server not found in PATH: apt-get install nats-server (${least} or newer), or set broker.mode to external`;
    throw new ConntrailError("BROKER_MISSING", message);
  }
  const output = await promisify(execFile)(file, ["--version"], { timeout: 10_000 }).catch((error: unknown) => {
    throw new ConntrailError("BROKER", `${file} --version failed: ${errorText(error)}`, { cause: error });
  });
  const version = parseBrokerVersion(output.stdout + output.stderr);
  if (version === null || !versionAtLeast(version, BROKER_VERSION_MIN)) {
    const found = version === null ? `does not tell its version (${output.stdout.trim()})` : `is ${version.join(".")}`;
    throw new ConntrailError(
      "BROKER",
      `${file} ${found}, conntrail needs ${least} or newer: install a newer nats-server`,
    );
  }
  return { file, version };
}

/** Memory beyond which the Go runtime collects garbage harder; GOMEMLIMIT of the environment replaces it. */
const MEMORY_BYTES = 256 * 1024 * 1024;
/** Memory beyond which the kernel gives it none (RLIMIT_DATA). It then ends, and is started again. */
const MEMORY_BYTES_MAX = 1024 * 1024 * 1024;

/**
 * The command line of a broker, and its environment. It ends with the thread that starts it, even by SIGKILL, gets none
 * of this process's capabilities, and is bounded in memory, as far as the programs for that are installed.
 */
export async function brokerCommand(
  file: string,
  configPath: string,
  directories: readonly string[],
  storeKey: string | null,
): Promise<{ command: readonly string[]; env: NodeJS.ProcessEnv }> {
  const setpriv = await findProgram("setpriv", directories);
  const prlimit = await findProgram("prlimit", directories);
  const bond = ["--pdeathsig", "KILL", "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all"];
  return {
    command: [
      ...(setpriv === null ? [] : [setpriv, ...bond]),
      ...(prlimit === null ? [] : [prlimit, `--data=${MEMORY_BYTES_MAX}`]),
      ...[file, "-c", configPath],
    ],
    env: {
      ...(storeKey === null ? {} : { [STORE_KEY_VARIABLE]: JSON.stringify(storeKey) }),
      GOMEMLIMIT: String(MEMORY_BYTES),
      ...process.env,
      [DAEMON_PID_VARIABLE]: String(process.pid),
    },
  };
}

/**
 * Creates the store directory, checks that it is writable and writes the configuration there. @throws ConntrailError
 * STORE
 */
export async function prepareStore(options: BrokerConfigOptions, version: BrokerVersion): Promise<string> {
  const { storeDir } = options;
  const path = join(storeDir, "nats.conf");
  try {
    makeDirectory(join(storeDir, "jetstream"), 0o700);
    await moveStreams(storeDir, streamsAccount(options));
    const probe = join(storeDir, "jetstream", ".conntrail-probe");
    await writeFile(probe, "");
    await unlink(probe);
  } catch (error) {
    throw unwritable(storeDir, error);
  }
  await writeBrokerConfig(options, version);
  return path;
}

/** Writes the configuration in the store, which must exist. @throws ConntrailError STORE */
export async function writeBrokerConfig(options: BrokerConfigOptions, version: BrokerVersion): Promise<void> {
  const path = join(options.storeDir, "nats.conf");
  try {
    await writeFile(`${path}.new`, brokerConfig(options, version), { mode: 0o600 });
    await rename(`${path}.new`, path);
  } catch (error) {
    throw unwritable(options.storeDir, error);
  }
}

function unwritable(storeDir: string, error: unknown): ConntrailError {
  const message = `the store ${storeDir} cannot be written (${errorText(error)}): broker.store must be a directory this user may write`;
  return new ConntrailError("STORE", message, { cause: error });
}

/**
 * The streams belong to an account, and its folder has its name. A node that gets keys, or gives them up, takes its
 * streams along. The broker must not run.
 */
async function moveStreams(storeDir: string, account: string): Promise<void> {
  const folder = (name: string): string => join(storeDir, "jetstream", name);
  const other = account === OPEN_ACCOUNT ? OWN_ACCOUNT : OPEN_ACCOUNT;
  if ((await streamsOf(storeDir, account)).length > 0 || (await streamsOf(storeDir, other)).length === 0) return;
  await rm(folder(account), { recursive: true, force: true });
  await rename(folder(other), folder(account));
}

/** Where an account's streams are in an embedded broker's store, in nats-server's layout: a directory for each. */
export function streamsDirectory(storeDir: string, account: string): string {
  return join(storeDir, "jetstream", account, "streams");
}

/** The account that has the streams of a broker with these options. */
export function streamsAccount({ readers }: Pick<BrokerConfigOptions, "readers">): string {
  return readers === undefined ? OPEN_ACCOUNT : OWN_ACCOUNT;
}

/** Removes what nats-server derives from the blocks of its streams: `N.idx` and `N.fss`, later versions `index.db`. */
export async function removeIndexes(storeDir: string, account: string): Promise<void> {
  for (const stream of await streamsOf(storeDir, account)) {
    const directory = join(streamsDirectory(storeDir, account), stream, "msgs");
    for (const file of await readdir(directory).catch(() => [])) {
      if (/^(\d+\.(idx|fss)|index\.db)$/.test(file)) await rm(join(directory, file), { force: true });
    }
  }
}

/** Names of the streams in an embedded broker's store; none when there is no store yet. */
export async function storedStreams(storeDir: string): Promise<string[]> {
  const own = await streamsOf(storeDir, OWN_ACCOUNT);
  return own.length > 0 ? own : streamsOf(storeDir, OPEN_ACCOUNT);
}

async function streamsOf(storeDir: string, account: string): Promise<string[]> {
  try {
    return await readdir(streamsDirectory(storeDir, account));
  } catch {
    return [];
  }
}

/** Checks that the address can be listened on. @throws ConntrailError PORT_TAKEN, BROKER */
export async function checkListen({ host, port }: { host: string; port: number }): Promise<void> {
  const server = createServer();
  const failure = await new Promise<NodeJS.ErrnoException | null>((resolve) => {
    server.once("error", resolve);
    server.listen({ host, port, exclusive: true }, () => resolve(null));
  });
  if (failure === null) {
    await new Promise((resolve) => server.close(resolve));
    return;
  }
  const where = hostPort(host, port);
  if (failure.code === "EADDRINUSE") {
    const message = `${where} is taken by another program (ss -ltnp 'sport = :${port}' names it): stop it, set another broker.port, or broker.mode to external if it is a nats-server to use`;
    throw new ConntrailError("PORT_TAKEN", message, { cause: failure });
  }
  if (failure.code === "EADDRNOTAVAIL") {
    const message = `${host} is no address of this machine (ip addr): correct the listen address, or bring its interface up first`;
    throw new ConntrailError("BROKER", message, { cause: failure });
  }
  throw new ConntrailError("BROKER", `cannot listen on ${where}: ${errorText(failure)}`, { cause: failure });
}

/**
 * Stops brokers that a killed daemon left behind: nats-server processes with this very configuration file. Without
 * setpriv nothing else ends them.
 * @throws ConntrailError ALREADY_RUNNING when the daemon that started it is still its parent, BROKER when it does not
 * end
 */
export async function stopLeftovers(configPath: string, log: Logger): Promise<void> {
  for (const pid of await brokersWith(configPath)) {
    const daemon = await livingDaemonOf(pid);
    if (daemon !== null) {
      const message = `the store of ${configPath} is in use by the conntrail with process id ${daemon}: stop it first, or give this one a store of its own (broker.store; CONNTRAIL_STORE for a conntrackd.conf)`;
      throw new ConntrailError("ALREADY_RUNNING", message);
    }
    log.warn({ pid, configPath }, "a broker was left over by a killed daemon, stopping it");
    if (await endProcess(pid, "SIGTERM", LEFTOVER_TERM_MS)) continue;
    if (await endProcess(pid, "SIGKILL", LEFTOVER_KILL_MS)) continue;
    throw new ConntrailError(
      "BROKER",
      `the left-over nats-server with process id ${pid} does not end: kill it by hand`,
    );
  }
}

/**
 * Sets how late the timers of all threads of a process may fire (PR_SET_TIMERSLACK of prctl(2)). Threads that it
 * starts later inherit that. Needs CAP_SYS_NICE. False when a thread could not be set.
 */
export async function setTimerSlack(pid: number, nanoseconds: number): Promise<boolean> {
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  // This file exists under the thread's own number only, not in its process's list of threads.
  const set = threads.map((thread) => succeeds(writeFile(`/proc/${thread}/timerslack_ns`, String(nanoseconds))));
  return threads.length > 0 && (await Promise.all(set)).every(Boolean);
}

/**
 * Level and text of a line that nats-server logs: `[pid] [INF] text`, with the time before the level if that is on.
 */
export function parseLogLine(line: string): { level: "debug" | "warn" | "error"; text: string } {
  const match = /^\[\d+\] (?:[\d/:. ]+)?\[(\w{3})\] (.*)$/.exec(line);
  if (match === null) {
    // An error before it begins to log has no prefix: `nats-server: <configuration error>`.
    return { level: line.startsWith("nats-server:") ? "error" : "debug", text: line };
  }
  const [, level, text = ""] = match;
  if (level === "WRN") return { level: "warn", text };
  return { level: level === "ERR" || level === "FTL" ? "error" : "debug", text };
}

async function brokersWith(configPath: string): Promise<number[]> {
  const entries = (await readdir("/proc")).filter((entry) => /^\d+$/.test(entry));
  // Side by side: one by one, a thousand processes would delay a start by half a second.
  const found = await Promise.all(entries.map((entry) => isBrokerWith(entry, configPath)));
  return entries.filter((_, index) => found[index]).map(Number);
}

/**
 * Anybody may run a process that looks like a broker, and must not keep this daemon from starting or make it signal
 * others. One of its own is run by the same user, or by the one to whom the store belongs.
 */
async function isOwnProcess(pid: string, storeDir: string): Promise<boolean> {
  const user = processUser(Number(pid));
  const store = await stat(storeDir).catch(() => null);
  return user !== null && (user === process.geteuid?.() || user === store?.uid);
}

async function isBrokerWith(pid: string, configPath: string): Promise<boolean> {
  const text = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  if (!text.includes("nats-server")) return false;
  const words = text.split("\0");
  const [program = ""] = words;
  if (!program.endsWith("nats-server") || words[words.indexOf("-c") + 1] !== configPath) return false;
  const storeDir = dirname(configPath);
  return (await isOwnProcess(pid, storeDir)) && seesSameDirectory(pid, storeDir);
}

/** Processes of containers show up too, and for them the directory of that name is another one. */
async function seesSameDirectory(pid: string, path: string): Promise<boolean> {
  const seen = await Promise.all([stat(`/proc/${pid}/root${path}`), stat(path)]).catch(() => null);
  return seen !== null && seen[0].dev === seen[1].dev && seen[0].ino === seen[1].ino;
}

/** Null for an orphan: its parent is no longer the daemon that its environment names. */
async function livingDaemonOf(pid: number): Promise<number | null> {
  const environment = await readFile(`/proc/${pid}/environ`, "utf8").catch(() => "");
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const daemon = new RegExp(`(?:^|\\0)${DAEMON_PID_VARIABLE}=(\\d+)`).exec(environment)?.[1];
  const parent = /^PPid:\s+(\d+)$/m.exec(status)?.[1];
  return daemon !== undefined && daemon === parent ? Number(daemon) : null;
}

async function endProcess(pid: number, signal: "SIGTERM" | "SIGKILL", timeoutMs: number): Promise<boolean> {
  try {
    process.kill(pid, signal);
  } catch {
    return true;
  }
  const deadlineMs = performance.now() + timeoutMs;
  while (await isRunning(pid)) {
    if (performance.now() > deadlineMs) return false;
    await pause(POLL_MS);
  }
  return true;
}

/** A zombie holds neither port nor files, so it counts as gone. */
async function isRunning(pid: number): Promise<boolean> {
  if (!(await succeeds(stat(`/proc/${pid}`)))) return false;
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "State:\tZ");
  return !/^State:\s+[ZX]/m.test(status);
}

function succeeds(promise: Promise<unknown>): Promise<boolean> {
  return promise.then(
    () => true,
    () => false,
  );
}
