import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import { ConntrailError, errorText } from "../../errors.js";
import { Backoff } from "../../os/backoff.js";
import { pause } from "../../os/pause.js";
import { type BrokerConnection, type BrokerLogin, connectBroker } from "../connection.js";
import { NANOS_PER_MS } from "../stream-config.js";
import { knownHoles } from "./advisories.js";
import { type BrokerConfigOptions, type BrokerVersion, brokerClientAddress } from "./broker-config.js";
import {
  brokerCommand,
  checkListen,
  findBroker,
  parseLogLine,
  prepareStore,
  programDirectories,
  removeIndexes,
  setTimerSlack,
  stopLeftovers,
  streamsAccount,
  streamsDirectory,
  writeBrokerConfig,
} from "./broker-host.js";
import { RestoreWatch } from "./restore-watch.js";
import { markStore, readStoreKey } from "./store-key.js";

/** What an embedded broker needs: its configuration, a logger, and bounds. */
export interface EmbeddedBrokerOptions extends BrokerConfigOptions {
  log: Logger;
  /** Where nats-server and setpriv are searched; by default in the PATH and the usual directories. */
  programDirectories?: readonly string[];
  /** How the daemon itself logs in, if the broker asks for a token. */
  login?: BrokerLogin | null;
  /** How long the first start may take. The broker reads through a large store before it answers. */
  startTimeoutMs?: number;
  /** How long `stop` waits for a clean exit before SIGKILL. */
  stopTimeoutMs?: number;
  /**
   * How late the server's timers may fire; by default the kernel's 50 µs. While there is work, the Go runtime's
   * monitor sleeps for 20 µs at a time, and the server leaves a timer behind for each message that it delivers: each
   * would be a wake-up of its own.
   */
  timerSlackMs?: number;
  /** Called at each change. Must not throw. */
  onStateChange?: (state: BrokerState) => void;
}

/** `waiting`: it has ended by itself and will be restarted shortly. */
export type BrokerState = "stopped" | "starting" | "running" | "waiting" | "stopping";

const RESTART_MS_MIN = 100;
const RESTART_MS_MAX = 5000;
/** After a run of this length the first restart comes soon again. */
const STABLE_MS = 10_000;
const LOG_LINE_MAX = 8192;
const READY_TIMEOUT_MS = 500;
const READY_PAUSE_MS = 20;
/** A broker with a small store listens after some 50 ms, and the whole start waits for it. */
const START_RETRY_MS = 10;
/** How often JetStream is probed, and how many probes in a row may fail. */
const WATCH_INTERVAL_MS = 2000;
const WATCH_TIMEOUT_MS = 2000;
const WATCH_FAILURES_MAX = 3;
/** For how long it may listen and not answer while it starts. The connection to a frozen one is given up sooner. */
const START_DEAF_MS_MAX = 6000;

/**
 * The daemon's own nats-server: a supervised child process that does not outlive the daemon. Its configuration is
 * `<storeDir>/nats.conf`, written at each start; its streams are in `<storeDir>/jetstream`.
 */
export class EmbeddedBroker {
  /** How often it was restarted after it had ended by itself. */
  restarts = 0;
  /** Warnings and errors that it logged. */
  warnings = 0;
  #options: EmbeddedBrokerOptions;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  #command: readonly string[] = [];
  #version: BrokerVersion | null = null;
  #env: NodeJS.ProcessEnv = {};
  #state: BrokerState = "stopped";
  #child: ChildProcess | null = null;
  #exited: Promise<void> = Promise.resolve();
  #supervisor: Promise<void> = Promise.resolve();
  #said = "";
  /** The child was killed because it listened and did nothing. */
  #isDeaf = false;
  #restore = new RestoreWatch();

  constructor(options: EmbeddedBrokerOptions) {
    this.#options = options;
    this.#log = options.log;
  }

  get state(): BrokerState {
    return this.#state;
  }

