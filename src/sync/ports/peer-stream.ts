import type { Heartbeat } from "../../stream/format/heartbeat.js";
import type { MessageKind } from "../../stream/format/subjects.js";
import type { ReaderItem, StreamMessage } from "../../stream/reader.js";
import type { CopyTail, Replica } from "../../stream/replica.js";

/** The stream of one peer, as the follower reads it. */
export interface PeerStream {
  /** The last message of a kind; null when there is none. */
  readLast(kind: MessageKind, signal: AbortSignal): Promise<StreamMessage | null>;
  /** Items from a stream sequence on, in order, until the signal or a reset. */
  read(startSequence: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]>;
}

/** A peer to follow. */
export interface PeerPort {
  readonly node: string;
  /** Where its broker is. */
  readonly address: string;
  /** It announced itself; the configuration does not list it. */
  readonly discovered: boolean;
  readonly stream: PeerStream;
  /** Null where streams are not copied (a shared cluster keeps them). */
  readonly copy: CopySource | null;
  /** True while its broker is connected. */
  reached(): boolean;
  /** Why its broker cannot be reached, in words; null while it is connected. */
  unreachable(): string | null;
  /** `heard` gets each heartbeat on the peer's broker, null for what is none. Returns what ends that. */
  hear(heard: (heartbeat: Heartbeat | null) => void): () => void;
  /** Asks the peer for a snapshot; false when it cannot be reached. */
  ask(): boolean;
  /** Nothing more is read of it. */
  close(): Promise<void> | void;
}

/** Where a peer's stream is copied to, and read from when this node starts. */
export interface CopySource {
  /** What it holds, as far as it can be read; changes nothing. Rejects when the own broker is away. */
  inspect(): Promise<CopyTail>;
  /** Opens the copy for writing; rejects when the own broker is away. `lost`: the copy missed messages, open it anew. */
  open(lost: () => void): Promise<Replica>;
  /** The copy as a stream. */
  readonly stream: PeerStream;
}
