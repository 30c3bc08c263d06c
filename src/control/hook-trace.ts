import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { ConntrailError } from "../errors.js";
import { makeDirectory } from "../os/make-directory.js";
import { type HookStart, isStartedBefore } from "./hook-start.js";
import { linkTarget } from "./link-target.js";
import { HOOK_ROLES, type HookRole } from "./protocol.js";

/** The last hook of a sync group. */
export interface HookRecord {
  /** "": the hook named no group. */
  readonly group: string;
  readonly role: HookRole;
  readonly started: HookStart;
  /** When keepalived called it, milliseconds since the Unix epoch. */
  readonly saidMs: number;
  /** A daemon has taken the role; for `primary`, the commit is done. */
  readonly taken: boolean;
  /** Why it failed; null: it has not failed, or not yet. It stays when a daemon takes the role later. */
  readonly error: string | null;
  /** keepalived wrote it into its FIFO, and called no hook. Left out: false. */
  readonly fromFifo?: boolean;
}

/** Many times the number of keepalived's groups. If there are more, somebody else writes here. */
const FILES_MAX = 256;
const FILE_BYTES_MAX = 4096;
const ERROR_CHARS_MAX = 500;
const FILE_NAME = /^([A-Za-z0-9_.-]{0,64})@(\d{1,15})-(\d{1,10})$/;
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/**
 * The last hook of each sync group, in files beside the control socket (`control.sock.hooks/`). A hook writes its file
 * before it asks the daemon, and the daemon writes it when it has taken the role. So no hook is lost when the daemon is
 * away or is killed. The files count for this boot alone: after a reboot keepalived calls its hooks again.
 *
 *   GROUP@TICKS-PID    {"boot":"…","role":"primary","saidMs":1769860800000,"taken":false,"error":null}
 *
 * TICKS and PID are the hook's start. Each hook has a file of its own, so no lock is needed: a writer renames its whole
 * file into place and then removes the group's earlier ones. The last hook's file stays, whatever the order of arrival.
 */
export class HookTrace {
  readonly directory: string;
  readonly #parent: string;
  readonly #boot: string | null;

  /** `boot`: this boot's id; null if the kernel gives none, and then no file counts. */
  constructor(control: string, boot: string | null = readBootId()) {
    const path = linkTarget(control);
    this.directory = `${path}.hooks`;
    this.#parent = dirname(path);
    this.#boot = boot;
  }

  /**
   * Makes the directory.
   * @throws ConntrailError CONTROL if others than root can write there, and the system's error if it cannot be made
   */
  prepare(): void {
    this.#asOwner(() => this.#prepare());
  }

  /**
   * The daemon may run as a user to whom the folder belongs. What root writes there must be readable for that user, and
   * must not go where a link of that user leads. So root does it as that user.
   */
  #asOwner<T>(act: () => T): T {
    const owner = statSync(this.#parent, { throwIfNoEntry: false });
    if (process.geteuid?.() !== 0 || owner === undefined || owner.uid === 0) return act();
    process.setegid?.(owner.gid);
    process.seteuid?.(owner.uid);
    try {
      return act();
    } finally {
      process.seteuid?.(0);
      process.setegid?.(0);
    }
  }

  #prepare(): void {
    // keepalived runs its scripts with a umask that takes the x from directories: only root could enter them then.
    const umask = process.umask(0o022);
    makeDirectory(this.#parent, 0o755);
    makeDirectory(this.directory, 0o700);
    process.umask(umask);
    const stat = lstatSync(this.directory);
    if (stat.isDirectory() && stat.uid === process.geteuid?.() && (stat.mode & 0o700) !== 0o700) {
      chmodSync(this.directory, 0o700);
    }
    if (stat.isDirectory() && isTrusted(stat.uid) && (stat.mode & 0o022) === 0) return;
    throw new ConntrailError("CONTROL", `${this.directory} is not a directory of root's alone: remove it`);
  }

  /** The last record of each group, ordered by start. Damaged files and those of an earlier boot are left out. */
  read(): HookRecord[] {
    return this.#asOwner(() => this.#read());
  }

