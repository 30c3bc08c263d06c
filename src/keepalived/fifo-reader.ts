import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  statSync,
  unlinkSync,
} from "node:fs";
import { Socket } from "node:net";
import { dirname } from "node:path";
import { ConntrailError, errorText } from "../errors.js";
import { EEXIST, errnoName } from "../os/errno.js";
import { errno, mkfifo } from "../os/libc.js";

/** What a reader of a FIFO hears. */
export interface FifoListener {
  /** What was written, in order, in pieces of at most 64 KiB. */
  read(chunk: Uint8Array): void;
  /** The last writer has closed it, and all that it wrote was read. */
  released(): void;
  /** Nothing is read any more, until the daemon is started again. */
  failed(error: Error): void;
}

/** As large as a pipe. */
const PIECE_BYTES = 64 * 1024;
const READ = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW;

/**
 * Makes the FIFO, unless it is there. Only its owner may write there, because whoever does decides the role of the node.
 * keepalived, as root, opens it whoever the owner is. It would make the FIFO itself, and then remove and remake it at
 * each reload; one that it found it leaves alone.
 * @throws ConntrailError CONTROL if something else is there, or others may write there
 */
export function prepareFifo(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    if (mkfifo(path, 0o600) === 0) return;
    const failure = errno();
    if (failure !== EEXIST) throw new Error(errnoName(failure));
    const stat = lstatSync(path);
    if (!stat.isFIFO()) throw new Error("it exists and is not a FIFO: remove it, or name another path");
    if ((stat.mode & 0o022) !== 0) throw new Error("others may write there: chmod 600");
    if (stat.uid === process.geteuid?.()) return;
    if (stat.uid !== 0) throw new Error("it belongs to another user: remove it");
    if (process.geteuid?.() !== 0 && (stat.mode & 0o004) === 0) replace(path);
  } catch (error) {
    throw new ConntrailError("CONTROL", `keepalived.fifo: ${path}: ${errorText(error)}`, { cause: error });
  }
}

/** keepalived made it before the daemon was there, for root alone. It opens the new one when it is reloaded. */
function replace(path: string): void {
  unlinkSync(path);
  if (mkfifo(path, 0o600) !== 0) throw new Error(errnoName(errno()));
}

/**
 * Reads a FIFO without waiting and without a thread. The reader keeps the FIFO as it is when it ends: what is written
 * meanwhile stays there for the next reader, as long as the writer keeps it open.
 */
export class FifoReader {
  readonly #path: string;
  readonly #listener: FifoListener;
  #fd = -1;
  #socket: Socket | null = null;

  /** Opens it. Throws as `prepareFifo`. */
  constructor(path: string, listener: FifoListener) {
    this.#path = path;
    this.#listener = listener;
    this.#open();
  }

  #open(): void {
    prepareFifo(this.#path);
    const fd = openSync(this.#path, READ);
    if (!fstatSync(fd).isFIFO()) {
      closeSync(fd);
      throw new ConntrailError("CONTROL", `keepalived.fifo: ${this.#path} is not a FIFO: remove it`);
    }
    const socket = new Socket({ fd, readable: true, writable: false });
    socket.on("data", (chunk: Buffer) => this.#listener.read(chunk));
    socket.on("end", () => this.#reopen(socket));
    socket.on("error", (error) => this.#reopen(socket, error));
    this.#fd = fd;
    this.#socket = socket;
  }

  /**
   * A descriptor whose last writer has gone is always ready to be read, so a new one takes its place. That one is open
   * before the other is closed: what another writer wrote in between is not lost. It may be another FIFO, which a writer
   * has put in the place of the first.
   */
  #reopen(ended: Socket, error?: Error): void {
    if (this.#socket !== ended) return;
    this.#socket = null;
    this.#fd = -1;
    try {
      if (error !== undefined) throw error;
      this.#open();
    } catch (failure) {
      this.#listener.failed(failure as Error);
      return;
    } finally {
      ended.destroy();
    }
    this.#listener.released();
  }

  /** True while a writer has the FIFO open that this reads. */
  get isHeld(): boolean {
    if (this.#fd < 0) return false;
    const piece = Buffer.allocUnsafe(PIECE_BYTES);
    try {
      const length = readSync(this.#fd, piece, 0, piece.length, null);
      if (length === 0) return false;
      // Only this thread reads here, and what came before has been handed over.
      this.#listener.read(piece.subarray(0, length));
      return true;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "EAGAIN";
    }
  }

  /** True while the FIFO at the path is the one that this reads. */
  get isInPlace(): boolean {
    if (this.#fd < 0) return false;
    const there = statSync(this.#path, { throwIfNoEntry: false });
    const own = fstatSync(this.#fd);
    return there !== undefined && there.ino === own.ino && there.dev === own.dev;
  }

  close(): void {
    this.#socket?.destroy();
    this.#socket = null;
    this.#fd = -1;
  }
}
