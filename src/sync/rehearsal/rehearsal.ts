/**
 * What a takeover by each peer would lose if it happened now. This node reads its kernel's table and asks each peer,
 * some flows at a time, whether it would have them. Flows come and go meanwhile, so what a peer lacks is asked for again
 * until it has arrived, is over, or counts.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { InternalCache } from "../../cache/internal.js";
import type { PeerRehearsal, RehearsalReport } from "../../control/protocol.js";
import { ConntrailError, errorText } from "../../errors.js";
import type { FlowPredicate } from "../../flow/filter.js";
import { formatConntrackTool } from "../../flow/format.js";
import { type RareAttributes, RECORD_WORDS } from "../../flow/record.js";
import { BatchEncoder } from "../../stream/format/batch.js";
import type { Envelope } from "../../stream/format/envelope.js";
import { CHECK_FLOWS_MAX, type CheckAnswer, decodeCheckAnswer } from "../../stream/format/flow-check.js";
import type { FormatVersion } from "../../stream/format/versions.js";
import type { KernelTable } from "../ports/kernel.js";

/** Flows that share one piece of memory. */
const SLAB_FLOWS = 4096;
/** How often what a peer lacks is asked for again, and after which time. */
const ROUNDS_MAX = 4;
const ROUND_MS = 500;
/** With more, what a peer lacks is no matter of moments, and counts at once. */
const DOUBTS_MAX = 16_384;
/** Flows of each kind that a report shows. */
const EXAMPLES_MAX = 5;

/** A peer as the rehearsal sees it. */
export interface RehearsalPeer {
  readonly node: string;
  /** Sends a check, and resolves with the peer's answer. Rejects if there is none. */
  check(payload: Uint8Array): Promise<string>;
}

/** What a rehearsal needs of the node. */
export interface RehearsalParts {
  readonly node: string;
  readonly internal: InternalCache;
  readonly kernel: KernelTable;
  readonly peers: () => readonly RehearsalPeer[];
  /** Which flows are replicated. */
  readonly keeps: () => FlowPredicate;
  /** Applies and publishes what the kernel has reported so far. */
  readonly catchUp: () => Promise<void>;
  /** The format version that this node writes. */
  readonly format: () => FormatVersion;
  /** The envelope of a message that does not go into the stream. */
  readonly envelope: () => Envelope;
  readonly signal: AbortSignal;
}

type Progress = (text: string) => void;

/** Compares this kernel's table with what the peers would have. One runs at a time, and a second call joins it. */
export class Rehearsal {
  readonly #parts: RehearsalParts;
  readonly #encoder = new BatchEncoder();
  #running: Promise<RehearsalReport> | null = null;

  constructor(parts: RehearsalParts) {
    this.#parts = parts;
  }

  run(progress: Progress): Promise<RehearsalReport> {
    this.#running ??= this.#run(progress).finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  async #run(progress: Progress): Promise<RehearsalReport> {
    const startedMs = performance.now();
    const { node, peers } = this.#parts;
    const table = await this.#read();
    const reports: PeerRehearsal[] = [];
    for (const peer of peers()) {
      progress(`${peer.node}: checking ${table.count} flows`);
      reports.push(await this.#rehearse(peer, table));
    }
    const { filtered } = table;
    const loses = reports.length === 0 || reports.some(losesAny);
    const durationMs = Math.round(performance.now() - startedMs);
    return { node, flows: table.count, filtered, loses, peers: reports, durationMs };
  }

  /** The flows that this node carries, as its kernel has them. */
  async #read(): Promise<ReadFlows> {
    const { internal, kernel, catchUp, signal } = this.#parts;
    const keeps = this.#parts.keeps();
    const flows = new ReadFlows();
    const { interrupted } = await kernel.dump({ signal }, ({ words, rare }) => {
      const slot = internal.table.find(words, 0);
      // Left over in this kernel: another node carries it.
      if (slot >= 0 && internal.isSuperseded(slot)) return;
      if (keeps(words, 0)) flows.add(words, 0, rare);
      else flows.filtered++;
    });
    if (interrupted) {
      throw new ConntrailError("KERNEL", "the kernel's table changed while it was read: try again");
    }
    await catchUp();
    return flows;
  }

  async #rehearse(peer: RehearsalPeer, table: ReadFlows): Promise<PeerRehearsal> {
    const found = new Findings();
    try {
      let doubts = await this.#check(peer, table, found);
      for (let round = 1; round < ROUNDS_MAX && doubts.count > 0 && doubts.count <= DOUBTS_MAX; round++) {
        await delay(ROUND_MS, undefined, { signal: this.#parts.signal });
        const again = await this.#current(doubts);
        found.forget();
        doubts = await this.#check(peer, again, found);
      }
      return found.report(peer.node, null);
    } catch (error) {
      return found.report(peer.node, errorText(error));
    }
  }

  /** Asks about all flows. Returns those that are missing or differ. */
  async #check(peer: RehearsalPeer, flows: ReadFlows, found: Findings): Promise<ReadFlows> {
    const doubts = new ReadFlows();
    for (let first = 0; first < flows.count; ) {
      const count = this.#fill(flows, first);
      const payload = this.#encoder.encode(this.#parts.envelope(), null, this.#parts.format());
      const answer = decodeCheckAnswer(await peer.check(payload));
      if (answer === null) throw new ConntrailError("MALFORMED", "its answer is not one: is it of this release?");
      found.add(flows, first, answer);
      for (const flowId of [...answer.missing, ...answer.differing]) doubts.copy(flows, first + flowId);
      first += count;
    }
    return doubts;
  }

