import type { Logger } from "pino";
import { chooseFormat, type FormatChoice, type Formats } from "../stream/format/versions.js";
import type { Journal } from "./out/journal.js";
import type { Peers } from "./peers.js";

/**
 * The format version of this node's messages: the highest that all of its peers read, as far as their daemons were
 * heard. Before any was heard, it is the lowest. A change affects the next message and nothing else. A peer that went
 * back to an earlier version asks for the snapshot that it needs.
 */
export class WrittenFormat {
  readonly #formats: Formats;
  readonly #journal: Journal;
  readonly #peers: Peers;
  readonly #log: Logger;
  #choice: FormatChoice;

  constructor(options: { formats: Formats; journal: Journal; peers: Peers; log: Logger }) {
    this.#formats = options.formats;
    this.#journal = options.journal;
    this.#peers = options.peers;
    this.#log = options.log;
    this.#choice = this.#choose();
    this.#journal.format = this.#choice.format;
  }

  /** The version that is written, and why it is no higher one. */
  get choice(): FormatChoice {
    return this.#choice;
  }

  /** Looks again at what the peers read. Call it every second, and before a snapshot that a peer asked for. */
  look(): void {
    this.#choice = this.#choose();
    const { format, reason } = this.#choice;
    if (format === this.#journal.format) return;
    const from = this.#journal.format.version;
    this.#journal.format = format;
    this.#log.info({ from, to: format.version, reason }, "this node writes another format version");
  }

  #choose(): FormatChoice {
    const readers = this.#peers.list.map(({ follower, watch }) => ({ node: follower.node, reads: watch.formatsRead }));
    return chooseFormat(this.#formats.writes, readers);
  }
}
