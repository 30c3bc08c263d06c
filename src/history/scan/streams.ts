/** Where the streams of all nodes are read from: here a broker, in tests a list of messages. */
import type { Logger } from "pino";
import type { BrokerConnection } from "../../stream/connection.js";
import { type ReaderItem, StreamReader } from "../../stream/reader.js";
import { BrokerLookup, listNodes, type StreamLookup } from "../../stream/stream-index.js";

/** The streams of all nodes that one broker holds. */
export interface HistoryStreams {
  /** The nodes that have a stream, in the order of their names. */
  nodes(): Promise<readonly string[]>;
  /** Finds single messages of a node's stream. */
  lookup(node: string): StreamLookup;
  /** Reads a stream from a sequence on, in order, until the signal or a reset. `readers` readers share the memory for reading ahead. */
  read(node: string, from: number, readers: number, signal: AbortSignal): AsyncIterable<readonly ReaderItem[]>;
}

/** How many bytes of all streams together are read ahead. */
const WINDOW_BYTES = 32 * 1024 * 1024;
const WINDOW_BYTES_MIN = 2 * 1024 * 1024;
const WINDOW_MESSAGES = 2000;

/** The streams that the broker at the other end of a connection holds. */
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
