/**
 * The port to this node's own stream. Writing never blocks; a message that does not reach the stream is reported as
 * lost.
 */
import type { Heartbeat } from "../../stream/format/heartbeat.js";
import type { MessageKind, NodeRequest } from "../../stream/format/subjects.js";

/** What the journal writes to: the publisher of this node's stream. */
export interface JournalSink {
  /** Queues a message; never blocks. */
  publish(kind: MessageKind, number: number, payload: Uint8Array): unknown;
  /** Publishes a message. Resolves with its stream sequence once it is confirmed, or with null if it was dropped. */
  publishAcked(kind: MessageKind, number: number, payload: Uint8Array): Promise<number | null>;
  /** Messages that are not confirmed yet. */
  readonly backlog: { readonly bytes: number };
}

/** Receives what happens to this node's own stream. */
export interface OwnStreamListener {
  /** Messages did not reach the stream, for this reason. */
  lost(reason: string): void;
  /** A reader asks for a snapshot, or for a heartbeat before the next one is due. */
  asked(request: NodeRequest): void;
}

/** This node's own stream, open for writing in a new epoch. */
export interface OwnStream {
  readonly sink: JournalSink;
  /** Why published messages do not reach the stream, in words; null while they do. */
  readonly trouble: string | null;
  /** Sends a heartbeat, which is not stored. */
  beat(heartbeat: Heartbeat): void;
  /** Calls the listener from now on. Returns the function that ends this. */
  listen(listener: OwnStreamListener): () => void;
  /** Resolves with true when all that was published is confirmed, or with false when the time is over first. */
  flush(timeoutMs: number): Promise<boolean>;
}
