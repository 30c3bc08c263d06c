/** A node with a kernel of its own, a network namespace, and without a broker: its stream is in memory. */
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import type { CommitReport } from "../../src/control/protocol.js";
import { EventSocket } from "../../src/ctnetlink/event-socket.js";
import { RequestSocket } from "../../src/ctnetlink/request-socket.js";
import { HybridClock, systemClock } from "../../src/flow/clock.js";
import { type Flow, flowFromRecord } from "../../src/flow/flow.js";
import { Applier } from "../../src/sync/in/applier.js";
import { Follower } from "../../src/sync/in/follower.js";
import { Journal } from "../../src/sync/out/journal.js";
import { Replicator } from "../../src/sync/out/replicator.js";
import { commitExternal } from "../../src/sync/takeover/commit.js";
import { KernelNamespace } from "./kernel-namespace.js";
import { MemoryStream } from "./memory-stream.js";

const log = pino({ level: "silent" });

/** Every part between the two kernels is the real one. */
export class KernelNode implements AsyncDisposable {
  readonly namespace: KernelNamespace;
  readonly requests: RequestSocket;
  readonly internal = new InternalCache(10_000);
  readonly external = new ExternalCache(10_000);
  readonly stream = new MemoryStream();
  readonly journal: Journal;
  readonly replicator: Replicator;
  readonly #hybridClock = new HybridClock(systemClock);
  readonly #end = new AbortController();
  readonly #name: string;
  #events: EventSocket | null = null;

  private constructor(name: string, namespace: KernelNamespace) {
    this.#name = name;
    this.namespace = namespace;
    this.requests = namespace.run(() => new RequestSocket());
    const { internal, external } = this;
    const base = { internal, clock: systemClock, hybridClock: this.#hybridClock, log };
    this.journal = new Journal({ ...base, node: name, epoch: 1, continues: null, sink: this.stream });
    this.replicator = new Replicator({
      ...base,
      external,
      journal: this.journal,
      kernel: {
        dump: (visit, signal) => this.requests.dump({ signal }, visit),
        growBuffer: () => this.#events?.growBuffer() ?? false,
        hearNew: (on) => this.#events?.hearNew(on),
        readEvents: () => this.#events?.readNow() ?? false,
      },
      ownPorts: new Set([this.requests.portId]),
      filter: () => true,
      carries: () => false,
      standsBack: () => false,
      ignoresOwn: false,
      publishIntervalMs: 0,
      signal: this.#end.signal,
    });
    internal.listen(() => this.replicator.poke());
  }

  static async create(name: string): Promise<KernelNode> {
    const node = new KernelNode(name, await KernelNamespace.create());
    node.journal.writeMark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 });
    await node.journal.writeSnapshot(node.#end.signal);
    return node;
  }

  /** Listens to its kernel's events from now on. */
  listen(): void {
    this.#events = this.namespace.run(() => new EventSocket(this.replicator, { gatherMs: 0 }));
  }

  /** Follows another node from now on. */
  follow(peer: KernelNode): void {
    const local = { node: this.#name, internal: this.internal, sinceStamp: 0 };
    const { external } = this;
    const follower = new Follower({
      stream: peer.stream,
      copy: null,
      applier: new Applier({ node: peer.#name, external, local, hybridClock: this.#hybridClock, log }),
      whole: false,
      ask: () => false,
      clock: systemClock,
      log,
    });
    void follower.run(this.#end.signal);
  }

  /** Writes what it has of its peers into its kernel; `updates`: what is there already is updated in place, not replaced. */
  commit({ liberal = false, updates = false } = {}): Promise<CommitReport> {
    const nowSeconds = Math.floor(systemClock.wallMs() / 1000);
    const options = { timeoutSeconds: null, liberal, nowSeconds };
    const ignore = (): void => undefined;
    return commitExternal(this.external, this.requests, () => updates, options, ignore);
  }

  /** The kernel's table, in an order that does not depend on it. */
  async dump(): Promise<Flow[]> {
    const flows: Flow[] = [];
    await this.requests.dump({}, ({ words, rare }) => void flows.push(flowFromRecord(words, 0, rare)));
    const order = ({ family, protocol, orig, zoneOrig, zoneReply, zone }: Flow): string =>
      JSON.stringify([family, protocol, orig, zoneOrig, zoneReply, zone]);
    return flows.sort((a, b) => (order(a) < order(b) ? -1 : 1));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    this.replicator.stop();
    await this.#events?.close();
    this.requests.close();
    await this.namespace[Symbol.asyncDispose]();
  }
}
