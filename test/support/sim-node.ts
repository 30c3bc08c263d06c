import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import { decodeConntrack } from "../../src/ctnetlink/decode.js";
import type { RequestBatch } from "../../src/ctnetlink/encode.js";
import { EVENT_DESTROY, EVENT_NEW, EVENT_UPDATE } from "../../src/ctnetlink/event-socket.js";
import type { BatchResult, DumpResult } from "../../src/ctnetlink/request-socket.js";
import { type Clock, HybridClock } from "../../src/flow/clock.js";
import { DecodedFlow, W_ID, W_ORIG_L4, W_ORIG_SRC, W_STATUS } from "../../src/flow/record.js";
import { Applier } from "../../src/sync/applier.js";
import { Follower } from "../../src/sync/follower.js";
import { Journal } from "../../src/sync/journal.js";
import type { KernelSource } from "../../src/sync/kernel-source.js";
import { Replicator } from "../../src/sync/replicator.js";
import { Roles } from "../../src/sync/roles.js";
import { MemoryStream } from "./memory-stream.js";

const EEXIST = 17;
const ENOENT = 2;
const EBUSY = 16;
const ASSURED = 0x4;
/** IPS_SRC_NAT_DONE and IPS_DST_NAT_DONE, which the kernel sets by itself. */
const NAT_DONE = 0x180;
const OWN_PORT = 4711;
const NEW_FLAGS_CREATE = 0x0400;
const log = pino({ level: "silent" });

/** A conntrack table that behaves as the kernel's towards its readers: ids, events with port ids, EEXIST and ENOENT. */
export class SimKernel implements KernelSource {
  readonly flows = new Map<string, Uint32Array>();
  readonly #sink: () => Replicator;
  #id: number;
  /** While true, events are lost, as in an overrun. */
  deaf = false;
  #hearsNew = true;

  constructor(firstId: number, sink: () => Replicator) {
    this.#id = firstId;
    this.#sink = sink;
  }

  /** Packets make a flow (0: none), change its status, or end it. */
  create(words: Uint32Array, portId = 0): boolean {
    const key = keyOf(words, 0);
    if (this.flows.has(key)) return false;
    const own = words.slice();
    own[W_ID] = ++this.#id;
    own[W_STATUS]! |= NAT_DONE;
    this.flows.set(key, own);
    this.#event(EVENT_NEW, own, portId);
    return true;
  }

  update(key: string, status: number, portId = 0): boolean {
    const words = this.flows.get(key);
    if (words === undefined) return false;
    words[W_STATUS] = status | NAT_DONE;
    this.#event(EVENT_UPDATE, words, portId);
    return true;
  }

  destroy(key: string, portId = 0): boolean {
    const words = this.flows.get(key);
    if (words === undefined) return false;
    this.flows.delete(key);
    this.#event(EVENT_DESTROY, words, portId);
    return true;
  }

  async dump(visit: (flow: DecodedFlow) => void): Promise<DumpResult> {
    for (const words of this.flows.values()) visit(decoded(words));
    return { count: this.flows.size, malformed: 0, interrupted: false };
  }

  growBuffer(): boolean {
    return false;
  }

  readEvents(): boolean {
    return false;
  }

  hearNew(on: boolean): void {
    this.#hearsNew = on;
  }

  async send(batch: RequestBatch): Promise<BatchResult> {
    const bytes = batch.bytes(OWN_PORT, 1);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const errors: BatchResult["errors"] = [];
    let index = 0;
    for (let at = 0; at < bytes.length; index++) {
      const length = view.getUint32(at, true);
      const type = view.getUint16(at + 4, true) & 0xff;
      const flow = new DecodedFlow();
      if (decodeConntrack(bytes, at + 16, at + length, flow) !== 0) throw new Error("undecodable request");
      const key = keyOf(flow.words, 0);
      const creates = (view.getUint16(at + 6, true) & NEW_FLAGS_CREATE) !== 0;
      if (type === 2) {
        if (!this.destroy(key, OWN_PORT)) errors.push({ index, errno: ENOENT });
      } else if (creates) {
        if (!this.create(flow.words, OWN_PORT)) errors.push({ index, errno: EEXIST });
      } else {
        const errno = this.#refuses(key, flow.words[W_STATUS]!);
        if (errno === 0) this.update(key, flow.words[W_STATUS]!, OWN_PORT);
        else errors.push({ index, errno });
      }
      at += (length + 3) & ~3;
    }
    return { sent: batch.count, errors, unknown: 0 };
  }

