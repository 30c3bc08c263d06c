import type { Logger } from "pino";
import { type BrokerConnection, connectBroker, type TlsFiles } from "../../stream/connection.js";
import { History } from "../scan/history.js";
import { brokerStreams } from "../scan/streams.js";
import { ARCHIVE_LIMITS } from "./limits.js";
import { type ArchiveReport, ArchiveRun } from "./run.js";
import { ArchiveWriter } from "./writer.js";

/** What an archiver is told, as plain values: it may be a process of its own. */
export interface ArchiverOptions {
  readonly directory: string;
  readonly maxAgeSeconds: number;
  /** The broker that holds the streams, and who asks it. */
  readonly servers: readonly string[];
  readonly node: string;
  readonly tls: TlsFiles | null;
  /** Nodes that write a stream, as far as is known. */
  readonly writers: readonly string[];
  /** Goes on as the streams do; else it ends where they end. */
  readonly live: boolean;
  /** How long a message is left alone when it is read live, so that what others say of the same time comes in order. */
  readonly settleMs?: number;
}

/** Who hears what. */
export interface ArchiverListener {
  readonly onProgress: (report: ArchiveReport) => void;
  /** A file that cannot be read. */
  readonly onDamaged: (path: string, why: string) => void;
  /** Something that is tried again. */
  readonly onFailure: (error: unknown) => void;
}

const CONNECT_TIMEOUT_MS = 30_000;

/**
 * Archives what has ended, until the streams end or the signal comes.
 * @throws ConntrailError ALREADY_RUNNING, STORE, BROKER
 */
export async function runArchiver(
  options: ArchiverOptions,
  listener: ArchiverListener,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const { directory, node, tls, servers, writers, live, maxAgeSeconds, settleMs } = options;
  const { onDamaged, onProgress, onFailure } = listener;
  const writer = await ArchiveWriter.open({ directory, limits: ARCHIVE_LIMITS, onDamaged });
  let connection: BrokerConnection | null = null;
  try {
    connection = connectBroker({
      servers,
      node,
      purpose: "archive",
      serverName: node,
      ...(tls !== null && { tls }),
      log,
    });
    await connection.ready(CONNECT_TIMEOUT_MS);
    const streams = brokerStreams(connection, log);
    const { nodes } = await History.open({ streams, nodes: writers });
    const maxAgeMs = maxAgeSeconds * 1000;
    const run = new ArchiveRun({
      streams,
      nodes,
      writer,
      live,
      maxAgeMs,
      now: Date.now,
      signal,
      onProgress,
      onFailure,
      ...(settleMs !== undefined && { settleMs }),
    });
    await run.run();
  } finally {
    await connection?.close();
    await writer.close();
  }
}
