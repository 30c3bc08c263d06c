import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { ConntrailError, errorText } from "../../errors.js";
import { flock, LOCK_EX, LOCK_NB } from "../../os/libc.js";

/** A lock file that this process holds. */
export interface LockFile {
  /** False when another user's file of that name cannot be removed: then there is none. */
  readonly held: boolean;
  /** The pid of a daemon that died without removing it; null when the file was not there. */
  readonly takenOverFrom: number | null;
  /** Removes the file, if it still is the one that was taken. */
  remove(): void;
}

const CREATE = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
/** Ten digits and a line feed. */
const PID_BYTES_MAX = 11;
/** /var/lock is world-writable: links there are not followed. */
const EXISTING = constants.O_RDWR | constants.O_NOFOLLOW;

/**
 * Takes the lock file at `path`: it contains this process's id, and has a flock that ends with the process. Throws
 * ConntrailError ALREADY_RUNNING when the file exists, unless a dead conntrail daemon left it: then it contains a pid
 * and has no flock. PERMISSION or CONTROL when it cannot be made. /var/lock is world-writable: what another user has put
 * there is removed, or ignored where the folder does not allow that, and never keeps the daemon from starting.
 */
export function takeLock(path: string): LockFile {
  if (isForeign(path) && !removed(path)) return { held: false, takenOverFrom: null, remove: () => undefined };
  const created = open(path, CREATE);
  const fd = created ?? open(path, EXISTING);
  if (fd === null) return takeLock(path);
  let takenOverFrom: number | null = null;
  if (flock(fd, LOCK_EX | LOCK_NB) !== 0) throw refused(path, fd);
  if (created === null) {
    takenOverFrom = pidIn(fd);
    if (takenOverFrom === null || !isAt(path, fd)) throw refused(path, fd);
    ftruncateSync(fd);
  }
  writeSync(fd, `${process.pid}\n`, 0);
  return {
    held: true,
    takenOverFrom,
    remove: () => {
      if (isAt(path, fd)) unlinkSync(path);
      closeSync(fd);
    },
  };
}

/** True for what belongs neither to root nor to this process's user. */
function isForeign(path: string): boolean {
  try {
    const { uid } = lstatSync(path);
    return uid !== 0 && uid !== process.geteuid?.();
  } catch {
    return false;
  }
}

function removed(path: string): boolean {
  try {
    unlinkSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Null when the file exists already (CREATE), or no longer exists (EXISTING). */
function open(path: string, flags: number): number | null {
  try {
    return openSync(path, flags, 0o600);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === (flags === CREATE ? "EEXIST" : "ENOENT")) return null;
    const permission = code === "EACCES" || code === "EPERM" || code === "EROFS";
    const text = `lockfile \`${path}' cannot be made: ${errorText(error)}`;
    throw new ConntrailError(permission ? "PERMISSION" : "CONTROL", text, { cause: error });
  }
}

/** Null for a file that our daemon did not write. Only regular files are read, never a FIFO. */
function pidIn(fd: number): number | null {
  if (!fstatSync(fd).isFile()) return null;
  const start = Buffer.alloc(PID_BYTES_MAX + 1);
  const length = readSync(fd, start, 0, start.length, 0);
  const pid = /^([1-9]\d{0,9})\n$/.exec(start.toString("latin1", 0, length))?.[1];
  return pid === undefined ? null : Number(pid);
}

/** True when the file at `path` still is the open one. */
function isAt(path: string, fd: number): boolean {
  const there = statSync(path, { throwIfNoEntry: false });
  const open = fstatSync(fd);
  return there !== undefined && there.ino === open.ino && there.dev === open.dev;
}

function refused(path: string, fd: number): ConntrailError {
  closeSync(fd);
  return new ConntrailError("ALREADY_RUNNING", `lockfile \`${path}' exists, perhaps conntrackd already running?`);
}
