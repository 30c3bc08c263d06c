import type { Subscription } from "nats";
import type { BrokerConnection } from "./connection.js";

/** Not below `ct.<node>.`: the stream would store the requests. */
function requestSubject(node: string): string {
  return `ctreq.${node}.snapshot`;
}

/**
 * Asks a node for a snapshot, through a broker that it listens on. There is no answer. False when the broker is away.
 */
export function askSnapshot(connection: BrokerConnection, node: string): boolean {
  const client = connection.client;
  if (client === null) return false;
  client.publish(requestSubject(node));
  return true;
}

/**
 * Calls `asked` when others ask this node for a snapshot, also after reconnects, until the returned function is
 * called.
 */
export function onSnapshotAsked(connection: BrokerConnection, node: string, asked: () => void): () => void {
  let subscription: Subscription | null = null;
  const subscribe = (connected: boolean): void => {
    subscription?.unsubscribe();
    subscription = connected
      ? (connection.client?.subscribe(requestSubject(node), { callback: (error) => error === null && asked() }) ?? null)
      : null;
  };
  const unwatch = connection.watch(subscribe);
  if (connection.connected) subscribe(true);
  return () => {
    unwatch();
    subscription?.unsubscribe();
  };
}