  /** Puts the flows from `first` on into the encoder, as many as fit. Returns how many. */
  #fill(flows: ReadFlows, first: number): number {
    let count = 0;
    while (first + count < flows.count && count < CHECK_FLOWS_MAX && !this.#encoder.full) {
      const at = first + count;
      this.#encoder.addNew(count++, flows.slab(at), flows.base(at), flows.rare.get(at) ?? null, null);
    }
    return count;
  }

  /** Those that are not over, as they are now. */
  async #current(flows: ReadFlows): Promise<ReadFlows> {
    const { internal, kernel, catchUp } = this.#parts;
    await catchUp();
    const alive = new ReadFlows();
    for (let at = 0; at < flows.count; at++) {
      const own = internal.ownFlow(flows.slab(at), flows.base(at));
      // What the cache does not have may still be in the kernel, and would be lost.
      const flow = own === null ? await kernel.get(flows.slab(at), flows.base(at)) : null;
      if (own !== null) alive.add(own, 0, flows.rare.get(at) ?? null);
      else if (flow !== null) alive.add(flow.words, 0, flow.rare);
    }
    return alive;
  }
}

function losesAny({ error, missing, differing, withoutHelper, overLimit }: PeerRehearsal): boolean {
  return error !== null || missing + differing + withoutHelper + overLimit > 0;
}

/** Flows of a kernel's table, in slabs: the garbage collector would copy a million objects again and again. */
class ReadFlows {
  count = 0;
  /** Flows that the filter leaves out. */
  filtered = 0;
  readonly rare = new Map<number, RareAttributes>();
  readonly #slabs: Uint32Array[] = [];

  add(words: Uint32Array, base: number, rare: RareAttributes | null): void {
    const at = this.count++;
    if (at % SLAB_FLOWS === 0) this.#slabs.push(new Uint32Array(SLAB_FLOWS * RECORD_WORDS));
    this.slab(at).set(words.subarray(base, base + RECORD_WORDS), this.base(at));
    if (rare !== null) this.rare.set(at, rare);
  }

  /** Adds the flow number `at` of another list. */
  copy(from: ReadFlows, at: number): void {
    if (at < from.count) this.add(from.slab(at), from.base(at), from.rare.get(at) ?? null);
  }

  slab(at: number): Uint32Array {
    const slab = this.#slabs[Math.floor(at / SLAB_FLOWS)];
    if (slab === undefined) throw new RangeError(`no flow ${at}`);
    return slab;
  }

  base(at: number): number {
    return (at % SLAB_FLOWS) * RECORD_WORDS;
  }

  /** A flow as `conntrack -L` prints it. */
  text(at: number): string {
    return formatConntrackTool(this.slab(at), this.base(at), this.rare.get(at) ?? null).trim();
  }
}

/** What a peer has said so far. */
class Findings {
  #checked = 0;
  #missing = 0;
  #differing = 0;
  #withoutHelper = 0;
  #overLimit = 0;
  #examples = { missing: [] as string[], differing: [] as string[], withoutHelper: [] as string[] };

  /** Adds the answer about the flows from `first` on. */
  add(flows: ReadFlows, first: number, answer: CheckAnswer): void {
    const { missing, differing, withoutHelper, room, needed } = answer;
    this.#missing += missing.length;
    this.#differing += differing.length;
    this.#withoutHelper += withoutHelper.length;
    this.#overLimit = room === null ? 0 : Math.max(0, needed - room);
    this.#checked = Math.max(this.#checked, flows.count);
    for (const kind of ["missing", "differing", "withoutHelper"] as const) {
      const texts = this.#examples[kind];
      for (const flowId of answer[kind]) {
        if (texts.length < EXAMPLES_MAX && first + flowId < flows.count) texts.push(flows.text(first + flowId));
      }
    }
  }

  /** What was missing or differed is asked for again. */
  forget(): void {
    this.#missing = 0;
    this.#differing = 0;
    this.#examples = { ...this.#examples, missing: [], differing: [] };
  }

  report(node: string, error: string | null): PeerRehearsal {
    return {
      node,
      error,
      checked: this.#checked,
      missing: this.#missing,
      differing: this.#differing,
      withoutHelper: this.#withoutHelper,
      overLimit: this.#overLimit,
      examples: this.#examples,
    };
  }
}
