/** Opens what history is read from: the streams on this node's own broker, and an archive where there is one. */
import v8 from "node:v8";
import { pino } from "pino";
import { loadAnyConfig } from "../cli/command/config-file.js";
import type { Config } from "../config/config.js";
import { assertMayLogIn, ownBrokerAccess, writers } from "../daemon/own-broker.js";
import { ConntrailError, errorText } from "../errors.js";
import { Archive } from "../history/archive/archive.js";
import { ArchivedHistory, type HistorySource } from "../history/archive/archived-history.js";
import type { OnDamaged } from "../history/archive/state.js";
import { History } from "../history/scan/history.js";
import { brokerStreams, type HistoryStreams } from "../history/scan/streams.js";
import { connectBroker } from "../stream/connection.js";

const CONNECT_TIMEOUT_MS = 5000;
/** Without this, V8 lets garbage grow to four times the live memory, which is half of the memory of a scan. */
const HEAP_GROWTH = "--heap-growing-percent=100";

/** The configuration, the streams of this node's own broker, and their history. */
export interface HistoryGround {
  readonly config: Config;
  readonly streams: HistoryStreams;
  readonly history: HistorySource;
}

/** Runs `use` with the history of all streams and of the archive, if there is one. Closes both afterwards. */
export function openHistory<T>(
  configPath: string,
  onDamaged: OnDamaged,
  use: (history: HistorySource) => Promise<T>,
): Promise<T> {
  return openStreams(configPath, async ({ config, streams, history }) => {
    const directory = config.archive?.directory;
    if (directory === undefined || !(await Archive.exists(directory))) return use(history);
    let archive: Promise<Archive> | null = null;
    const open = (): Promise<Archive> => {
      archive ??= Archive.open(directory, { onDamaged });
      return archive;
    };
    try {
      return await use(new ArchivedHistory(history, streams, open));
    } finally {
      (await (archive as Promise<Archive> | null))?.close();
    }
  });
}

/** Runs `use` with the streams alone. Closes the connection to the broker afterwards. */
export async function openStreams<T>(configPath: string, use: (ground: HistoryGround) => Promise<T>): Promise<T> {
  v8.setFlagsFromString(HEAP_GROWTH);
  const config = loadAnyConfig(configPath);
  if (config.mode === "stats") {
    const why = "a node in mode stats has no stream: stats.file has what ended; mode cache works without peers, too";
    throw new ConntrailError("CONFIG", `${config.path}: mode: ${why}`);
  }
  assertMayLogIn(config);
  const log = pino({ level: "silent" });
  const connection = connectBroker({ ...ownBrokerAccess(config), purpose: "history", log });
  try {
    await connection.ready(CONNECT_TIMEOUT_MS).catch((error: unknown) => {
      throw new ConntrailError("BROKER", `${errorText(error)}; is the daemon running?`, { cause: error });
    });
    const streams = brokerStreams(connection, log);
    const history = await History.open({ streams, nodes: writers(config) });
    return await use({ config, streams, history });
  } finally {
    await connection.close();
  }
}
