/**
 * An archiver: connects to a broker, opens the archive for writing, and runs until the streams end or it is stopped. It compacts the
 * archive meanwhile, or at its end.
 */
import type { Logger } from "pino";
import { type BrokerConnection, connectBroker, type OwnBrokerAccess } from "../../stream/connection.js";
import { History } from "../scan/history.js";
import { brokerStreams } from "../scan/streams.js";
import { Compactor } from "./compactor.js";
import { ARCHIVE_LIMITS } from "./limits.js";
import { type ArchiveReport, ArchiveRun } from "./run.js";
import { readSealer } from "./seal.js";
import { ArchiveWriter } from "./writer.js";

/** The options of an archiver. They are plain values, because it may be a process of its own. */
export interface ArchiverOptions {
  readonly directory: string;
  readonly maxAgeSeconds: number;
  /** The broker that holds the streams. With `tls`, files are sealed with the node's key. */
  readonly broker: OwnBrokerAccess;
  /** Nodes that must have a stream; others are found at the broker. */
  readonly writers: readonly string[];
  /** True: follows the streams until the signal. False: ends where the streams end. */
  readonly live: boolean;
  /** How long a live archiver leaves a message alone, so that messages of other nodes come in order. */
  readonly settleMs?: number;
}

/** Receives what an archiver reports. */
export interface ArchiverListener {
  /** Called about once a second, and at the end. */
  readonly onProgress: (report: ArchiveReport) => void;
  /** Called with a file that cannot be read. */
  readonly onDamaged: (path: string, why: string) => void;
  /** Called with each failure that is tried again. */
  readonly onFailure: (error: unknown) => void;
}

const CONNECT_TIMEOUT_MS = 30_000;

/**
 * Archives connections that have ended, until the streams end or the signal comes.
 * @throws ConntrailError ALREADY_RUNNING, STORE, BROKER
 */
export async function runArchiver(
  options: ArchiverOptions,
  listener: ArchiverListener,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const { directory, broker, writers, live, maxAgeSeconds, settleMs } = options;
  const { onDamaged, onProgress, onFailure } = listener;
  const sealing = broker.tls === undefined ? {} : { sealer: await readSealer(broker.tls) };
  const writer = await ArchiveWriter.open({ directory, limits: ARCHIVE_LIMITS, onDamaged, ...sealing });
  const compactor = new Compactor({ directory, writer, now: Date.now, onFailure });
  const ended = new AbortController();
  const stop = AbortSignal.any([signal, ended.signal]);
  const compacting = live ? compactor.run(stop) : null;
  let connection: BrokerConnection | null = null;
  try {
    connection = connectBroker({ ...broker, purpose: "archive", log });
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
    if (!live) await compactor.finish(stop);
  } finally {
    ended.abort();
    await connection?.close();
    await compacting;
    await writer.close();
  }
}
