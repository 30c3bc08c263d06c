import { randomBytes } from "node:crypto";
import { chmodSync, linkSync, lstatSync, renameSync, unlinkSync } from "node:fs";
import { createConnection, type Server } from "node:net";
import { dirname, join } from "node:path";
import { ConntrailError, errorText } from "../errors.js";
import { makeDirectory } from "../os/make-directory.js";
import { linkTarget } from "./link-target.js";

/** Attempts to take the name before it is an error. */
const ATTEMPTS_MAX = 10;

/** The name of a listening socket in the file system. */
export interface SocketFile {
  readonly path: string;
  /** Removes the name, if it still belongs to this socket. */
  remove(): void;
}

/**
 * Makes `server` listen at a path with mode 0600, in a directory that is created if missing (0755). If the path is a
 * symbolic link, the socket is where that leads to: a daemon that may not write in /run has its socket elsewhere.
 *
 * The server first binds to a name of its own, which is then linked to `path`: link(2) never replaces a name, so of
 * several daemons that start together one wins. A file on which nobody answers was left by a killed daemon. It is
 * renamed, checked again, because it may have been replaced meanwhile, and only then removed. Throws ConntrailError
 * ALREADY_RUNNING when a daemon answers, PERMISSION or CONTROL when the place cannot be used.
 */
export async function listenAt(server: Server, named: string): Promise<SocketFile> {
  const path = linkTarget(named);
  const directory = dirname(path);
  const own = join(directory, `.${randomBytes(4).toString("hex")}`);
  try {
    makeDirectory(directory, 0o755);
    await listen(server, own);
  } catch (error) {
    throw placeError(path, error);
  }
  try {
    await takeName(own, path);
    const mine = identity(own);
    return {
      path,
      remove: () => {
        if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() && identity(path) === mine) unlinkQuietly(path);
      },
    };
  } catch (error) {
    server.close();
    throw error instanceof ConntrailError ? error : placeError(path, error);
  } finally {
    unlinkQuietly(own);
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.once("listening", () => {
      server.off("error", reject);
      chmodSync(path, 0o600);
      resolve();
    });
    // The umask decides the mode of a new socket, which must never be open to others, not even for a moment.
    const umask = process.umask(0o177);
    try {
      server.listen(path);
    } finally {
      process.umask(umask);
    }
  });
}

async function takeName(own: string, path: string): Promise<void> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    if (linkUnlessThere(own, path)) return;
    const asked = identity(path);
    if (asked === null) continue;
    if (await answers(path)) throw alreadyRunning(path);
    // No await from here on: another daemon may be doing the same, and its new socket must not be lost.
    if (identity(path) !== asked) continue;
    const aside = `${own}-`;
    if (!renameIfThere(path, aside)) continue;
    if (identity(aside) !== asked) linkUnlessThere(aside, path);
    unlinkQuietly(aside);
  }
  throw new ConntrailError("CONTROL", `${path}: others keep taking this name: look for daemons that restart in a loop`);
}

/**
 * Identifies a socket file among others of the same name; null when there is none. Throws for a file of another kind.
 */
function identity(path: string): string | null {
  const stat = lstatSync(path, { throwIfNoEntry: false, bigint: true });
  if (stat === undefined) return null;
  if (stat.isSocket()) return `${stat.dev} ${stat.ino} ${stat.birthtimeNs}`;
  throw new ConntrailError("CONTROL", `${path} exists and is not a socket: remove it or set control to another path`);
}

function linkUnlessThere(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** True when someone listens. ECONNREFUSED and ENOENT mean no, a full backlog (EAGAIN) means yes. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNREFUSED" || error.code === "ENOENT") resolve(false);
      else if (error.code === "EAGAIN") resolve(true);
      else reject(error);
    });
  });
}

function renameIfThere(from: string, to: string): boolean {
  try {
    renameSync(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

function unlinkQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Already gone, or not removable: the next start replaces a stale name.
  }
}

function alreadyRunning(path: string): ConntrailError {
  return new ConntrailError("ALREADY_RUNNING", `a daemon answers on ${path} already: stop it first`);
}

function placeError(path: string, error: unknown): ConntrailError {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
    return new ConntrailError("PERMISSION", `control socket ${path} cannot be created: run as root`, { cause: error });
  }
  return new ConntrailError("CONTROL", `control socket ${path} cannot be created: ${errorText(error)}`, {
    cause: error,
  });
}
