/**
 * Names on the broker. A node's stream `CT_<node>` has the three subjects `ct.<node>.ev`, `ct.<node>.snap` and
 * `ct.<node>.mark`. Node names are [A-Za-z0-9_-]{1,32}, which the configuration checks. On a broker that all nodes share,
 * and perhaps other clusters too, `<node>` is `<node>@<cluster>` everywhere: `brokerName`.
 */

/** The kind of a message: a batch of events, a chunk of a snapshot, or a mark. */
export type MessageKind = "ev" | "snap" | "mark";

/** All kinds, in the order of ARCHITECTURE.md. */
export const MESSAGE_KINDS: readonly MessageKind[] = ["ev", "snap", "mark"];

/** What a node is called on a broker; `cluster` is null on the node's own broker. Everything below takes that name. */
export function brokerName(node: string, cluster: string | null): string {
  return cluster === null ? node : `${node}@${cluster}`;
}

/** The stream of `node`. */
export function streamName(node: string): string {
  return `CT_${node}`;
}

/** The node of a stream; null when the name is none of ours, or another cluster's. */
export function nodeOfStream(name: string, cluster: string | null): string | null {
  const node = /^CT_([A-Za-z0-9_-]{1,32})(?:@[A-Za-z0-9_-]{1,32})?$/.exec(name)?.[1];
  return node !== undefined && name === streamName(brokerName(node, cluster)) ? node : null;
}

/** The subject of one kind of message of `node`. */
export function subject(node: string, kind: MessageKind): string {
  return `ct.${node}.${kind}`;
}

/** The subjects that the stream of `node` stores. */
export function streamSubjects(node: string): string {
  return `ct.${node}.>`;
}

/** The kind of a message on a node's subject, or null when the subject is none of ours. */
export function kindOfSubject(text: string): MessageKind | null {
  const kind = text.slice(text.lastIndexOf(".") + 1);
  return kind === "ev" || kind === "snap" || kind === "mark" ? kind : null;
}

/**
 * The inbox prefix of a node's clients. Each node has its own, so that permissions can protect inboxes from other
 * nodes.
 */
export function inboxPrefix(node: string): string {
  return `_INBOX_${node}`;
}

/** Where the daemon of `node` sends its heartbeats. Not below `ct.<node>.`, or the stream would keep them. */
export function heartbeatSubject(node: string): string {
  return `cthb.${node}`;
}

/** What a node asks of another: a snapshot in its stream, or a heartbeat before the next one is due. */
export type NodeRequest = "snapshot" | "heartbeat";

/**
 * Where `reader` asks the daemon of `node` to read its stream. Each reader has a subject of its own, so the broker's
 * permissions prove who asks.
 */
export function readSubject(node: string, reader: string): string {
  return `ctread.${node}.${reader}`;
}

/** Where `reader` asks the daemon of `node` whether it has flows. Each reader has a subject of its own, as above. */
export function checkSubject(node: string, reader: string): string {
  return `ctcheck.${node}.${reader}`;
}

/** Where `node` is asked for something. Not below `ct.<node>.`, or the stream would keep it. */
export function requestSubject(node: string, request: NodeRequest | "*"): string {
  return `ctreq.${node}.${request}`;
}
