import type { Logger } from "pino";
import type { BrokerConnection } from "./connection.js";
import type { Retention, StoredMessage } from "./own-stream.js";

/** Bounds and pace. Bytes are of payloads. */
export interface PublisherLimits {
  /** What is kept for sending again, and what is held while the broker is away. */
  ringMessagesMax: number;
  ringBytesMax: number;
  /** What may be on its way unconfirmed; the client's own buffer has no bound. At least twice an ask. */
  windowMessagesMax: number;
  windowBytesMax: number;
  /** A confirmation is asked for after so many messages, so many bytes, or so much time. */
  askMessages: number;
  askBytes: number;
  askIntervalMs: number;
  /** An ask without an answer for so long: the stream is read to see what it holds. */
  ackTimeoutMs: number;
}

/** The limits where nothing else is said. */
export const PUBLISHER_LIMITS: PublisherLimits = {
  ringMessagesMax: 16_384,
  ringBytesMax: 64 * 1024 * 1024,
  windowMessagesMax: 2048,
  windowBytesMax: 16 * 1024 * 1024,
  askMessages: 512,
  askBytes: 2 * 1024 * 1024,
  askIntervalMs: 250,
  ackTimeoutMs: 2000,
};

/** What a publisher needs. */
export interface PublisherOptions {
  node: string;
  /** This daemon's epoch: messages of another one in the stream are never taken for ours. */
  epoch: number;
  connection: BrokerConnection;
  retention: Retention;
  /** Epoch and number of a message that the stream holds, or null when it is none of ours. */
  readNumber: (message: StoredMessage) => { epoch: number; number: number } | null;
  log: Logger;
  limits?: Partial<PublisherLimits>;
  /** `up`: what is published goes out. `down`: it is held. Must not throw. */
  onStateChange?: (state: PublisherState) => void;
  /** These numbers are not in the stream and never will be: publish a gap mark and a snapshot. May publish, must not throw. */
  onLost?: (firstNumber: number, lastNumber: number) => void;
}

/** Whether what is published goes out. */
export type PublisherState = "up" | "down";

/** `sent`: on its way. `held`: kept until it can be sent. `overflow`: kept, and the oldest one kept was dropped for it. */
export type PublishOutcome = "sent" | "held" | "overflow";

/** What a publisher counts; the group `publisher` of `stats`. */
export interface PublisherCounters {
  messages: number;
  bytes: number;
  /** Answers that confirmed something. */
  confirms: number;
  confirmedMessages: number;
  resent: number;
  /** The stream refused a message because it did not hold the one before it. */
  holes: number;
  /** Left the ring unconfirmed because it was full. */
  droppedMessages: number;
  droppedBytes: number;
  /** Reported by `onLost`. */
  lostMessages: number;
  ackTimeouts: number;
  recoveries: number;
}

/** All at zero. */
export function noCounters(): PublisherCounters {
  return {
    messages: 0,
    bytes: 0,
    confirms: 0,
    confirmedMessages: 0,
    resent: 0,
    holes: 0,
    droppedMessages: 0,
    droppedBytes: 0,
    lostMessages: 0,
    ackTimeouts: 0,
    recoveries: 0,
  };
}
