/**
 * Names on the broker. A node's stream `CT_<node>` holds the three subjects `ct.<node>.ev`, `ct.<node>.snap` and
 * `ct.<node>.mark`. Node names are [A-Za-z0-9_-]{1,32}; the configuration sees to that.
 */

/** What a message is: a batch of events, a chunk of a snapshot, or a marker. */
export type MessageKind = "ev" | "snap" | "mark";

/** All kinds, in the order of ARCHITECTURE.md. */
export const MESSAGE_KINDS: readonly MessageKind[] = ["ev", "snap", "mark"];

/** The stream of `node`. */
export function streamName(node: string): string {
  return `CT_${node}`;
}

/** The node whose stream it is; null when it is none of ours. */
export function nodeOfStream(name: string): string | null {
  return /^CT_([A-Za-z0-9_-]{1,32})$/.exec(name)?.[1] ?? null;
}

/** The subject of one kind of message of `node`. */
export function subject(node: string, kind: MessageKind): string {
  return `ct.${node}.${kind}`;
}

/** What the stream of `node` listens to. */
export function streamSubjects(node: string): string {
  return `ct.${node}.>`;
}

/** The kind of a message on a node's subject, or null when the subject is none of ours. */
export function kindOfSubject(text: string): MessageKind | null {
  const kind = text.slice(text.lastIndexOf(".") + 1);
  return kind === "ev" || kind === "snap" || kind === "mark" ? kind : null;
}

/** A client's own inbox prefix, so that permissions can keep one node out of another's inbox. */
export function inboxPrefix(node: string): string {
  return `_INBOX_${node}`;
}
