/** A node with its own kernel (a network namespace) and without a broker: its stream is in memory. */
import type { ExternalCache } from "../../src/cache/external.js";
import type { CommitReport } from "../../src/control/protocol.js";
import { EventSocket } from "../../src/ctnetlink/event-socket.js";
import { RequestSocket } from "../../src/ctnetlink/request-socket.js";
import { type Flow, flowFromRecord } from "../../src/flow/flow.js";
import { systemClock } from "../../src/os/system-clock.js";
import type { FirewallNode } from "../../src/sync/node.js";
import type { Replicator } from "../../src/sync/out/replicator.js";
import { commitExternal } from "../../src/sync/takeover/commit.js";
import { KernelNamespace } from "./kernel-namespace.js";
import { MemoryStream } from "./memory-stream.js";
import { plainStream, testNode } from "./test-node.js";

/** A node on a real kernel. The parts between two such kernels are those of the shipped node. */
export class KernelNode implements AsyncDisposable {
  readonly namespace: KernelNamespace;
  readonly requests: RequestSocket;
  readonly external: ExternalCache;
  readonly replicator: Replicator;
  readonly #stream = new MemoryStream();
  readonly #end = new AbortController();
  readonly #name: string;
  readonly #node: FirewallNode;

  private constructor(name: string, namespace: KernelNamespace, listens: boolean) {
    this.#name = name;
    this.namespace = namespace;
    this.requests = namespace.run(() => new RequestSocket());
    this.#node = testNode(
      {
        kernel: this.requests,
        events: listens ? namespace.run(() => new EventSocket({ gatherMs: 0 })) : null,
        ownStream: plainStream(this.#stream),
        signal: this.#end.signal,
      },
      { node: name },
    );
    this.external = this.#node.external;
    this.replicator = this.#node.replicator;
  }

  /** `listens`: whether it receives its kernel's events. */
  static async create(name: string, { listens = true } = {}): Promise<KernelNode> {
    const node = new KernelNode(name, await KernelNamespace.create(), listens);
    await node.#node.restore();
    await node.#node.start();
    return node;
  }

  /** Follows another node from now on. */
  follow(peer: KernelNode): void {
    const { peers } = this.#node;
    peers.add({
      ...{ node: peer.#name, address: "", discovered: false, stream: peer.#stream, copy: null },
      reached: () => true,
      unreachable: () => null,
      hear: () => () => undefined,
      ask: () => false,
      close: () => undefined,
    });
    peers.run(this.#end.signal);
  }

  /** Writes the peers' flows into its kernel. `updates`: an existing entry is updated in place instead of replaced. */
  commit({ liberal = false, updates = false } = {}): Promise<CommitReport> {
    const nowSeconds = Math.floor(systemClock.wallMs() / 1000);
    const options = { timeoutSeconds: null, liberal, nowSeconds };
    const ignore = (): void => undefined;
    return commitExternal(this.external, this.requests, () => updates, options, ignore);
  }

  /** The kernel's table, in an order that does not depend on the kernel. */
  async dump(): Promise<Flow[]> {
    const flows: Flow[] = [];
    await this.requests.dump({}, ({ words, rare }) => void flows.push(flowFromRecord(words, 0, rare)));
    const order = ({ family, protocol, orig, zoneOrig, zoneReply, zone }: Flow): string =>
      JSON.stringify([family, protocol, orig, zoneOrig, zoneReply, zone]);
    return flows.sort((a, b) => (order(a) < order(b) ? -1 : 1));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.#node.stop();
    this.requests.close();
    await this.namespace[Symbol.asyncDispose]();
  }
}
