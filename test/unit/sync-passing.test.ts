/** Whether a node that is to purge still carries what another one has claimed. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { InternalCache } from "../../src/cache/internal.js";
import { DecodedFlow, W_ORIG_DST, W_ORIG_SRC, W_REPLY_DST, W_TIMEOUT } from "../../src/flow/record.js";
import { PassingTraffic } from "../../src/sync/takeover/passing.js";
import { sampleRecord } from "../support/control-handlers.js";

const NOW = 1_000_000;
const WATCHED_MS = 3_000;
/** Where sampleRecord's flow is translated to. */
const TRANSLATED_TO = "192.168.255.250";

/** A kernel with flows whose timeouts the test sets; the first `claimed` of them are another node's. */
class Node {
  readonly internal = new InternalCache(100);
  readonly flows: DecodedFlow[] = [];
  readonly passing: PassingTraffic;
  beforeList: () => void = () => undefined;
  afterList: () => void = () => undefined;

  constructor(options: { flows: number; claimed: number; addresses?: string[] }) {
    for (let number = 0; number < options.flows; number++) {
      const flow = new DecodedFlow();
      flow.words.set(sampleRecord(0));
      flow.words[W_ORIG_SRC]! += number;
      this.flows.push(flow);
      const slot = this.internal.upsert(flow, NOW);
      if (number < options.claimed) this.internal.supersede(slot, { node: "fw2", stamp: 1 });
    }
    this.passing = new PassingTraffic({
      internal: this.internal,
      list: async (visit) => {
        this.beforeList();
        for (const flow of this.flows) visit(flow);
        this.afterList();
      },
      addresses: () => new Set(options.addresses),
    });
  }

  /** Looks twice; in between the timeouts go down by so many seconds, flow by flow. */
  async passes(...down: number[]): Promise<boolean> {
    const look = await this.passing.look();
    this.flows.forEach((flow, number) => {
      flow.words[W_TIMEOUT]! -= down[number] ?? 0;
    });
    return this.passing.passes({ ...look, atMs: look.atMs - WATCHED_MS });
  }
}

describe("traffic that passes", () => {
  it("is none when the timeouts of all that was claimed went down with the time", async () => {
    assert.equal(await new Node({ flows: 3, claimed: 2 }).passes(3, 4, 0), false);
    assert.equal(await new Node({ flows: 1, claimed: 0 }).passes(0), false);
  });

  it("is seen by one claimed flow whose timeout was set anew", async () => {
    assert.equal(await new Node({ flows: 3, claimed: 2 }).passes(3, 1, 3), true);
    assert.equal(await new Node({ flows: 3, claimed: 2 }).passes(3, -400, 3), true);
  });

  it("is expected where a claimed flow is translated to an address of this machine", async () => {
    const addresses = [TRANSLATED_TO];
    assert.equal(await new Node({ flows: 1, claimed: 1, addresses }).passes(3), true);
    assert.equal(await new Node({ flows: 1, claimed: 0, addresses }).passes(3), false);
    assert.equal(await new Node({ flows: 1, claimed: 1, addresses: ["192.168.255.251"] }).passes(3), false);
    const routed = new Node({ flows: 1, claimed: 1, addresses: ["10.0.0.10"] });
    const { table } = routed.internal;
    table.slab(0)[table.base(0) + W_REPLY_DST] = table.slab(0)[table.base(0) + W_ORIG_SRC]!;
    assert.equal(await routed.passes(3), false, "an address at its end is no translation");
  });

  it("is not seen in connections of this machine itself, nor in what goes to many", async () => {
    for (const end of ["10.0.0.10", "192.168.255.33"]) {
      assert.equal(await new Node({ flows: 1, claimed: 1, addresses: [end] }).passes(0), false, end);
      assert.equal(await new Node({ flows: 1, claimed: 1, addresses: [end, TRANSLATED_TO] }).passes(3), false, end);
    }
    for (const to of [0xe000_0012, 0xffff_ffff]) {
      const node = new Node({ flows: 1, claimed: 1 });
      const { table } = node.internal;
      table.slab(0)[table.base(0) + W_ORIG_DST] = to;
      // The kernel lists it as the table has it.
      node.flows[0]!.words[W_ORIG_DST] = to;
      assert.equal(await node.passes(0), false);
    }
    assert.equal(await new Node({ flows: 1, claimed: 1, addresses: ["10.0.0.11"] }).passes(0), true);
  });

  it("is none either when the first look was held up after the kernel had listed a flow, or before", async (t) => {
    let nowMs = 1_000_000;
    t.mock.method(performance, "now", () => nowMs);
    for (const held of ["before", "after"]) {
      const node = new Node({ flows: 1, claimed: 1 });
      const [{ words }] = node.flows as [DecodedFlow];
      const pass = (seconds: number): void => {
        nowMs += seconds * 1000;
        words[W_TIMEOUT]! -= seconds;
      };
      if (held === "before") node.beforeList = () => pass(10);
      else node.afterList = () => pass(10);
      const look = await node.passing.look();
      node.beforeList = node.afterList = () => undefined;
      pass(3);
      assert.equal(await node.passing.passes(look), false, held);
      pass(3);
      words[W_TIMEOUT]! += 16;
      assert.equal(await node.passing.passes(look), true, held);
    }
  });

  it("is not told from flows that were not there at the first look", async () => {
    const node = new Node({ flows: 1, claimed: 1 });
    const look = await node.passing.look();
    assert.equal(await node.passing.passes({ atMs: look.atMs - WATCHED_MS, timeouts: new Uint32Array() }), false);
  });
});