  #read(): HookRecord[] {
    const last = new Map<string, HookRecord>();
    for (const name of this.#names()) {
      const record = this.#readFile(name);
      if (record === null) continue;
      const other = last.get(record.group);
      if (other === undefined || isStartedBefore(other.started, record.started)) last.set(record.group, record);
    }
    return [...last.values()].sort((a, b) => (isStartedBefore(a.started, b.started) ? -1 : 1));
  }

  /** Writes a record, unless the group has a later one. Throws as `prepare`, and if there are too many files. */
  write(record: HookRecord): void {
    this.#asOwner(() => this.#write(record));
  }

  #write(record: HookRecord): void {
    this.#prepare();
    const names = this.#names();
    const name = `${record.group}@${record.started.ticks}-${record.started.pid}`;
    const others = names.filter((other) => other !== name && FILE_NAME.exec(other)?.[1] === record.group);
    const records = others.map((other) => [other, this.#readFile(other)] as const);
    if (records.some(([, other]) => other !== null && isStartedBefore(record.started, other.started))) return;
    if (names.length >= FILES_MAX && others.length === 0 && !names.includes(name))
      throw new ConntrailError("CONTROL", `${this.directory} holds ${FILES_MAX} files`);
    const { role, saidMs, taken } = record;
    const fifo = record.fromFifo === true ? { fromFifo: true } : {};
    const error = record.error?.slice(0, ERROR_CHARS_MAX) ?? null;
    // Only this process writes this file.
    const partial = join(this.directory, `.${process.pid}`);
    writeFileSync(partial, `${JSON.stringify({ boot: this.#boot, role, saidMs, taken, error, ...fifo })}\n`, {
      mode: 0o600,
    });
    renameSync(partial, join(this.directory, name));
    for (const [other] of records) this.#remove(other);
  }

  /** Removes the record of a group. */
  forget(group: string): void {
    this.#asOwner(() => {
      for (const name of this.#names()) if (FILE_NAME.exec(name)?.[1] === group) this.#remove(name);
    });
  }

  /** Removes files that nobody completes or reads any more: partial and damaged ones, and those of an earlier boot. */
  tidy(): void {
    this.#asOwner(() => {
      for (const name of readdirSync(this.directory)) if (this.#readFile(name) === null) this.#remove(name);
    });
  }

  #names(): string[] {
    try {
      return readdirSync(this.directory).filter((name) => FILE_NAME.test(name));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    }
  }

  #readFile(name: string): HookRecord | null {
    const [, group, ticks, pid] = FILE_NAME.exec(name) ?? [];
    if (group === undefined || this.#boot === null) return null;
    const text = readTrusted(join(this.directory, name));
    const fields = text === null ? null : parseFields(text);
    if (fields === null || fields.boot !== this.#boot) return null;
    const { boot, ...known } = fields;
    return { group, started: { ticks: Number(ticks), pid: Number(pid) }, ...known };
  }

  #remove(name: string): void {
    try {
      unlinkSync(join(this.directory, name));
    } catch {
      // Another hook was quicker, or it is a directory.
    }
  }
}

/** New at each boot (proc(5), /proc/sys/kernel/random/boot_id); null if the kernel gives none. */
function readBootId(): string | null {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
  } catch {
    return null;
  }
}

function isTrusted(uid: number): boolean {
  return uid === 0 || uid === process.geteuid?.();
}

/** Null if it is not a file of root's, is too long, or is gone. */
function readTrusted(path: string): string | null {
  let fd: number;
  try {
    fd = openSync(path, READ);
  } catch {
    return null;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || !isTrusted(stat.uid)) return null;
    const bytes = Buffer.alloc(FILE_BYTES_MAX + 1);
    const length = readSync(fd, bytes, 0, bytes.length, 0);
    return length > FILE_BYTES_MAX ? null : bytes.toString("utf8", 0, length);
  } catch {
    return null;
  } finally {
    closeSync(fd);
  }
}

type Fields = Omit<HookRecord, "group" | "started"> & { readonly boot: string };

/** Null if damaged. Parsed by hand, because loading zod would delay the hook. */
function parseFields(text: string): Fields | null {
  let value: Record<string, unknown> | null;
  try {
    value = JSON.parse(text) as typeof value;
  } catch {
    return null;
  }
  const { boot, role, saidMs, taken, error, fromFifo } = value ?? {};
  const known = HOOK_ROLES.find((each) => each === role);
  if (typeof boot !== "string" || known === undefined || typeof taken !== "boolean") return null;
  if (!Number.isSafeInteger(saidMs) || Math.abs(saidMs as number) > 8.64e15) return null;
  if (error !== null && typeof error !== "string") return null;
  const fields = {
    boot,
    role: known,
    saidMs: saidMs as number,
    taken,
    error: error?.slice(0, ERROR_CHARS_MAX) ?? null,
  };
  return fromFifo === true ? { ...fields, fromFifo } : fields;
}
