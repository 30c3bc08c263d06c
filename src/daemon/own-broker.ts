/** How a node, its commands and its archiver reach the broker that holds its streams. */
import type { Config } from "../config/config.js";
import { brokerClientAddress } from "../stream/broker/broker-config.js";
import type { OwnBrokerAccess } from "../stream/connection.js";

/** The way to the broker with this node's stream: its own, or the one that all nodes share. */
export function ownBrokerAccess({ cluster, node, listen, broker, tls }: Config): OwnBrokerAccess {
  const { mode, port, servers, login } = broker;
  const isShared = mode === "shared";
  return {
    servers: mode === "embedded" ? [brokerClientAddress({ host: listen, port })] : servers,
    node,
    serverName: node,
    ...(tls === null ? {} : { tls }),
    login,
    cluster: isShared ? cluster : null,
    asksDaemon: isShared,
  };
}

/** The nodes that write a stream, as far as the configuration says. */
export function writers({ mode, node, peers }: Config): string[] {
  return [...(mode === "observer" ? [] : [node]), ...peers.map((peer) => peer.node)];
}
