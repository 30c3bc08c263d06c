import type { Heartbeat } from "../../stream/format/heartbeat.js";
import type { MessageKind } from "../../stream/format/subjects.js";

/** What the journal writes to: the publisher of this node's stream. */
export interface JournalSink {
  /** Hands a message over; never blocks. */
  publish(kind: MessageKind, number: number, payload: Uint8Array): unknown;
  /** Publishes and resolves with the message's stream sequence once confirmed; null when it was dropped. */
  publishAcked(kind: MessageKind, number: number, payload: Uint8Array): Promise<number | null>;
  /** What waits for its confirmation. */
  readonly backlog: { readonly bytes: number };
}

/** What this node hears of its own stream. */
export interface OwnStreamListener {
  /** Messages are not in the stream, for this reason. */
  lost(reason: string): void;
  /** A reader needs a snapshot. */
  snapshotAsked(): void;
}

/** This node's own stream, open for writing in a new epoch. */
export interface OwnStream {
  readonly sink: JournalSink;
  /** Why what is published does not get into the stream, in words; null while it does. */
  readonly trouble: string | null;
  /** Sends a heartbeat, which is not stored. */
  beat(heartbeat: Heartbeat): void;
  /** The listener hears of everything from now on. Returns what ends that. */
  listen(listener: OwnStreamListener): () => void;
  /** Resolves with true when all that was published is confirmed, with false when the time was up first. */
  flush(timeoutMs: number): Promise<boolean>;
}
