import { pino } from "pino";
import type { Config } from "../config/config.js";
import { ConntrailError, errorText } from "../errors.js";
import { History } from "../history/history.js";
import { brokerStreams } from "../history/streams.js";
import { brokerClientAddress } from "../stream/broker-config.js";
import { connectBroker } from "../stream/connection.js";
import type { CommandContext } from "./command.js";
import { loadAnyConfig } from "./config-file.js";

const CONNECT_TIMEOUT_MS = 5000;

/** Runs `use` with the history of all streams that this node's own broker holds, and ends the connection to it. */
export async function withHistory<T>(context: CommandContext, use: (history: History) => Promise<T>): Promise<T> {
  const config = loadAnyConfig(context.configPath);
  const { tls, node } = config;
  const log = pino({ level: "silent" });
  const connection = connectBroker({
    servers: ownServers(config),
    node,
    purpose: "history",
    serverName: node,
    ...(tls !== null && { tls }),
    log,
  });
  try {
    await connection.ready(CONNECT_TIMEOUT_MS).catch((error: unknown) => {
      throw new ConntrailError("BROKER", `${errorText(error)}; is the daemon running?`, { cause: error });
    });
    return await use(await History.open({ streams: brokerStreams(connection, log), nodes: writers(config) }));
  } finally {
    await connection.close();
  }
}

function ownServers({ broker, listen }: Config): readonly string[] {
  return broker.mode === "embedded" ? [brokerClientAddress({ host: listen, port: broker.port })] : broker.servers;
}

/** The nodes that write a stream as far as the configuration knows. */
function writers({ mode, node, peers }: Config): string[] {
  return [...(mode === "observer" ? [] : [node]), ...peers.map((peer) => peer.node)];
}
