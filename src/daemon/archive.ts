import { type ChildProcess, fork } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Logger } from "pino";
import type { Config } from "../config/config.js";
import type { ArchiverOptions } from "../history/archive/archiver.js";
import type { ArchiveReport } from "../history/archive/run.js";
import { Backoff } from "../os/backoff.js";
import { pause } from "../os/pause.js";
import type { TakeDown } from "../sync/take-down.js";
import type { ArchiveMessage } from "./archive-process.js";
import { ownBrokerAccess, writers } from "./own-broker.js";

const RESTART_MS_MIN = 1000;
const RESTART_MS_MAX = 60_000;
/** Time that the archiver has at the end to write its last file. */
const STOP_TIMEOUT_MS = 5000;
/** Heap of JavaScript alone. Tables and files are outside it. */
const HEAP_MIB = 192;

/** Supervises the archiver's process and restarts it whenever it ends. */
export class ArchiveSupervisor {
  readonly #options: ArchiverOptions;
  readonly #log: Logger;
  #report: ArchiveReport | null = null;
  #restarts = 0;

  constructor(options: ArchiverOptions, log: Logger) {
    this.#options = options;
    this.#log = log;
  }

  /** The group `archive` of the counters. Unknown values are left out. */
  get counters(): Readonly<Record<string, number>> {
    const { archivedUntilMs = null, ...counters } = this.#report ?? {};
    return { ...counters, ...(archivedUntilMs !== null && { archivedUntilMs }), restarts: this.#restarts };
  }

  /** Keeps the process running until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff({ minMs: RESTART_MS_MIN, maxMs: RESTART_MS_MAX });
    while (!signal.aborted) {
      const begun = performance.now();
      await this.#runOnce(signal);
      if (signal.aborted) return;
      this.#restarts++;
      if (performance.now() - begun > RESTART_MS_MAX) backoff.reset();
      await pause(backoff.nextMs(), signal);
    }
  }

  async #runOnce(signal: AbortSignal): Promise<void> {
    const path = fileURLToPath(new URL("./archive-process.js", import.meta.url));
    const child = fork(path, [JSON.stringify(this.#options)], {
      execArgv: [`--max-old-space-size=${HEAP_MIB}`],
      // glibc's arenas would keep the memory that DuckDB's threads have freed.
      env: { ...process.env, MALLOC_ARENA_MAX: "2" },
      stdio: ["ignore", "ignore", "ignore", "ipc"],
    });
    const ended = new Promise<void>((resolve) => {
      child.once("error", (error) => {
        this.#log.error({ err: error }, "the archiver cannot be started");
        resolve();
      });
      child.once("exit", (code, killedBy) => {
        if (!signal.aborted) this.#log.warn({ code, killedBy }, "the archiver ended; it is started again");
        resolve();
      });
    });
    child.on("message", (message: ArchiveMessage) => this.#hear(message));
    const stop = (): void => void stopChild(child, ended);
    signal.addEventListener("abort", stop, { once: true });
    await ended;
    signal.removeEventListener("abort", stop);
  }

  #hear(message: ArchiveMessage): void {
    switch (message.type) {
      case "report":
        this.#report = message.report;
        return;
      case "damaged":
        this.#log.warn({ path: message.path, why: message.why }, "a file of the archive cannot be read");
        return;
      case "failure":
        this.#log.warn({ why: message.text }, "the archive is behind; it is tried again");
        return;
      case "ended":
        this.#log.error({ why: message.text }, "nothing is archived");
        return;
      default:
        message satisfies never;
    }
  }
}

async function stopChild(child: ChildProcess, ended: Promise<void>): Promise<void> {
  child.kill("SIGTERM");
  const late = new AbortController();
  const timeout = delay(STOP_TIMEOUT_MS, "late", { signal: late.signal }).catch(() => "ended");
  if ((await Promise.race([ended, timeout])) === "late") child.kill("SIGKILL");
  late.abort();
}

/** Starts archiving if the configuration asks for it; null otherwise. */
export function openArchive(config: Config, log: Logger, down: TakeDown): ArchiveSupervisor | null {
  const { archive } = config;
  if (archive === null) return null;
  const supervisor = new ArchiveSupervisor(
    {
      ...archive,
      broker: ownBrokerAccess(config),
      writers: writers(config),
      live: true,
    },
    log.child({ part: "archive" }),
  );
  const stop = new AbortController();
  const running = supervisor.run(stop.signal);
  down.push(async () => {
    stop.abort();
    await running;
  });
  return supervisor;
}
