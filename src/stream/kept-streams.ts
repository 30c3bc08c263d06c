import { API_TIMEOUT_MS, type BrokerConnection, jetStreamOf } from "./connection.js";
import { oneByOne } from "./own-stream.js";

/** How much a broker still has of a node's stream. */
export interface KeptStream {
  readonly node: string;
  readonly messages: number;
  readonly bytes: number;
  /** When its oldest message was stored, milliseconds since the Unix epoch; null: it is empty. */
  readonly sinceMs: number | null;
  /** Messages that the limits of age or size have removed. */
  readonly cut: number;
}

/** One for each node of a cluster; more are left out. */
const STREAMS_MAX = 256;

/** The streams that a broker holds, by name of their node. @throws ConntrailError BROKER when it is away */
export async function keptStreams(connection: BrokerConnection): Promise<KeptStream[]> {
  const client = await connection.ready(API_TIMEOUT_MS);
  const jsm = await jetStreamOf(client);
  const kept: KeptStream[] = [];
  for await (const { config, state } of oneByOne(connection, jsm.streams.list("ct.>"))) {
    const node = connection.nodeOf(config.name);
    if (node === null) continue;
    if (kept.length >= STREAMS_MAX) break;
    const { messages, bytes, first_seq: first, first_ts: since } = state;
    const cut = messages === 0 ? state.last_seq : Math.max(0, first - 1);
    kept.push({ node, messages, bytes, sinceMs: messages === 0 ? null : Date.parse(since), cut });
  }
  return kept.sort((a, b) => (a.node < b.node ? -1 : 1));
}
