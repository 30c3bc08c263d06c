/** Entries that no packet could make, written over ctnetlink: every protocol, state and kind of translation, zones, labels, marks. */
import * as fc from "fast-check";
import { RequestBatch } from "../../../src/ctnetlink/encode.js";
import { BATCH_MESSAGES, type RequestSocket } from "../../../src/ctnetlink/request-socket.js";
import { IPPROTO_SCTP, IPPROTO_TCP, SCTP_STATES } from "../../../src/flow/protocol.js";
import {
  HAS_RARE,
  type RareAttributes,
  W_HAS,
  W_MARK,
  W_PROTO,
  W_PROTOINFO,
  W_STATUS,
  W_ZONE,
} from "../../../src/flow/record.js";
import { IPS_ASSURED, IPS_SEEN_REPLY } from "../../../src/flow/status.js";
import { errnoName } from "../../../src/os/errno.js";
import { type ArbitraryFlow, flowArbitrary } from "../flow-arbitrary.js";
import { Random } from "../records.js";

const TIMEOUT_SECONDS = 86_400;
const OPTIONS = { timeoutSeconds: TIMEOUT_SECONDS, liberal: false };
/** Every so many flows one is said to have been expected by the last of its family and zone. */
const RELATED_EVERY = 40;

/** Flows as a kernel takes them: no helpers, which must exist, and no security contexts, which have no way in. */
export function generatedFlows(count: number, seed: number): ArbitraryFlow[] {
  const flows = fc.sample(flowArbitrary(), { numRuns: count, seed });
  const masters = new Map<number, Uint32Array>();
  return flows.map(({ words, rare }, index) => {
    const { helper: _, secctx: __, master: ___, ...kept }: RareAttributes = rare ?? {};
    const place = (words[W_PROTO]! >>> 8) * 0x1_0000_0000 + words[W_ZONE]!;
    const master = masters.get(place);
    const protocol = words[W_PROTO]! & 0xff;
    // The kernel takes no window scale above 14, and a new one knows HEARTBEAT_ACKED no more.
    if (protocol === IPPROTO_TCP) words[W_PROTOINFO]! &= 0x07_07_ff;
    if (protocol === IPPROTO_SCTP) words[W_PROTOINFO]! %= SCTP_STATES.indexOf("HEARTBEAT_ACKED");
    const attributes = index % RELATED_EVERY === 0 && master !== undefined ? { ...kept, master } : kept;
    if (words[W_ZONE] === 0) masters.set(place, words);
    const bare = Object.keys(attributes).length === 0;
    words[W_HAS] = bare ? words[W_HAS]! & ~HAS_RARE : words[W_HAS]! | HAS_RARE;
    return { words, rare: bare ? null : attributes };
  });
}

/** Creates the flows; gives those that the kernel took, and counts the others by the reason that it gave. */
export async function createFlows(
  kernel: RequestSocket,
  flows: readonly ArbitraryFlow[],
): Promise<{ taken: ArbitraryFlow[]; refused: Record<string, number> }> {
  const refused: Record<string, number> = {};
  const gone = new Set<ArbitraryFlow>();
  await inBatches(
    kernel,
    flows,
    (batch, { words, rare }) => batch.create(words, 0, rare, OPTIONS),
    (flow, errno) => {
      gone.add(flow);
      refused[errnoName(errno)] = (refused[errnoName(errno)] ?? 0) + 1;
    },
  );
  return { taken: flows.filter((flow) => !gone.has(flow)), refused };
}

/** Gives each flow another mark, and some of them what else may change: replied, assured. Throws when the kernel refuses one. */
export async function updateFlows(kernel: RequestSocket, flows: readonly ArbitraryFlow[], seed: number): Promise<void> {
  const random = new Random(seed);
  for (const { words } of flows) {
    words[W_MARK] = random.oneIn(4) ? 0 : random.word();
    if (random.oneIn(2)) words[W_STATUS]! |= IPS_SEEN_REPLY;
    if (random.oneIn(3)) words[W_STATUS]! |= IPS_SEEN_REPLY | IPS_ASSURED;
  }
  await inBatches(kernel, flows, (batch, { words, rare }) => batch.update(words, 0, rare, OPTIONS), refuse);
}

/** Ends the flows. */
export async function destroyFlows(kernel: RequestSocket, flows: readonly ArbitraryFlow[]): Promise<void> {
  await inBatches(kernel, flows, (batch, { words }) => batch.delete(words, 0), refuse);
}

function refuse(_flow: ArbitraryFlow, errno: number): void {
  throw new Error(`the kernel refused a change with ${errnoName(errno)}`);
}

async function inBatches(
  kernel: RequestSocket,
  flows: readonly ArbitraryFlow[],
  add: (batch: RequestBatch, flow: ArbitraryFlow) => boolean,
  onRefused: (flow: ArbitraryFlow, errno: number) => void,
): Promise<void> {
  const batch = new RequestBatch();
  for (let first = 0; first < flows.length; first += BATCH_MESSAGES) {
    batch.reset();
    const part = flows.slice(first, first + BATCH_MESSAGES);
    for (const flow of part) if (!add(batch, flow)) throw new Error("a batch is larger than its buffer");
    const { errors, unknown } = await kernel.send(batch);
    if (unknown > 0) throw new Error(`${unknown} answers of the kernel were lost`);
    for (const { index, errno } of errors) onRefused(part[index]!, errno);
  }
}
