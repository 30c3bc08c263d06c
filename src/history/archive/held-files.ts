/**
 * The files of an archive as a reader sees them from its beginning to its end, whatever is compacted or removed meanwhile: it holds
 * each file open, and reads it by its descriptor.
 */
import { closeSync, fstatSync, openSync } from "node:fs";
import { basename } from "node:path";
import { type CatalogEntry, readCatalog } from "./catalog.js";
import { type ArchiveFile, listDay, listDays } from "./files.js";
import { type OnDamaged, soundFiles } from "./state.js";

/** A file that is held. */
export interface HeldFile extends ArchiveFile {
  /** The path by which it is read. Messages name `path`. */
  readonly readPath: string;
  /** What the catalog says of it; null: nothing. */
  readonly entry: CatalogEntry | null;
}

/** How often a day is listed again because a file was replaced before it was opened. */
const ATTEMPTS_MAX = 5;

/** The files of one archive. A day is as it was when it was asked for first. */
export class HeldFiles {
  readonly #directory: string;
  readonly #onDamaged: OnDamaged;
  readonly #days = new Map<number, Promise<readonly HeldFile[]>>();
  readonly #open: number[] = [];

  constructor(directory: string, onDamaged: OnDamaged) {
    this.#directory = directory;
    this.#onDamaged = onDamaged;
  }

  /** The sound files of the days from `fromDay` to `untilDay`, by day and number. @throws ConntrailError STORE when one cannot be read */
  async between(fromDay = Number.NEGATIVE_INFINITY, untilDay = Number.POSITIVE_INFINITY): Promise<readonly HeldFile[]> {
    const days = (await listDays(this.#directory)).filter((day) => day >= fromDay && day <= untilDay);
    return (await Promise.all(days.map((day) => this.#day(day)))).flat();
  }

  /** Lets go of all files. */
  close(): void {
    for (const file of this.#open.splice(0)) closeSync(file);
    this.#days.clear();
  }

  #day(day: number): Promise<readonly HeldFile[]> {
    const held = this.#days.get(day) ?? this.#hold(day);
    this.#days.set(day, held);
    return held;
  }

  async #hold(day: number): Promise<readonly HeldFile[]> {
    for (let attempt = 1; ; attempt++) {
      const entries = readCatalog(this.#directory, day);
      const { files } = await listDay(this.#directory, day);
      const held: HeldFile[] = [];
      try {
        for (const file of files) held.push(this.#holdFile(file, entries));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOENT" || attempt === ATTEMPTS_MAX) throw error;
        continue;
      }
      // What the catalog names was whole when it was published, and has the size that it had then.
      const named = held.filter(({ entry }) => entry !== null);
      const others = held.filter(({ entry }) => entry === null);
      return [...named, ...(await soundFiles(others, this.#onDamaged))].sort((a, b) => a.number - b.number);
    }
  }

  #holdFile(file: ArchiveFile, entries: ReadonlyMap<string, CatalogEntry>): HeldFile {
    let descriptor: number;
    try {
      descriptor = openSync(file.path, "r");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") throw error;
      // More files than a process may hold, or one that may not be read, which is reported when it is.
      return { ...file, readPath: file.path, entry: null };
    }
    this.#open.push(descriptor);
    const entry = entries.get(basename(file.path)) ?? null;
    const named = entry !== null && entry.bytes === fstatSync(descriptor).size;
    return { ...file, readPath: `/proc/self/fd/${descriptor}`, entry: named ? entry : null };
  }
}
