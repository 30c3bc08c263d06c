import { statfs } from "node:fs/promises";
import type { Logger } from "pino";
import type { EmbeddedBroker } from "../stream/broker/broker.js";
import type { Publisher } from "../stream/publisher.js";
import type { PublisherTrouble } from "../stream/publisher-options.js";

/** Interval of the checks. */
const LOOK_MS = 1000;
/** Trouble that ends sooner is ordinary, such as a restart of the broker or a reconnect. */
const PATIENCE_MS = 3000;
/** A disk with less free space than this counts as full. */
const ROOM_BYTES_MIN = 4 * 1024 * 1024;
const ROOM_SHARE_MIN = 0.01;
/**
 * A server that refuses messages for this long, although the disk has room, is restarted. At least this long passes
 * between two restarts.
 */
const REFUSED_MS = 5000;
const RESTART_PAUSE_MS = 30_000;
const MIB = 1024 * 1024;

/** Free space on the file system of the store, in bytes. */
export interface DiskRoom {
  readonly free: number;
  readonly total: number;
}

/**
 * Watches whether what this node publishes and copies reaches its store, and reports a full disk as such. Later versions
 * of nats-server keep refusing the messages of a stream that met a full disk after there is room again. The server is
 * then restarted.
 */
export class StoreWatch {
  readonly #path: string;
  readonly #publisher: Pick<Publisher, "trouble"> | null;
  readonly #broker: Pick<EmbeddedBroker, "restart"> | null;
  readonly #log: Logger;
  readonly #room: () => Promise<DiskRoom | null>;
  #copies: () => readonly PublisherTrouble[] = () => [];
  #timer: NodeJS.Timeout | null = null;
  #last: DiskRoom | null = null;
  #full = false;
  #restartedMs = Number.NEGATIVE_INFINITY;

  constructor(options: {
    /** `broker.store`. */
    path: string;
    /** Null on a node that publishes nothing. */
    publisher: Pick<Publisher, "trouble"> | null;
    /** Null where the broker is not this daemon's child. */
    broker: Pick<EmbeddedBroker, "restart"> | null;
    log: Logger;
    /** Null where the room is unknown. By default, that of the file system that holds `path`. */
    room?: () => Promise<DiskRoom | null>;
  }) {
    this.#path = options.path;
    this.#publisher = options.publisher;
    this.#broker = options.broker;
    this.#log = options.log;
    this.#room = options.room ?? (() => diskRoom(options.path));
  }

  /**
   * Starts checking. Logs at once if the file system is too small for `bytesMax`, the size that the streams may reach.
   */
  async start(bytesMax: number): Promise<void> {
    const room = await this.#room();
    if (this.#broker !== null && room !== null && room.total < bytesMax) {
      const fields = { store: this.#path, mayTakeMiB: mib(bytesMax), diskMiB: mib(room.total) };
      this.#log.warn(fields, "the streams may take more than the disk of broker.store holds: lower broker.max_bytes");
    }
    this.#timer = setInterval(() => void this.look(), LOOK_MS);
    this.#timer.unref();
  }

  /** From now on the troubles of the copies count too. */
  watchCopies(troubles: () => readonly PublisherTrouble[]): void {
    this.#copies = troubles;
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
  }

  /** Why published messages do not reach the store, in words; null while they do. */
  get trouble(): string | null {
    const trouble = this.#publisher?.trouble ?? null;
    if (trouble === null || performance.now() - trouble.sinceMs < PATIENCE_MS) return null;
    return this.#full && this.#last !== null ? this.#fullText(this.#last) : trouble.text;
  }

  /** Checks once. */
  async look(): Promise<void> {
    const own = this.#publisher?.trouble ?? null;
    const troubles = own === null ? this.#copies() : [own, ...this.#copies()];
    if (troubles.length === 0 && !this.#full) return;
    const room = await this.#room();
    this.#last = room;
    const full = room !== null && isFull(room);
    if (full !== this.#full && room !== null) {
      if (full) this.#log.error({ event: "store.full" }, this.#fullText(room));
      else this.#log.info({ store: this.#path, freeMiB: mib(room.free) }, "the disk of broker.store has room again");
    }
    this.#full = full;
    if (full || room === null) return;
    const nowMs = performance.now();
    // Whether a broker that hangs is restarted is for its supervisor to say.
    const refusal = troubles.find(({ refused, sinceMs }) => refused && nowMs - sinceMs >= REFUSED_MS);
    if (refusal === undefined || nowMs - this.#restartedMs < RESTART_PAUSE_MS) return;
    this.#restartedMs = nowMs;
    this.#broker?.restart(`it takes no messages (${refusal.text}), though the disk has room`);
  }

  #fullText({ free, total }: DiskRoom): string {
    return `the disk of broker.store ${this.#path} is full (${mib(free)} of ${mib(total)} MiB free): make room, or lower broker.max_bytes`;
  }
}

function isFull({ free, total }: DiskRoom): boolean {
  return free < Math.min(ROOM_BYTES_MIN, total * ROOM_SHARE_MIN);
}

async function diskRoom(path: string): Promise<DiskRoom | null> {
  try {
    const { bavail, blocks, bsize } = await statfs(path);
    return { free: bavail * bsize, total: blocks * bsize };
  } catch {
    return null;
  }
}

function mib(bytes: number): number {
  return Math.floor(bytes / MIB);
}
