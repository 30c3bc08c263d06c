/** What a publisher is told, what it says of itself, and the limits that it keeps. */
import type { Logger } from "pino";
import type { BrokerConnection } from "./connection.js";
import type { StoredMessage } from "./own-stream.js";
import type { Retention } from "./stream-config.js";

/** Bounds and pace. Bytes are of payloads. */
export interface PublisherLimits {
  /** What is kept to be sent again, and what is held while the broker is away. */
  ringMessagesMax: number;
  ringBytesMax: number;
  /** What may be on its way unconfirmed, since the client's own buffer has no bound. At least twice an ask. */
  windowMessagesMax: number;
  windowBytesMax: number;
  /** A confirmation is requested after this many messages or bytes, or this much time. */
  askMessages: number;
  askBytes: number;
  askIntervalMs: number;
  /** How long an answer may take before the stream is read to see what it holds. */
  ackTimeoutMs: number;
  /** How often the last confirmed message is read back. */
  readBackIntervalMs: number;
}

/** The default limits. */
export const PUBLISHER_LIMITS: PublisherLimits = {
  ringMessagesMax: 16_384,
  ringBytesMax: 64 * 1024 * 1024,
  windowMessagesMax: 2048,
  windowBytesMax: 16 * 1024 * 1024,
  askMessages: 512,
  askBytes: 2 * 1024 * 1024,
  askIntervalMs: 250,
  ackTimeoutMs: 2000,
  readBackIntervalMs: 30_000,
};

/** What a publisher needs. */
export interface PublisherOptions {
  node: string;
  /** This daemon's epoch: messages of another epoch in the stream are not this publisher's. */
  epoch: number;
  connection: BrokerConnection;
  retention: Retention;
  /** Epoch and number of a message that the stream holds, or null when it is none of ours. */
  readNumber: (message: StoredMessage) => { epoch: number; number: number } | null;
  log: Logger;
  limits?: Partial<PublisherLimits>;
  /** Called at each change. Must not throw. */
  onStateChange?: (state: PublisherState) => void;
  /**
   * These numbers are lost to the stream, for this reason: publish a gap mark and a snapshot. May publish, must not throw.
   */
  onLost?: (firstNumber: number, lastNumber: number, reason: string) => void;
  /**
   * Older messages are read back too, a few at a time: first from the sequence `from` to the last one, then all of them
   * again and again. `onHole` is called with one that the stream counts and does not give back. Must not throw.
   */
  older?: { readonly from: number; readonly onHole: (sequence: number) => void };
  /** The stream was damaged and is empty now; `onLost` follows if it held messages of this epoch. Must not throw. */
  onDamaged?: () => void;
}

/** Why messages do not get into the stream. */
export interface PublisherTrouble {
  readonly text: string;
  /** performance.now() when it began. */
  readonly sinceMs: number;
  /** True once the broker has answered, and still does not store what it is sent. A broker that hangs does not answer. */
  readonly refused: boolean;
}

/** `up`: messages are sent. `down`: they are held. */
export type PublisherState = "up" | "down";

/**
 * `sent`: on its way. `held`: kept until it can be sent. `overflow`: kept, and the oldest message was dropped for it.
 */
export type PublishOutcome = "sent" | "held" | "overflow";

/** What a publisher counts, all at zero; the group `publisher` of `stats`. */
export function newPublisherCounters() {
  return {
    messages: 0,
    bytes: 0,
    /** Answers that confirmed something. */
    confirms: 0,
    confirmedMessages: 0,
    resent: 0,
    /** The stream refused a message because it did not hold the one before it. */
    holes: 0,
    /** Left the ring unconfirmed because it was full. */
    droppedMessages: 0,
    droppedBytes: 0,
    /** Reported by `onLost`. */
    lostMessages: 0,
    ackTimeouts: 0,
    recoveries: 0,
    /** Times that the last confirmed message was read back, and that it was not there. */
    readBacks: 0,
    readBacksFailed: 0,
    /** Older messages that were read back. */
    readBacksOlder: 0,
    /** Times that the stream was damaged and emptied. */
    damaged: 0,
  };
}

/** The counters of a publisher. */
export type PublisherCounters = ReturnType<typeof newPublisherCounters>;
