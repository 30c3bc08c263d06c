import type { Logger } from "pino";
import { errorText } from "../../errors.js";
import { Backoff } from "../../os/backoff.js";
import type { PublisherTrouble } from "../../stream/publisher-options.js";
import type { StreamMessage } from "../../stream/reader.js";
import type { Replica } from "../../stream/replica.js";
import type { CopySource } from "../ports/peer-stream.js";

/** Waits between attempts to open a copy. */
const OPEN_MS_MIN = 1000;
const OPEN_MS_MAX = 30_000;
/** Trouble with the copy that ends sooner is ordinary and not reported. */
const PATIENCE_MS = 3000;
/** Longest time that the end waits for the own broker to confirm the copy. */
const FLUSH_MS = 2000;
const NOTHING = { bytes: 0, messages: 0 };

/** What a copy counts, all at zero; part of the group `reader.<peer>` of `stats`. */
export function newCopyCounters() {
  return {
    /** Times that the copy had to be opened again because the own broker could not be reached for too long. */
    copyLost: 0,
    /** Times that the copy could not be opened. */
    copyOpenFailed: 0,
    /** Times that a message in the middle of the copy could not be read back. */
    copyDamaged: 0,
  };
}

/**
 * The copy of a peer's stream while it is written. It may fail to open, or be lost while it is open: in both cases it
 * asks to be opened again, after growing waits.
 */
export class PeerCopy {
  readonly counters = newCopyCounters();
  readonly #node: string;
  readonly #source: CopySource;
  readonly #again: (isDamaged: boolean) => void;
  readonly #log: Logger;
  readonly #backoff = new Backoff({ minMs: OPEN_MS_MIN, maxMs: OPEN_MS_MAX });
  #replica: Replica | null = null;
  /** Why it could not be opened, in words; null when that was not tried yet, or succeeded. */
  #failure: string | null = null;
  #retry: NodeJS.Timeout | null = null;

  constructor(options: {
    /** The peer. */
    node: string;
    source: CopySource;
    /** Called when the copy is to be opened again; `isDamaged`: anew. */
    again: (isDamaged: boolean) => void;
    log: Logger;
  }) {
    this.#node = options.node;
    this.#source = options.source;
    this.#again = options.again;
    this.#log = options.log;
  }

  get isOpen(): boolean {
    return this.#replica !== null;
  }

  /** Sequence of the copy's last message in the peer's stream; 0 when the copy is empty or not open. */
  get originSequence(): number {
    return this.#replica?.originSequence ?? 0;
  }

  /** What the own broker has yet to confirm. */
  get backlog(): { readonly messages: number; readonly bytes: number } {
    return this.#replica?.backlog ?? NOTHING;
  }

  /** Why the own broker does not store what it is sent; null while it does, and while the copy is not open. */
  get refusal(): PublisherTrouble | null {
    return this.#replica?.trouble ?? null;
  }

  /** Why the copy is not written, in words; null while it is. */
  get trouble(): string | null {
    if (this.#failure !== null) return `its copy on this node cannot be opened: ${this.#failure}`;
    if (this.#replica === null) return "its copy on this node is not open yet";
    const { trouble } = this.#replica;
    const isOld = trouble !== null && performance.now() - trouble.sinceMs > PATIENCE_MS;
    return isOld ? `its copy on this node cannot be written: ${trouble.text}` : null;
  }

  /**
   * Opens the copy if it is not open, and empties it first with `anew`. True when it was emptied, and lacks what the
   * peer's stream still holds.
   */
  async open(anew: boolean): Promise<boolean> {
    this.#stopWaiting();
    try {
      this.#replica ??= await this.#source.open((isDamaged) => this.#lose(isDamaged), anew);
    } catch (error) {
      this.#fail(errorText(error));
      return false;
    }
    if (this.#failure !== null) this.#log.info({ copyOf: this.#node }, "the copy of the peer's stream is open");
    this.#failure = null;
    this.#backoff.reset();
    return this.#replica.emptied;
  }

  /** Discards all that the copy holds; false if it is not open. Rejects when the own broker does not answer. */
  async empty(): Promise<boolean> {
    await this.#replica?.empty();
    return this.isOpen;
  }

  /** The own broker is connected again: the next attempt to open the copy does not wait. */
  resume(): void {
    this.#backoff.reset();
    if (this.#replica === null) this.#again(false);
  }

  /** Appends a message of the peer's stream. While the copy is not open, it is read again later. */
  append(message: StreamMessage): void {
    this.#replica?.append(message);
  }

  /** The peer is away: the copy may soon be all that is left of it, so nothing waits for more. */
  write(): void {
    this.#replica?.write();
  }

  /** Ends when everything is confirmed, or after a short wait. */
  async close(): Promise<void> {
    this.#stopWaiting();
    await this.#replica?.flush(FLUSH_MS);
    this.#replica?.close();
  }

  #fail(failure: string): void {
    this.counters.copyOpenFailed++;
    if (failure !== this.#failure) {
      this.#log.error({ copyOf: this.#node, error: failure }, "the copy of the peer's stream cannot be opened; again");
    }
    this.#failure = failure;
    this.#retry = setTimeout(() => this.#again(false), this.#backoff.nextMs());
    this.#retry.unref();
  }

  #lose(isDamaged: boolean): void {
    this.counters[isDamaged ? "copyDamaged" : "copyLost"]++;
    this.#replica?.close();
    this.#replica = null;
    this.#again(isDamaged);
  }

  #stopWaiting(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#retry = null;
  }
}
