/** The port to a peer: its stream, its heartbeats, and this node's copy of the stream. */
import type { Heartbeat } from "../../stream/format/heartbeat.js";
import type { MessageKind } from "../../stream/format/subjects.js";
import type { ReaderItem, StreamMessage } from "../../stream/reader.js";
import type { CopyTail, Replica } from "../../stream/replica.js";

/** The stream of one peer, as the follower reads it. */
export interface PeerStream {
  /** The last message of a kind; null when there is none. */
  readLast(kind: MessageKind, signal: AbortSignal): Promise<StreamMessage | null>;
  /** The items from a stream sequence on, in order, until the signal or a reset. */
  read(startSequence: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]>;
}

/** A peer to follow. */
export interface PeerPort {
  readonly node: string;
  /** The address of its broker. */
  readonly address: string;
  /** True when the peer announced itself and the configuration does not list it. */
  readonly discovered: boolean;
  readonly stream: PeerStream;
  /** Null where streams are not copied, because a shared cluster keeps them. */
  readonly copy: CopySource | null;
  /** True while its broker is connected. */
  reached(): boolean;
  /** Why its broker cannot be reached, in words; null while it is connected. */
  unreachable(): string | null;
  /**
   * Calls `heard` with each heartbeat on the peer's broker, or with null for one that cannot be decoded. Returns the
   * function that ends this.
   */
  hear(heard: (heartbeat: Heartbeat | null) => void): () => void;
  /** Asks the peer for a snapshot; false when the peer cannot be reached. */
  ask(): boolean;
  /**
   * Asks the peer whether it would have the flows of a batch after a takeover; FORMAT.md has both messages. Rejects when
   * there is no answer. Left out where nobody can be asked.
   */
  check?(payload: Uint8Array): Promise<string>;
  /** Closes the connection to the peer. */
  close(): Promise<void> | void;
}

/** The copy of a peer's stream. The follower writes it, and reads it when this node starts. */
export interface CopySource {
  /** What the copy holds, as far as it can be read; changes nothing. Rejects when the own broker cannot be reached. */
  inspect(): Promise<CopyTail>;
  /**
   * Opens the copy for writing, empty with `anew`. Rejects when the own broker cannot be reached. `lost` is called when
   * the copy has missed messages and must be opened again; with true if it is damaged and must be opened anew.
   */
  open(lost: (isDamaged: boolean) => void, anew: boolean): Promise<Replica>;
  /** The copy as a stream. */
  readonly stream: PeerStream;
}
