/** What daemons ask of each other over a broker. There are no answers: what was asked for comes on its own subject. */
import type { BrokerConnection } from "./connection.js";
import { type NodeRequest, requestSubject } from "./format/subjects.js";

/** Asks a node, through a broker that it listens on. False when the broker is away. */
export function askNode(connection: BrokerConnection, node: string, request: NodeRequest): boolean {
  const { client } = connection;
  if (client === null) return false;
  client.publish(requestSubject(connection.nameOf(node), request));
  return true;
}

/** Calls `asked` when others ask this node for something, also after reconnects, until the returned function is called. */
export function onAsked(connection: BrokerConnection, node: string, asked: (request: NodeRequest) => void): () => void {
  const name = connection.nameOf(node);
  return connection.subscribe(requestSubject(name, "*"), (_client, { subject }) => {
    if (subject === requestSubject(name, "snapshot")) asked("snapshot");
    else if (subject === requestSubject(name, "heartbeat")) asked("heartbeat");
  });
}
