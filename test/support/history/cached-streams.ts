import type { HistoryStreams } from "../../../src/history/scan/streams.js";
import type { StoredMessage } from "../../../src/stream/own-stream.js";
import type { StreamMessage } from "../../../src/stream/reader.js";
import type { StreamLookup } from "../../../src/stream/stream-index.js";

/** Everything that `streams` hold now, in memory. */
export async function cachedStreams(streams: HistoryStreams): Promise<HistoryStreams> {
  const nodes = await streams.nodes();
  const held = new Map<string, readonly StreamMessage[]>();
  for (const node of nodes) held.set(node, await readAll(streams, node));
  const of = (node: string): readonly StreamMessage[] => held.get(node) ?? [];
  const lookups = new Map(nodes.map((node) => [node, memoized(streams.lookup(node))]));
  return {
    nodes: async () => nodes,
    lookup: (node) => lookups.get(node) ?? streams.lookup(node),
    read: async function* (node, from) {
      const messages = of(node).filter(({ sequence }) => sequence >= from);
      if (messages.length > 0) yield messages;
    },
  };
}

/** Asks for each message once. */
function memoized(lookup: StreamLookup): StreamLookup {
  const known = new Map<string, Promise<StoredMessage | null>>();
  const remember = (key: string, ask: () => Promise<StoredMessage | null>): Promise<StoredMessage | null> => {
    const answer = known.get(key) ?? ask();
    known.set(key, answer);
    return answer;
  };
  const bounds = lookup.bounds();
  return {
    bounds: () => bounds,
    next: (sequence, kind) => remember(`${sequence} ${kind}`, () => lookup.next(sequence, kind)),
    lastMark: () => remember("last", () => lookup.lastMark()),
  };
}

async function readAll(streams: HistoryStreams, node: string): Promise<StreamMessage[]> {
  const bounds = await streams.lookup(node).bounds();
  const messages: StreamMessage[] = [];
  if (bounds === null || bounds.messages === 0) return messages;
  const stop = new AbortController();
  for await (const items of streams.read(node, 1, 1, stop.signal)) {
    for (const item of items) {
      if (item.type !== "message") continue;
      const payload = Uint8Array.from(item.payload);
      messages.push({ ...item, payload, pending: Math.max(0, bounds.last - item.sequence) });
      if (item.sequence >= bounds.last) stop.abort();
    }
    if (stop.signal.aborted) break;
  }
  return messages.filter(({ sequence }) => sequence <= bounds.last);
}