  /** The process id while there is a child. */
  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /** The address for clients on this machine, `host:port`. */
  get address(): string {
    return brokerClientAddress(this.#options.listen);
  }

  /**
   * Resolves when JetStream answers. Can be called once; after a failure no child is left.
   * @throws ConntrailError BROKER_MISSING, PORT_TAKEN, STORE, ALREADY_RUNNING, or BROKER (too old, no such address,
   * does not start)
   */
  async start(): Promise<void> {
    if (this.#command.length > 0 || this.#stop.signal.aborted) throw new Error("a broker is started once");
    const directories = this.#options.programDirectories ?? programDirectories();
    const { file, version } = await findBroker(directories);
    const configPath = join(this.#options.storeDir, "nats.conf");
    await stopLeftovers(configPath, this.#log);
    const { encryptionKey = null, storeDir } = this.#options;
    const storeKey = await readStoreKey(encryptionKey, storeDir);
    await prepareStore(this.#options, version);
    await markStore(storeKey, storeDir);
    this.#version = version;
    await checkListen(this.#options.listen);
    const { command, env } = await brokerCommand(file, configPath, directories, storeKey);
    this.#command = command;
    this.#env = env;
    if (this.#stop.signal.aborted) return;
    this.#set("starting");
    this.#spawn();
    const startedMs = performance.now();
    const startTimeoutMs = this.#options.startTimeoutMs ?? 60_000;
    let answers = await this.#answers(startTimeoutMs);
    while (!answers && (this.#isDeaf || (await this.#removeFatalStream()))) {
      this.#spawn();
      answers = await this.#answers(startTimeoutMs - (performance.now() - startedMs));
    }
    if (!answers) {
      const stopped = this.#stop.signal.aborted;
      this.#stop.abort();
      await this.#end();
      this.#set("stopped");
      const reason = stopped ? "stopped while it started" : this.#said === "" ? "no answer in time" : this.#said;
      throw new ConntrailError("BROKER", `${file} -c ${configPath} did not start: ${reason}`);
    }
    await this.#running();
    this.#log.info({ address: this.address, version: version.join("."), pid: this.pid }, "broker started");
    warnOfHoles(version, this.#log);
    this.#supervisor = this.#supervise(startedMs).catch((error: unknown) => {
      this.#log.error({ err: error }, "the broker's supervisor ended");
    });
  }

  /**
   * Lets these nodes connect from now on, and serves the certificate that is in its file now. The server goes on running;
   * nodes that may not connect any more are disconnected. @throws ConntrailError STORE when the configuration cannot be
   * written
   */
  async reload(readers: readonly string[] | undefined): Promise<void> {
    if (this.#version === null) return;
    this.#options = { ...this.#options, ...(readers === undefined ? {} : { readers }) };
    await writeBrokerConfig(this.#options, this.#version);
    if (this.#state === "running") this.#child?.kill("SIGHUP");
  }

  /** Ends a server that does not do its work though it could, for `reason`; the supervisor starts it again. */
  restart(reason: string): void {
    if (this.#state !== "running") return;
    this.#log.error({ reason, said: this.#said }, "the broker is started again");
    this.#child?.kill("SIGKILL");
  }

  /**
   * Ends the child by SIGTERM, after a bound by SIGKILL; returns when it is gone. May be called in any state,
   * repeatedly.
   */
  async stop(): Promise<void> {
    this.#stop.abort();
    if (this.#child !== null) this.#set("stopping");
    await this.#end();
    await this.#supervisor;
    this.#set("stopped");
  }

  async #supervise(firstStartMs: number): Promise<void> {
    let startedMs = firstStartMs;
    const backoff = new Backoff({ minMs: RESTART_MS_MIN, maxMs: RESTART_MS_MAX });
    for (;;) {
      await this.#lives();
      if (this.#stop.signal.aborted) return;
      if (performance.now() - startedMs >= STABLE_MS) backoff.reset();
      if (this.#restore.panicked && !(await this.#removeFatalStream())) await this.#readBlocksAnew();
      const againInMs = backoff.nextMs();
      this.#log.error({ said: this.#said, againInMs }, "the broker ended, it is started again");
      this.#set("waiting");
      await pause(againInMs, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
      this.restarts++;
      startedMs = performance.now();
      this.#set("starting");
      this.#spawn();
      // It may be reading a large store for long: it does not listen before it has.
      if (await this.#answers(Number.POSITIVE_INFINITY)) await this.#running();
    }
  }

  /**
   * A server that panicked while it worked has met a damaged message of some stream. Without its indexes, which are made
   * from the blocks, the next server reads every block from its start: it cuts the damaged one off, or panics again and
   * so names the stream.
   */
  async #readBlocksAnew(): Promise<void> {
    if (this.#stop.signal.aborted) return;
    this.#log.error("the broker crashed over what it has stored: its indexes are removed, it reads all of it anew");
    await removeIndexes(this.#options.storeDir, streamsAccount(this.#options));
  }

  /**
   * Removes the stream that made the server panic while it read its store; false when there is none. Each call removes
   * one, so there is an end. A stream is worth no standstill: this node writes its own anew from the kernel, and a copy
   * anew from the peer.
   */
  async #removeFatalStream(): Promise<boolean> {
    const stream = this.#restore.fatalStream;
    if (stream === null || this.#stop.signal.aborted) return false;
    this.#restore = new RestoreWatch();
    this.#log.error({ stream }, "the store of this stream makes the broker crash: it is removed, and made anew");
    await rm(join(streamsDirectory(this.#options.storeDir, streamsAccount(this.#options)), stream), {
      recursive: true,
      force: true,
    });
    return true;
  }

  /** Returns when the child has ended: by itself, or because it is deaf. */
  async #lives(): Promise<void> {
    const ended = new AbortController();
    const exited = this.#exited.then(() => ended.abort());
    const either = AbortSignal.any([ended.signal, this.#stop.signal]);
    const connection = this.#connect("watch");
    let failures = 0;
    while (!either.aborted) {
      await pause(WATCH_INTERVAL_MS, either);
      if (either.aborted || this.#state !== "running" || !connection.connected) continue;
      failures = (await jetStreamAnswers(connection, WATCH_TIMEOUT_MS)) ? 0 : failures + 1;
      if (failures < WATCH_FAILURES_MAX || either.aborted) continue;
      this.#endDeaf();
      failures = 0;
    }
    await connection.close();
    await exited;
  }

  /**
   * Kills a child that accepts connections and whose JetStream does not answer: a full disk disables it for good, and one
   * that starts on a full disk may never answer. A child that does not answer at all may be frozen, and is left alone.
   */
  #endDeaf(): void {
    this.#log.error({ said: this.#said }, "JetStream of the broker does not answer, the broker is started again");
    this.#isDeaf = true;
    this.#child?.kill("SIGKILL");
  }

  #connect(purpose: string, retryMs?: number): BrokerConnection {
    const { node, tls, login, log } = this.#options;
    return connectBroker({
      servers: [this.address],
      node,
      purpose,
      serverName: node,
      log: log.child({}, { level: "silent" }),
      ...(tls === undefined ? {} : { tls }),
      ...(login === undefined ? {} : { login }),
      ...(retryMs === undefined ? {} : { retryMs }),
    });
  }

  #spawn(): void {
    const [file, ...args] = this.#command;
    assert.ok(file !== undefined, "a broker is spawned once its command is known");
    // The kernel kills it when the thread that starts it ends: this must be the main thread.
    // In a session of its own: Ctrl-C on the daemon's terminal is for the daemon, which stops its broker itself.
    const child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"], env: this.#env, detached: true });
    this.#child = child;
    this.#said = "";
    this.#isDeaf = false;
    this.#restore = new RestoreWatch();
    this.#readLines(child.stdout);
    this.#readLines(child.stderr);
    this.#exited = new Promise((resolve) => {
      const gone = (reason: string) => {
        if (this.#child === child) this.#child = null;
        // At once: the supervisor's turn comes later, and nothing runs any more.
        if (this.#child === null && this.#state === "running") this.#set("waiting");
        if (this.#said === "") this.#said = reason;
        resolve();
      };
      child.on("error", (error) => {
        if (child.pid === undefined) gone(errorText(error));
      });
      child.once("close", (code, signal) => gone(signal ?? `exit code ${code}`));
    });
  }

  async #running(): Promise<void> {
    const { timerSlackMs = 0 } = this.#options;
    const pid = this.pid;
    if (timerSlackMs > 0 && pid !== null && !(await setTimerSlack(pid, timerSlackMs * NANOS_PER_MS))) {
      this.#log.debug({ pid }, "the broker's timers stay as punctual as they are: setting that needs CAP_SYS_NICE");
    }
    // It may have ended meanwhile.
    if (!this.#stop.signal.aborted && this.#child !== null) this.#set("running");
  }

  /** True when JetStream answers; false when the child ends first or is deaf, after `boundMs`, and when stopping. */
  async #answers(boundMs: number): Promise<boolean> {
    let ended = false;
    const end = this.#exited.then(() => {
      ended = true;
      return false;
    });
    const connection = this.#connect("start", START_RETRY_MS);
    const deadlineMs = performance.now() + boundMs;
    let deafMs = 0;
    try {
      while (!ended && !this.#stop.signal.aborted && performance.now() < deadlineMs) {
        const isListening = connection.connected;
        const askedMs = performance.now();
        // One that listens is slow at the worst; one that reads its store does not listen yet.
        const timeoutMs = isListening ? WATCH_TIMEOUT_MS : READY_TIMEOUT_MS;
        if (await Promise.race([jetStreamAnswers(connection, timeoutMs), end])) return !ended;
        if (isListening) deafMs += performance.now() - askedMs;
        if (deafMs > START_DEAF_MS_MAX && !this.#isDeaf) this.#endDeaf();
      }
      if (!ended && this.#said === "") this.#said = connection.lastError;
      return false;
    } finally {
      await connection.close();
    }
  }

  async #end(): Promise<void> {
    const child = this.#child;
    if (child === null) return;
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), this.#options.stopTimeoutMs ?? 5000);
    await this.#exited;
    clearTimeout(timer);
  }

  #readLines(output: NodeJS.ReadableStream | null): void {
    let rest = "";
    output?.setEncoding("utf8");
    output?.on("error", () => undefined);
    output?.on("data", (text: string | Buffer) => {
      const lines = (rest + String(text)).split("\n");
      rest = (lines.pop() ?? "").slice(0, LOG_LINE_MAX);
      for (const line of lines) if (line !== "") this.#logLine(line);
    });
  }

  #logLine(line: string): void {
    this.#restore.take(line);
    const { level, text } = parseLogLine(line);
    if (level !== "debug") {
      this.warnings++;
      this.#said = text;
    }
    this.#log[level]({ event: "broker.said", from: "nats-server" }, text);
  }

  #set(state: BrokerState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#options.onStateChange?.(state);
  }
}

/** Names the known holes of a nats-server in the log. */
export function warnOfHoles(version: BrokerVersion, log: Logger): void {
  const holes = knownHoles(version);
  if (holes.length === 0) return;
  const text = "this nats-server has known holes, unless your distribution has mended them: install a newer one";
  log.warn({ event: "broker.known-holes", version: version.join("."), holes }, text);
}

async function jetStreamAnswers(connection: BrokerConnection, timeoutMs: number): Promise<boolean> {
  try {
    const client = await connection.ready(timeoutMs);
    const answer = await client.request("$JS.API.INFO", "", { timeout: timeoutMs });
    return !("error" in answer.json<object>());
  } catch {
    await pause(READY_PAUSE_MS);
    return false;
  }
}
