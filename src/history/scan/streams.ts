import type { Logger } from "pino";
import type { BrokerConnection } from "../../stream/connection.js";
import { type ReaderItem, StreamReader } from "../../stream/reader.js";
import { BrokerLookup, listNodes, type StreamLookup } from "../../stream/stream-index.js";

/** The streams of all nodes that one place holds. */
export interface HistoryStreams {
  /** In order of name. */
  nodes(): Promise<readonly string[]>;
  lookup(node: string): StreamLookup;
  /** Items from a sequence on, in order, until the signal or a reset; `readers` of these at a time share the memory. */
  read(node: string, from: number, readers: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]>;
}

/** Bytes of all streams together that are read ahead. */
const WINDOW_BYTES = 32 * 1024 * 1024;
const WINDOW_BYTES_MIN = 2 * 1024 * 1024;
const WINDOW_MESSAGES = 2000;

/** The streams that a broker holds. */
export function brokerStreams(connection: BrokerConnection, log: Logger): HistoryStreams {
  return {
    nodes: () => listNodes(connection),
    lookup: (node) => new BrokerLookup(connection, node),
    read: (node, from, readers, signal) => {
      const windowBytesMax = Math.max(WINDOW_BYTES_MIN, Math.floor(WINDOW_BYTES / readers));
      const reader = new StreamReader({ connection, node, log, windowMessagesMax: WINDOW_MESSAGES, windowBytesMax });
      return reader.read(from, signal);
    },
  };
}