  /** The kernel does not take ASSURED back. */
  #refuses(key: string, status: number): number {
    const words = this.flows.get(key);
    if (words === undefined) return ENOENT;
    return (words[W_STATUS]! & ~status & ASSURED) !== 0 ? EBUSY : 0;
  }

  #event(
    kind: typeof EVENT_NEW | typeof EVENT_UPDATE | typeof EVENT_DESTROY,
    words: Uint32Array,
    portId: number,
  ): void {
    if (this.deaf || (!this.#hearsNew && kind === EVENT_NEW)) return;
    const sink = this.#sink();
    sink.onEvent(kind, decoded(words), portId);
    sink.onDrained(1, false);
  }
}

/** What stands for a flow in a SimKernel: its original source, and layer 4. */
export function keyOf(words: Uint32Array, base: number): string {
  return `${words[base + W_ORIG_SRC]}:${words[base + W_ORIG_L4]}`;
}

function decoded(words: Uint32Array): DecodedFlow {
  const flow = new DecodedFlow();
  flow.words.set(words);
  return flow;
}

/** A node without kernel and broker: every part between them is the real one. */
export class SimNode {
  readonly name: string;
  readonly internal = new InternalCache(10_000);
  readonly external = new ExternalCache(50_000);
  readonly stream = new MemoryStream();
  readonly kernel: SimKernel;
  readonly journal: Journal;
  readonly replicator: Replicator;
  readonly followers: Follower[] = [];
  readonly roles: Roles;
  readonly #hybridClock: HybridClock;
  readonly #clock: Clock;
  readonly #end = new AbortController();

  /**
   * `skewMs`: how far this node's wall clock is off. `polls`: the kernel sends no events; its table is read by `poll`.
   * `overrunResyncMs` as in the replicator.
   */
  constructor(
    name: string,
    index: number,
    clock: Clock,
    skewMs: number,
    { polls = false, overrunResyncMs = 0 as number | null } = {},
  ) {
    this.name = name;
    this.#clock = { wallMs: () => clock.wallMs() + skewMs };
    this.#hybridClock = new HybridClock(this.#clock);
    this.kernel = new SimKernel(index * 1_000_000, () => this.replicator);
    this.kernel.deaf = polls;
    this.journal = new Journal({
      node: name,
      epoch: 1,
      continues: null,
      internal: this.internal,
      sink: this.stream,
      clock: this.#clock,
      hybridClock: this.#hybridClock,
      log,
    });
    this.replicator = new Replicator({
      internal: this.internal,
      external: this.external,
      journal: this.journal,
      kernel: this.kernel,
      ownPorts: new Set([OWN_PORT]),
      filter: () => true,
      carries: () => this.roles.carries,
      standsBack: () => this.roles.standsBack,
      ignoresOwn: false,
      overrunResyncMs,
      publishIntervalMs: 0,
      clock: this.#clock,
      log,
      signal: this.#end.signal,
    });
    this.roles = new Roles({
      internal: this.internal,
      external: this.external,
      kernel: this.kernel,
      journal: this.journal,
      followers: this.followers,
      injects: false,
      reader: () => this.replicator,
      before: "unknown",
      commitTimeoutSeconds: null,
      commitWindowTracking: false,
      purgeAfterSeconds: 60,
      clock: this.#clock,
      log,
    });
  }

  /** Writes the epoch mark and the first snapshot. */
  async start(): Promise<void> {
    this.journal.writeMark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 });
    await this.replicator.resyncKernel();
    await this.journal.writeSnapshot(this.#end.signal);
  }

  /** In place of events: takes what has changed since the last dump. */
  async poll(): Promise<void> {
    if (this.kernel.deaf) await this.replicator.pollKernel();
  }

  /** Follows another node from now on. */
  follow(peer: SimNode): void {
    const local = {
      node: this.name,
      internal: this.internal,
      reassert: (slot: number) => this.replicator.reassert(slot),
      pending: () => this.replicator.poke(),
      sinceStamp: 0,
    };
    const { external } = this;
    const follower = new Follower({
      stream: peer.stream,
      copy: null,
      applier: new Applier({ node: peer.name, external, local, hybridClock: this.#hybridClock, log }),
      whole: false,
      ask: () => {
        void peer.journal.writeSnapshot(new AbortController().signal);
        return true;
      },
      clock: this.#clock,
      log,
    });
    this.followers.push(follower);
    void follower.run(this.#end.signal);
  }

  /** Ends it as a crash does: nothing more is read or written. */
  stop(): Promise<void> {
    this.#end.abort();
    return this.roles.stop();
  }

  /** Flows by key, with their status. */
  view(cache: "internal" | "external"): Map<string, number> {
    const { table } = this[cache];
    return this.#flows(cache, (slot) => table.slab(slot)[table.base(slot) + W_STATUS]!);
  }

  /** Flows by key, with the stamp of their connection's first claim. */
  births(cache: "internal" | "external"): Map<string, number> {
    return this.#flows(cache, (slot) => this[cache].table.birth(slot));
  }

  #flows(cache: "internal" | "external", pick: (slot: number) => number): Map<string, number> {
    const { table } = this[cache];
    const flows = new Map<string, number>();
    for (let slot = 0; slot < table.slotsUsed; slot++) {
      const shown = cache === "internal" ? this.internal.isFlow(slot) : table.isLive(slot);
      if (shown) flows.set(keyOf(table.slab(slot), table.base(slot)), pick(slot));
    }
    return flows;
  }
}

/** Resolves when every follower has applied all that its peer has written, and nothing new came of that. */
export async function settled(nodes: readonly SimNode[]): Promise<void> {
  for (let quiet = 0, turns = 0; quiet < 3; turns++) {
    if (turns > 10_000) throw new Error("the nodes do not come to rest");
    await new Promise(setImmediate);
    const written = new Map(nodes.map((node) => [node.name, node.stream.messages.length]));
    const behind = nodes.some((node) =>
      node.followers.some(
        (follower) => written.has(follower.node) && follower.state.sequence < written.get(follower.node)!,
      ),
    );
    quiet = behind ? 0 : quiet + 1;
  }
}
