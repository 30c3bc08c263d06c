/** How a node, its commands and its archiver reach the broker that holds its streams. */
import { accessSync, constants } from "node:fs";
import type { Config } from "../config/config.js";
import { ConntrailError } from "../errors.js";
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

/**
 * Throws ConntrailError PERMISSION in one line when this process may not read what the node logs in with: who may not would
 * otherwise be refused by the broker again and again.
 */
export function assertMayLogIn({ tls, broker }: Config): void {
  for (const path of [tls?.key, broker.login?.file]) {
    if (path === undefined) continue;
    try {
      accessSync(path, constants.R_OK);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EACCES") continue;
      throw new ConntrailError("PERMISSION", `${path}: may not be read: history is for root and the daemon's user`);
    }
  }
}

/** The nodes that write a stream, as far as the configuration says. */
export function writers({ mode, node, peers }: Config): string[] {
  return [...(mode === "observer" ? [] : [node]), ...peers.map((peer) => peer.node)];
}
