/** Where the streams of all nodes are read from: here a broker, in tests a list of messages. */
import type { Logger } from "pino";
import type { BrokerConnection } from "../../stream/connection.js";
import { READ_AHEAD_BYTES_MAX, type ReaderItem, StreamReader } from "../../stream/reader.js";
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

const WINDOW_MESSAGES = 2000;

/** The streams that the broker at the other end of a connection holds. */
export function brokerStreams(connection: BrokerConnection, log: Logger): HistoryStreams {
  return {
    nodes: () => listNodes(connection),
    lookup: (node) => new BrokerLookup(connection, node),
    read: (node, from, readers, signal) => {
      const windowBytesMax = Math.floor(READ_AHEAD_BYTES_MAX / Math.max(1, readers));
      const reader = new StreamReader({ connection, node, log, windowMessagesMax: WINDOW_MESSAGES, windowBytesMax });
      return reader.read(from, signal);
    },
  };
}
