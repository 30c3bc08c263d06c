/** Compacts an archive beside the one that writes it: one group of files at a time, in a process of its own that has low priority. */
import { type ChildProcess, fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ConntrailError } from "../../errors.js";
import { pause } from "../../os/pause.js";
import type { CompactResult, CompactTask } from "./compact.js";
import { nextCompaction } from "./compaction-plan.js";
import { type ArchiveFile, dayFolder } from "./files.js";
import { COMPACT_HEAP_MIB } from "./limits.js";
import type { ArchiveWriter } from "./writer.js";

/** What the process answers. */
export type CompactMessage =
  | { readonly type: "done"; readonly result: CompactResult }
  | { readonly type: "failed"; readonly text: string };

/** What a compactor works on, and who listens. */
export interface CompactorOptions {
  readonly directory: string;
  readonly writer: ArchiveWriter;
  /** The wall clock, milliseconds since the Unix epoch. */
  readonly now: () => number;
  /** Called with a group of files that cannot be compacted. They stay as they are. */
  readonly onFailure: (error: unknown) => void;
}

/** How often a compactor that had nothing to do looks again. */
const LOOK_EVERY_MS = 60_000;
/** Groups that cannot be compacted are tried again so late. */
const REFUSED_MS = 6 * 3_600_000;

/** The compactor of an archive that this process writes. */
export class Compactor {
  readonly #options: CompactorOptions;
  /** Files that could not be compacted, by path, and until when they are left alone. */
  readonly #refused = new Map<string, number>();

  constructor(options: CompactorOptions) {
    this.#options = options;
  }

  /** Compacts until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      if (!(await this.turn(signal))) await pause(LOOK_EVERY_MS, signal);
    }
  }

  /** Compacts all that is due. */
  async finish(signal: AbortSignal): Promise<void> {
    while (!signal.aborted && (await this.turn(signal)));
  }

  /** Compacts the next group of files; false where nothing is due. A failure is reported, and its files are left alone for a while. */
  async turn(signal: AbortSignal): Promise<boolean> {
    const { directory, writer, now, onFailure } = this.#options;
    let sources: readonly ArchiveFile[] | null = null;
    try {
      sources = await nextCompaction(directory, now(), ({ path }) => (this.#refused.get(path) ?? 0) > now());
      const [first] = sources ?? [];
      if (sources === null || first === undefined) return false;
      // As long as the link that is written there later, and found nowhere else.
      const place = `${"0".repeat(15)} ${randomBytes(32).toString("hex")}`;
      const temporary = join(dayFolder(directory, first.day), `.compact-${place.slice(-16)}.parquet.tmp`);
      const task = { sources, temporary, place };
      try {
        const result = await compactInProcess(task, signal);
        if (result === null) return false;
        await writer.publishCompacted(task, result);
      } finally {
        await rm(temporary, { force: true });
      }
      return true;
    } catch (error) {
      for (const { path } of sources ?? []) this.#refused.set(path, now() + REFUSED_MS);
      writer.counters.compactionsFailed++;
      onFailure(error);
      return sources !== null;
    }
  }
}

/** Null: the signal came first. */
async function compactInProcess(task: CompactTask, signal: AbortSignal): Promise<CompactResult | null> {
  const path = fileURLToPath(new URL("./compact-process.js", import.meta.url));
  const child = fork(path, [JSON.stringify(task)], {
    execArgv: [`--max-old-space-size=${COMPACT_HEAP_MIB}`, "--v8-pool-size=1"],
    // glibc's arenas would keep the memory that DuckDB's threads have freed.
    env: { ...process.env, MALLOC_ARENA_MAX: "2" },
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  const stop = (): void => void child.kill("SIGKILL");
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  try {
    const message = await answerOf(child);
    if (signal.aborted) return null;
    if (message?.type === "done") return message.result;
    const names = `${task.sources.length} files of ${task.sources[0]?.path ?? ""}`;
    const why = message?.text ?? "its process ended early";
    throw new ConntrailError("STORE", `${names} on were not compacted: ${why}`);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

function answerOf(child: ChildProcess): Promise<CompactMessage | null> {
  return new Promise((resolve) => {
    let answer: CompactMessage | null = null;
    child.on("message", (message: CompactMessage) => {
      answer = message;
    });
    child.once("error", (error) => resolve({ type: "failed", text: error.message }));
    child.once("exit", () => resolve(answer));
  });
}
