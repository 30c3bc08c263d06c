/** Injector and Replicator together: whose a flow is that a dump lists while entries are written and removed. */
import assert from "node:assert/strict";
import { after, describe, it, type TestContext } from "node:test";
import type { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import { IPCTNL_MSG_CT_DELETE } from "../../src/ctnetlink/constants.js";
import type { RequestBatch } from "../../src/ctnetlink/encode.js";
import { EVENT_NEW, EVENT_UPDATE } from "../../src/ctnetlink/event-socket.js";
import type { BatchResult } from "../../src/ctnetlink/request-socket.js";
import { type DecodedFlow, HAS_MARK, W_HAS, W_MARK, W_STATUS, W_TIMEOUT } from "../../src/flow/record.js";
import { IPS_ASSURED, IPS_CONFIRMED, IPS_SEEN_REPLY } from "../../src/flow/status.js";
import { systemClock } from "../../src/os/system-clock.js";
import type { Injector } from "../../src/sync/inject/injector.js";
import type { Replicator } from "../../src/sync/out/replicator.js";
import { MemoryStream } from "../support/memory-stream.js";
import { decodedFlow, tcpRecord } from "../support/records.js";
import { EMPTY_KERNEL, firstStart, testNode } from "../support/test-node.js";

/** Ends the followers. */
const end = new AbortController();
after(() => end.abort());
/** Where a message says what is asked for. */
const NLMSG_TYPE = 4;

/** The one flow of these tests, told apart by its mark. */
function flow(mark: number, status = IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED): DecodedFlow {
  const decoded = decodedFlow(tcpRecord(1));
  decoded.words[W_MARK] = mark;
  decoded.words[W_STATUS] = status;
  decoded.words[W_HAS]! |= HAS_MARK;
  return decoded;
}

/** A node in mode `inject` whose kernel answers when the test says so. */
class Node {
  readonly internal: InternalCache;
  readonly external: ExternalCache;
  readonly injector: Injector;
  readonly replicator: Replicator;
  readonly #origin: number;
  /** Ends what the kernel is asked for. */
  answer: (() => void) | null = null;
  /** What a dump lists, when it does. */
  dump: Promise<readonly DecodedFlow[]> = Promise.resolve([]);
  /** What a lookup finds. */
  found: DecodedFlow | null = null;
  /** Entries that the kernel was asked to remove. */
  removed = 0;

  /**
   * `limit`: flows of its own that it can hold. `starts`: its injector writes at once. `aheadSeconds`: mode `cache` with
   * `commit.ahead`; null: mode `inject`.
   */
  constructor(limit = 10, starts = true, aheadSeconds: number | null = null) {
    this.internal = new InternalCache(10, limit);
    const send = async (batch: RequestBatch): Promise<BatchResult> => {
      const { count } = batch;
      if (batch.bytes(1, 1)[NLMSG_TYPE] === IPCTNL_MSG_CT_DELETE) this.removed += count;
      await new Promise<void>((resolve) => {
        this.answer = resolve;
      });
      this.answer = null;
      return { sent: count, errors: [], unknown: 0 };
    };
    const node = testNode(
      {
        kernel: {
          ...EMPTY_KERNEL,
          dump: async (_options, visit) => {
            const listed = await this.dump;
            for (const item of listed) visit(item);
            return { count: listed.length, malformed: 0, interrupted: false };
          },
        },
        injects: {
          portId: 2,
          send,
          getAll: async (batch, visit) => {
            if (this.found !== null) visit(0, this.found);
            return send(batch);
          },
        },
        past: firstStart(systemClock, this.internal),
      },
      { aheadSeconds },
    );
    node.peers.add({
      ...{ node: "peer", address: "", discovered: false, stream: new MemoryStream(), copy: null },
      reached: () => true,
      unreachable: () => null,
      hear: () => () => undefined,
      ask: () => false,
      close: () => undefined,
    });
    node.peers.run(end.signal);
    assert.ok(node.injector !== null);
    this.injector = node.injector;
    this.external = node.external;
    this.#origin = this.external.origin("peer");
    this.replicator = node.replicator;
    if (starts) this.start();
  }

  start(): void {
    this.injector.start({
      claim: (claimed) => this.replicator.claim(claimed),
      readEvents: () => undefined,
      resync: () => undefined,
    });
  }

  /** The peer claims the flow, with this mark. */
  peerTells(mark: number, status?: number): void {
    const own = this.internal.table.find(flow(mark).words, 0);
    if (own >= 0) this.internal.supersede(own, { node: "peer", stamp: Number.MAX_SAFE_INTEGER });
    this.external.upsert(this.#origin, 1, flow(mark, status).words, null, Number.MAX_SAFE_INTEGER);
  }

  peerEnds(): void {
    this.external.destroy(this.#origin, 1);
  }

  /** Waits until the kernel is asked for something. */
  async asked(): Promise<void> {
    for (let turns = 0; turns < 1000 && this.answer === null; turns++) await new Promise(setImmediate);
    assert.ok(this.answer !== null, "the kernel was asked for nothing");
  }

  /** Answers all that the kernel is asked for, which is something. */
  async settle(): Promise<void> {
    await this.asked();
    await this.rest();
  }

  /** Answers all that the kernel is asked for. */
  async rest(): Promise<void> {
    for (let quiet = 0; quiet < 5; quiet++) {
      await new Promise(setImmediate);
      if (this.answer === null) continue;
      this.answer();
      quiet = 0;
    }
  }

  get owner(): "self" | "peer" | "nobody" {
    const own = this.internal.table.find(flow(0).words, 0);
    if (own >= 0 && !this.internal.isSuperseded(own)) return "self";
    return this.external.table.find(flow(0).words, 0) >= 0 ? "peer" : "nobody";
  }
}

for (const way of ["pollKernel", "resyncKernel"] as const) {
  const list = (node: Node, ...flows: DecodedFlow[]): Promise<boolean> => {
    node.dump = Promise.resolve(flows);
    return node.replicator[way]();
  };
  /** A dump that is under way until `end` says what it lists, and gives whether it was whole. */
  const listLater = (node: Node): { end(...flows: DecodedFlow[]): Promise<boolean> } => {
    let end: (flows: readonly DecodedFlow[]) => void = () => undefined;
    node.dump = new Promise((resolve) => {
      end = resolve;
    });
    const dump = node.replicator[way]();
    return {
      end: (...flows) => {
        end(flows);
        return dump;
      },
    };
  };
  /** A node that has written the peer's flow with mark 2, and has seen it in a dump. */
  const injected = async (limit?: number): Promise<Node> => {
    const node = new Node(limit);
    node.peerTells(2);
    await node.settle();
    await list(node, flow(2));
    return node;
  };

  describe(`a dump while peers' flows are written (${way})`, () => {
    it("does not take for packets what was listed before a write that is under way", async () => {
      const node = new Node();
      node.replicator.onEvent(EVENT_NEW, flow(1), 0);
      node.replicator.flush();
      node.peerTells(2);
      await node.asked();
      await list(node, flow(1));
      assert.equal(node.owner, "peer");
      await node.settle();
      await list(node, flow(2));
      assert.equal(node.owner, "peer");
    });

    it("does not take for another flow what was removed after it was listed", async () => {
      const node = await injected();
      const dump = listLater(node);
      node.peerEnds();
      await node.settle();
      assert.equal(node.injector.counters.removed, 1);
      assert.ok(await dump.end(flow(2)));
      assert.equal(node.owner, "nobody");
      await list(node, flow(2));
      assert.equal(node.owner, "self", "it is listed still, so it is another one");
    });

    it("does not take for written what was listed before a write that ended since", async () => {
      const node = await injected();
      node.peerTells(3);
      await node.asked();
      node.peerTells(2);
      await list(node, flow(2));
      const { updated } = node.injector.counters;
      await node.settle();
      assert.equal(node.injector.counters.updated, updated + 2, "the kernel was left with mark 3");
      await list(node, flow(2));
      assert.equal(node.owner, "peer");
    });

    it("does not take for a flow that came again what was listed of the one before", async () => {
      const node = new Node();
      node.peerTells(2, IPS_CONFIRMED | IPS_SEEN_REPLY);
      await node.settle();
      const dump = listLater(node);
      node.peerEnds();
      node.peerTells(2, IPS_CONFIRMED);
      assert.ok(await dump.end(flow(2, IPS_CONFIRMED | IPS_SEEN_REPLY)));
      assert.equal(node.owner, "peer");
      await node.settle();
      assert.deepEqual([node.injector.counters.removed, node.injector.counters.injected], [1, 2]);
      await list(node, flow(2, IPS_CONFIRMED));
      assert.equal(node.owner, "peer");
    });

    it("leaves this node its own flow whose tuple was a peer's, and that entry waits to be removed", async () => {
      const node = await injected();
      node.peerEnds();
      node.replicator.onEvent(EVENT_NEW, flow(1), 0);
      await list(node, flow(1));
      assert.equal(node.owner, "self");
      await node.settle();
      assert.equal(node.injector.counters.removed, 0);
    });

    it("removes nothing that packets pass on, also where this node has no room for it", async () => {
      const node = await injected(0);
      node.found = flow(3);
      if (way === "pollKernel") await list(node, flow(3));
      else node.replicator.onEvent(EVENT_UPDATE, flow(3), 0);
      assert.equal(node.external.table.size, 0);
      await node.rest();
      assert.equal(node.internal.counters.createFailedFull, 1);
      assert.equal(node.removed, 0);
    });

    it("takes for this node's own what packets have changed since it was written, to whatever it was before", async () => {
      for (const [mark, listed] of [
        [3, true],
        [1, true],
        [3, false],
        [1, false],
      ] as const) {
        const node = new Node();
        node.replicator.onEvent(EVENT_NEW, flow(1), 0);
        node.replicator.flush();
        node.peerTells(2);
        await node.settle();
        if (listed) await list(node, flow(2));
        assert.equal(node.owner, "peer");
        await list(node, flow(mark));
        assert.equal(node.owner, "self", `mark ${mark}, ${listed ? "" : "not "}listed before`);
        assert.equal(node.external.table.size, 0);
      }
    });
  });
}

describe("the start of an injector", () => {
  it("writes nothing before, and then what has come meanwhile", async () => {
    const node = new Node(10, false);
    node.peerTells(2);
    await node.rest();
    node.injector.tick();
    await node.rest();
    assert.equal(node.injector.counters.injected, 0);
    node.start();
    await node.settle();
    assert.equal(node.injector.counters.injected, 1);
  });

  it("takes place once", () => {
    const node = new Node();
    assert.throws(() => node.start(), /an injector starts once/);
  });
});

describe("the end of an injected flow", () => {
  /** What a flow of the peer's has left when it is written. */
  const WRITTEN_SECONDS = 432_005;

  /** A node with an injected flow that its owner ends; who has it then, when the kernel says that so much is left. */
  async function ownerAfterEnd(
    t: TestContext,
    seconds: { write?: number; list?: number; pass: number },
    left: number,
  ): Promise<Node["owner"]> {
    let nowMs = 1_000_000;
    t.mock.method(performance, "now", () => nowMs);
    const later = (by = 0): void => {
      nowMs += by * 1000;
    };
    const listed = (timeout: number): DecodedFlow => {
      const decoded = flow(2);
      decoded.words[W_TIMEOUT] = timeout;
      return decoded;
    };
    const node = new Node();
    node.peerTells(2);
    await node.asked();
    later(seconds.write);
    await node.settle();
    if (seconds.list !== undefined) {
      const { list } = seconds;
      node.dump = new Promise((resolve) => {
        setImmediate(() => {
          later(list);
          resolve([listed(WRITTEN_SECONDS)]);
        });
      });
      assert.ok(await node.replicator.pollKernel());
    }
    assert.equal(node.owner, "peer");
    later(seconds.pass);
    node.found = listed(left);
    node.peerEnds();
    await node.settle();
    t.mock.restoreAll();
    return node.owner;
  }

  it("claims it where packets have prolonged it, or given it another timeout", async (t) => {
    assert.equal(await ownerAfterEnd(t, { pass: 100 }, WRITTEN_SECONDS - 100), "nobody");
    assert.equal(await ownerAfterEnd(t, { pass: 100 }, WRITTEN_SECONDS - 90), "self");
    assert.equal(await ownerAfterEnd(t, { pass: 100 }, 300), "self");
    assert.equal(await ownerAfterEnd(t, { list: 0, pass: 100 }, WRITTEN_SECONDS - 90), "self");
  });

  it("does not where this process, or the kernel, was held up while it was written", async (t) => {
    assert.equal(await ownerAfterEnd(t, { write: 10, pass: 100 }, WRITTEN_SECONDS - 100), "nobody");
    assert.equal(await ownerAfterEnd(t, { write: 10, pass: 100 }, WRITTEN_SECONDS - 110), "nobody");
    assert.equal(await ownerAfterEnd(t, { write: 10, pass: 100 }, WRITTEN_SECONDS - 90), "self");
  });

  it("does not where it was held up while the entry was listed", async (t) => {
    assert.equal(await ownerAfterEnd(t, { list: 10, pass: 100 }, WRITTEN_SECONDS - 110), "nobody");
    assert.equal(await ownerAfterEnd(t, { list: 10, pass: 100 }, WRITTEN_SECONDS - 90), "self");
  });
});

describe("a row that waits to be written ahead", () => {
  it("is written when a lookup finds its entry, which goes when its owner ends it", async () => {
    const node = new Node(10, true, 60);
    node.peerTells(2);
    await node.rest();
    assert.equal(node.injector.young, 1);
    // A write for the row before it has left the entry, and so it is looked up.
    node.found = flow(2);
    node.injector.doubt(flow(2).words);
    await node.settle();
    assert.equal(node.injector.young, 0);
    node.found = null;
    node.peerEnds();
    await node.settle();
    assert.deepEqual([node.injector.counters.removed, node.removed], [1, 1]);
  });

  it("still waits when a lookup finds nothing", async () => {
    const node = new Node(10, true, 60);
    node.peerTells(2);
    node.injector.doubt(flow(2).words);
    await node.settle();
    assert.equal(node.injector.young, 1);
  });
});
