import type { Subscription } from "nats";
import type { BrokerConnection } from "./connection.js";
import { decodeHeartbeat, encodeHeartbeat, type Heartbeat } from "./format/heartbeat.js";
import { heartbeatSubject } from "./format/subjects.js";
import { askNode } from "./requests.js";

/** Sends a heartbeat over the own broker. False while that is away; there is no answer. */
export function sendHeartbeat(connection: BrokerConnection, heartbeat: Heartbeat): boolean {
  const { client } = connection;
  if (client === null) return false;
  client.publish(heartbeatSubject(connection.nameOf(heartbeat.node)), encodeHeartbeat(heartbeat));
  return true;
}

/**
 * Listens to a peer's heartbeats on a broker, also after reconnects, and asks for one at once. On a broker that all nodes
 * share it listens to that peer only, elsewhere to whoever the broker belongs to. `heard` gets null for what is no
 * heartbeat. Returns what ends it.
 */
export function onHeartbeat(
  connection: BrokerConnection,
  node: string,
  heard: (heartbeat: Heartbeat | null) => void,
): () => void {
  let subscription: Subscription | null = null;
  const subscribe = (connected: boolean): void => {
    subscription?.unsubscribe();
    const { client } = connection;
    subscription =
      connected && client !== null
        ? client.subscribe(heartbeatSubject(connection.isShared ? connection.nameOf(node) : "*"), {
            callback: (error, message) => {
              if (error === null) heard(decodeHeartbeat(message.data));
            },
          })
        : null;
    if (subscription !== null) askNode(connection, node, "heartbeat");
  };
  const unwatch = connection.watch(subscribe);
  if (connection.connected) subscribe(true);
  return () => {
    unwatch();
    subscription?.unsubscribe();
  };
}
