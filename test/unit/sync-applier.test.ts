import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { pino } from "pino";
import { EXPECTATIONS_MAX } from "../../src/cache/expectation-row.js";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock } from "../../src/flow/clock.js";
import { expectationFromJson, expectationKey } from "../../src/flow/expectation.js";
import { W_CREATED, W_STATUS, W_UPDATED } from "../../src/flow/record.js";
import { FLOW_ID_MAX } from "../../src/flow/slot-map.js";
import { PUBLISH_MOVED } from "../../src/ownership/state.js";
import type { BatchEncoder } from "../../src/stream/format/batch.js";
import { Applier } from "../../src/sync/in/applier.js";
import { sampleExpectation } from "../support/control-handlers.js";
import { decodedFlow, tcpRecord } from "../support/records.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";

const log = pino({ level: "silent" });
const LOCAL_MS = 1_900_000_000_000;
const ALL = 0xffff_ffff;

/** fw1, which reads fw2 and fw3. */
class Bench {
  readonly internal = new InternalCache(1000);
  readonly external = new ExternalCache(1000);
  readonly fw2 = new StreamWriter("fw2");
  readonly fw3 = new StreamWriter("fw3");
  readonly applier: Applier;
  readonly other: Applier;

  constructor(sinceStamp = 0) {
    const local = { node: "fw1", internal: this.internal, sinceStamp };
    const clock = new HybridClock({ wallMs: () => LOCAL_MS });
    const { external } = this;
    this.applier = new Applier({ node: "fw2", external, local, hybridClock: clock, log });
    this.other = new Applier({ node: "fw3", external, local, hybridClock: clock, log });
  }

  read(...messages: readonly WrittenMessage[]): void {
    for (const message of messages) assert.equal(this.applier.apply(message, LOCAL_MS), true);
  }

  readOther(...messages: readonly WrittenMessage[]): void {
    for (const message of messages) assert.equal(this.other.apply(message, LOCAL_MS), true);
  }

  /** A whole snapshot of fw2: each flow id stands for the tuple of that number. */
  snapshot(...ids: readonly number[]): void {
    const { fw2 } = this;
    this.read(
      fw2.mark({ type: "snapshot-begin", id: fw2.number, flows: ids.length }),
      fw2.chunk(0, ALL, (batch) => {
        for (const id of ids) add(batch, id);
      }),
      fw2.mark({ type: "snapshot-end", id: fw2.number - 2, flows: ids.length }),
    );
  }

  /** Puts an own flow into the internal cache, claimed at `stamp`. */
  own(tuple: number, stamp: number): number {
    const slot = this.internal.upsert(decodedFlow(tcpRecord(tuple)), 0);
    this.internal.settle(this.internal.pendingCount, stamp);
    return slot;
  }

  /** Slots of own flows that wait to be claimed again, by their old stamps. */
  get reasserted(): number[] {
    const { internal } = this;
    const pending = Array.from({ length: internal.pendingCount }, (_, index) => internal.pendingSlot(index));
    return pending.filter((slot) => internal.isClaimedAgain(slot));
  }

  /** Tuples in the external cache, with their owners. */
  get flows(): string[] {
    const list: string[] = [];
    for (let tuple = 0; tuple < 50; tuple++) {
      const claim = this.external.claim(tcpRecord(tuple), 0);
      if (claim !== null) list.push(`${tuple} ${claim.node}`);
    }
    return list;
  }
}

function add(batch: BatchEncoder, flowId: number, tuple = flowId): void {
  batch.addNew(flowId, tcpRecord(tuple), 0, null, null);
}

describe("Applier", () => {
  it("is exact from a whole snapshot on, and follows what comes between its chunks", () => {
    const bench = new Bench();
    const { fw2, applier } = bench;
    bench.read(fw2.events((batch) => add(batch, 30)));
    assert.equal(applier.exact, false);
    bench.read(fw2.mark({ type: "snapshot-begin", id: 5, flows: 3 }));
    assert.deepEqual([applier.exact, applier.inSnapshot], [false, true]);
    bench.read(
      fw2.chunk(0, 10, (batch) => {
        add(batch, 1);
        add(batch, 2);
      }),
      fw2.events((batch) => {
        batch.addDestroy(2, tcpRecord(2), 0, undefined);
        add(batch, 3);
      }),
      fw2.chunk(10, ALL, (batch) => add(batch, 12)),
    );
    assert.equal(applier.exact, false);
    bench.read(fw2.mark({ type: "snapshot-end", id: 5, flows: 3 }));
    assert.deepEqual([applier.exact, applier.inSnapshot, applier.flows], [true, false, 3]);
    assert.deepEqual(bench.flows, ["1 fw2", "3 fw2", "12 fw2"]);
    assert.deepEqual(applier.position, { epoch: 10, number: 6 });
    assert.equal(applier.counters.snapshots, 1);
  });

  it("takes no snapshot for whole that was cut short, by another or by a hole", () => {
    for (const cut of ["another begin", "hole"] as const) {
      const bench = new Bench();
      const { fw2, applier } = bench;
      bench.read(
        fw2.mark({ type: "snapshot-begin", id: 5, flows: 2 }),
        fw2.chunk(0, 10, (batch) => add(batch, 1)),
      );
      if (cut === "hole") fw2.number++;
      else bench.read(fw2.mark({ type: "snapshot-begin", id: 6, flows: 2 }));
      bench.read(fw2.mark({ type: "snapshot-end", id: 5, flows: 2 }));
      assert.deepEqual([applier.exact, applier.inSnapshot], [false, cut === "another begin"], cut);
      assert.equal(applier.counters.snapshots, 0);
    }
  });

  it("stays exact while a snapshot is cut short: what it stated is exact by itself", () => {
    const bench = new Bench();
    bench.snapshot(1, 2);
    bench.read(
      bench.fw2.mark({ type: "snapshot-begin", id: 99, flows: 2 }),
      bench.fw2.chunk(0, 2, () => undefined),
    );
    assert.equal(bench.applier.exact, true);
    assert.deepEqual(bench.flows, ["2 fw2"]);
  });

  it("is not exact after a hole, until the next whole snapshot", () => {
    const bench = new Bench();
    bench.snapshot(1, 2);
    bench.fw2.number++;
    bench.read(bench.fw2.events((batch) => add(batch, 3)));
    assert.deepEqual([bench.applier.exact, bench.applier.counters.holes], [false, 1]);
    assert.deepEqual(bench.flows, ["1 fw2", "2 fw2", "3 fw2"], "what came is applied all the same");
    bench.snapshot(3, 4);
    assert.equal(bench.applier.exact, true);
    assert.deepEqual(bench.flows, ["3 fw2", "4 fw2"]);
  });

  it("passes over what it has read, and over another node's messages", () => {
    const bench = new Bench();
    const first = bench.fw2.events((batch) => add(batch, 1));
    const second = bench.fw2.events((batch) => batch.addDestroy(1, tcpRecord(1), 0, undefined));
    bench.read(first, second, first, second, first);
    bench.read(bench.fw3.events((batch) => add(batch, 5)));
    assert.deepEqual(bench.flows, []);
    assert.deepEqual([bench.applier.counters.outdated, bench.applier.counters.refused], [3, 1]);
    bench.read(bench.fw2.restart(false));
    bench.read(first);
    assert.equal(bench.applier.counters.outdated, 4, "of an epoch that is over");
    assert.deepEqual([bench.applier.counters.holes, bench.applier.counters.epochs], [0, 1]);
  });

  it("counts and skips what is malformed", () => {
    const bench = new Bench();
    const sound = bench.fw2.events((batch) => add(batch, 1));
    assert.equal(bench.applier.apply({ kind: "ev", payload: sound.payload.subarray(1) }, LOCAL_MS), false);
    assert.equal(bench.applier.apply({ kind: "mark", payload: sound.payload }, LOCAL_MS), false);
    assert.equal(bench.applier.apply({ kind: "snap", payload: Uint8Array.of() }, LOCAL_MS), false);
    assert.deepEqual([bench.applier.counters.malformed, bench.flows.length], [3, 0]);
    bench.read(sound);
    assert.equal(bench.flows.length, 1);
  });

  it("goes on over a restart that took the table over just where it stands", () => {
    const bench = new Bench();
    bench.snapshot(1, 2);
    bench.read(bench.fw2.restart(true));
    assert.equal(bench.applier.exact, true);
    bench.read(bench.fw2.events((batch) => batch.addDestroy(1, tcpRecord(1), 0, undefined)));
    assert.deepEqual(bench.flows, ["2 fw2"], "flow ids go on");
    assert.deepEqual([bench.applier.counters.epochs, bench.applier.counters.holes], [1, 0]);
  });

  const stops: [string, (bench: Bench) => void][] = [
    ["took nothing over", ({ fw2, read }) => read(fw2.restart(false))],
    [
      "took over another place",
      (bench) => {
        bench.fw2.number--;
        bench.read(bench.fw2.restart(true));
      },
    ],
    [
      "took over another epoch",
      (bench) => {
        bench.fw2.epoch++;
        bench.read(bench.fw2.restart(true));
      },
    ],
    [
      "lost its first message",
      (bench) => {
        bench.fw2.restart(true);
        bench.read(bench.fw2.mark({ type: "role", role: "backup" }));
      },
    ],
    [
      "begins with a batch",
      (bench) => {
        bench.fw2.epoch++;
        bench.fw2.number = 0;
        bench.read(bench.fw2.events(() => undefined));
      },
    ],
  ];
  for (const [name, restart] of stops) {
    it(`forgets flow ids over a restart that ${name}, and keeps the flows until the next snapshot`, () => {
      const bench = new Bench();
      bench.snapshot(1, 2);
      bench.read = bench.read.bind(bench);
      restart(bench);
      assert.equal(bench.applier.exact, false);
      bench.read(bench.fw2.events((batch) => batch.addDestroy(1, tcpRecord(1), 0, undefined)));
      assert.deepEqual(bench.flows, ["1 fw2", "2 fw2"], "the id stands for another flow now");
      bench.read(bench.fw2.events((batch) => add(batch, 7, 2)));
      bench.snapshot(7);
      assert.equal(bench.applier.exact, true);
      assert.deepEqual(bench.flows, ["7 fw2"]);
    });
  }

  it("reads anew from anywhere after restart(), without calling old news fresh", () => {
    const bench = new Bench();
    const early = bench.fw2.events((batch) => add(batch, 3));
    bench.read(early);
    bench.snapshot(1, 2);
    bench.own(3, bench.fw2.stamp + 1000);
    bench.applier.restart();
    assert.deepEqual([bench.applier.exact, bench.applier.position], [false, { epoch: 0, number: 0 }]);
    bench.read(early);
    assert.deepEqual([bench.applier.counters.outdated, bench.applier.counters.epochs], [0, 0]);
    assert.deepEqual(bench.reasserted, [], "it was answered when it was read first");
    assert.equal(bench.internal.reasserted, 0);
  });

  it("tells times by this node's clock, and ages by the writer's own", () => {
    const bench = new Bench();
    const words = tcpRecord(1);
    words[W_CREATED] = bench.fw2.wallMs / 1000 - 60;
    bench.read(
      bench.fw2.chunk(0, ALL, (batch) => {
        batch.addNew(1, words, 0, null, { stamp: 5 });
        add(batch, 2);
      }),
    );
    const at = (tuple: number, word: number): number => {
      const { table } = bench.external;
      const slot = table.find(tcpRecord(tuple), 0);
      return table.slab(slot)[table.base(slot) + word]!;
    };
    assert.deepEqual([at(1, W_UPDATED), at(1, W_CREATED)], [LOCAL_MS / 1000, LOCAL_MS / 1000 - 60]);
    assert.deepEqual([at(2, W_UPDATED), at(2, W_CREATED)], [LOCAL_MS / 1000, LOCAL_MS / 1000]);
  });

  it("changes rows in place, and counts changes of flows that it does not know", () => {
    const bench = new Bench();
    bench.read(bench.fw2.events((batch) => add(batch, 1)));
    const words = tcpRecord(1);
    words[W_STATUS] = 0x200;
    bench.read(
      bench.fw2.events((batch) => {
        batch.addUpdate(1, words, 0, { helper: "ftp" });
        batch.addUpdate(9, words, 0, null);
      }),
    );
    const { table, counters } = bench.external;
    const slot = table.find(tcpRecord(1), 0);
    assert.equal(table.slab(slot)[table.base(slot) + W_STATUS], 0x200);
    assert.deepEqual(table.rare.get(slot), { helper: "ftp" });
    assert.equal(bench.external.stamp(slot), bench.fw2.stamp);
    assert.equal(counters.unknown, 1);
  });

  it("keeps no flow ids that no table of ours gives", () => {
    const bench = new Bench();
    bench.read(bench.fw2.events((batch) => add(batch, FLOW_ID_MAX + 1, 1)));
    assert.deepEqual(bench.flows, []);
  });
});

describe("Applier, flows that this node's own kernel has", () => {
  it("takes a newer claim, gives the own one up, and marks when it has ended there", () => {
    const bench = new Bench();
    const slot = bench.own(1, 500);
    bench.read(bench.fw2.events((batch) => add(batch, 7, 1)));
    assert.deepEqual(bench.flows, ["1 fw2"]);
    assert.ok(bench.internal.isSuperseded(slot));
    assert.equal(bench.internal.publication(slot), PUBLISH_MOVED);
    assert.deepEqual(bench.internal.newerOwner(slot), { node: "fw2", stamp: bench.fw2.stamp });
    bench.read(bench.fw2.events((batch) => batch.addDestroy(7, tcpRecord(1), 0, undefined)));
    assert.ok(bench.internal.hasEndedElsewhere(slot));
    assert.deepEqual(bench.flows, []);
  });

  it("drops an older claim, ends what its flow id stood for, and tells of its own again", () => {
    const bench = new Bench();
    bench.read(bench.fw2.events((batch) => add(batch, 7, 2)));
    const slot = bench.own(1, bench.fw2.stamp + 1000);
    bench.read(bench.fw2.events((batch) => add(batch, 7, 1)));
    assert.deepEqual(bench.flows, []);
    assert.ok(!bench.internal.isSuperseded(slot));
    assert.deepEqual(bench.reasserted, [slot]);
    assert.equal(bench.internal.reasserted, 1);
    assert.deepEqual([bench.external.counters.stale, bench.external.counters.replaced], [1, 1]);
  });

  it("goes by the stamp of the claim where a row states an old one", () => {
    const bench = new Bench();
    const slot = bench.own(1, 500);
    bench.read(bench.fw2.chunk(0, ALL, (batch) => batch.addNew(7, tcpRecord(1), 0, null, { stamp: 499 })));
    assert.ok(!bench.internal.isSuperseded(slot));
    bench.read(bench.fw2.chunk(0, ALL, (batch) => batch.addNew(7, tcpRecord(1), 0, null, { stamp: 501 })));
    assert.ok(bench.internal.isSuperseded(slot));
    assert.equal(bench.external.claim(tcpRecord(1), 0)?.stamp, 501);
  });

  it("does not answer what was told before this daemon's first stamp", () => {
    const bench = new Bench(5000);
    bench.own(1, 9000);
    bench.read(bench.fw2.events((batch) => add(batch, 7, 1)));
    assert.deepEqual(bench.reasserted, []);
    bench.fw2.stamp = 6000;
    bench.read(bench.fw2.events((batch) => add(batch, 8, 1)));
    assert.equal(bench.reasserted.length, 1);
  });

  it("does not matter where there is no kernel", () => {
    const external = new ExternalCache(10);
    const hybridClock = new HybridClock({ wallMs: () => LOCAL_MS });
    const applier = new Applier({ node: "fw2", external, local: null, hybridClock, log });
    const fw2 = new StreamWriter("fw2");
    assert.ok(
      applier.apply(
        fw2.events((batch) => add(batch, 1)),
        LOCAL_MS,
      ),
    );
    assert.ok(
      applier.apply(
        fw2.events((batch) => batch.addDestroy(1, tcpRecord(1), 0, undefined)),
        LOCAL_MS,
      ),
    );
    assert.equal(external.table.size, 0);
  });
});

describe("Applier, what it leaves to be published", () => {
  it("is told of behind the message, and only where something waits", () => {
    const bench = new Bench();
    const pending: number[] = [];
    bench.internal.listen(() => pending.push(bench.internal.pendingCount));
    for (const tuple of [1, 2]) bench.own(tuple, 500);
    bench.read(bench.fw2.events((batch) => add(batch, 9)));
    assert.deepEqual(pending, []);
    bench.read(
      bench.fw2.events((batch) => {
        add(batch, 1);
        add(batch, 2);
      }),
    );
    assert.deepEqual(pending, [2]);
  });
});

describe("Applier, expectations", () => {
  it("those without room count as what found no room", () => {
    const bench = new Bench();
    const { applier, external } = bench;
    const state = (first: number, count: number): void => {
      const message = bench.fw2.events((batch) => {
        for (let number = first; number < first + count; number++) {
          batch.addExpectation(expectationFromJson(sampleExpectation("kernel", number)), 300, LOCAL_MS / 1000, null);
        }
      });
      bench.read(message);
    };
    for (let first = 0; first < EXPECTATIONS_MAX; first += 64) state(first, 64);
    assert.equal(applier.refusals.noRoom, 0);
    state(EXPECTATIONS_MAX, 5);
    assert.deepEqual([external.expectations.size, applier.refusals.noRoom], [EXPECTATIONS_MAX, 5]);
  });
});

describe("Applier, expectations that this node's own kernel has", () => {
  const NOW = LOCAL_MS / 1000;
  const expected = expectationFromJson(sampleExpectation("kernel", 1));
  const key = expectationKey(expected);

  for (const [peer, wins] of [
    ["fw0", true],
    ["fw2", false],
  ] as const) {
    it(`go to the lesser name of two claims by one stamp (${peer})`, () => {
      const { internal, external } = new Bench();
      internal.expectations.upsert(expected, NOW);
      internal.expectations.settle(internal.expectations.pending(1), 700);
      const local = { node: "fw1", internal, sinceStamp: 0 };
      const hybridClock = new HybridClock({ wallMs: () => LOCAL_MS });
      const applier = new Applier({ node: peer, external, local, hybridClock, log });
      const writer = new StreamWriter(peer);
      applier.apply(
        writer.events((batch) => batch.addExpectation(expected, 300, NOW, 700)),
        LOCAL_MS,
      );
      assert.equal(internal.expectations.superseded(false).length, wins ? 1 : 0);
      assert.equal(external.expectations.claim(key), wins ? 700 : null);
      assert.equal(internal.expectations.pendingCount, wins ? 0 : 1, "the own claim again");
    });
  }
});

describe("Applier, flows that moved", () => {
  it("go when the new owner is this node", () => {
    const bench = new Bench();
    bench.read(bench.fw2.events((batch) => add(batch, 1)));
    bench.fw2.stamp = 5000;
    bench.read(bench.fw2.events((batch) => batch.addMoved(1, "fw1", 5000)));
    assert.deepEqual(bench.flows, []);
  });

  it("are the new owner's in whatever order the two streams are read", () => {
    for (const order of ["claim first", "move first"] as const) {
      const bench = new Bench();
      bench.read(bench.fw2.events((batch) => add(batch, 1)));
      bench.fw3.stamp = 5000;
      const claim = bench.fw3.events((batch) => add(batch, 4, 1));
      bench.fw2.stamp = 5010;
      const move = bench.fw2.events((batch) => batch.addMoved(1, "fw3", 5010));
      if (order === "claim first") {
        bench.readOther(claim);
        bench.read(move);
      } else {
        bench.read(move);
        assert.deepEqual(bench.flows, ["1 fw2"]);
        bench.readOther(claim);
      }
      assert.deepEqual(bench.flows, ["1 fw3"], order);
      bench.readOther(bench.fw3.events((batch) => batch.addDestroy(4, tcpRecord(1), 0, undefined)));
      assert.deepEqual(bench.flows, [], order);
    }
  });

  it("go with the new owner's snapshot when that no longer has them", () => {
    const bench = new Bench();
    bench.read(bench.fw2.events((batch) => add(batch, 1)));
    bench.fw2.stamp = 5010;
    bench.read(bench.fw2.events((batch) => batch.addMoved(1, "fw3", 5010)));
    bench.fw3.stamp = 6000;
    bench.readOther(
      bench.fw3.mark({ type: "snapshot-begin", id: 1, flows: 0 }),
      bench.fw3.chunk(0, ALL, () => undefined),
    );
    assert.deepEqual(bench.flows, ["1 fw2"]);
    bench.readOther(bench.fw3.mark({ type: "snapshot-end", id: 1, flows: 0 }));
    assert.deepEqual(bench.flows, []);
  });

  it("go at once when the new owner was read beyond its claim", () => {
    const bench = new Bench();
    bench.fw3.stamp = 6000;
    bench.readOther(bench.fw3.mark({ type: "role", role: "primary" }));
    bench.read(bench.fw2.events((batch) => add(batch, 1)));
    bench.fw2.stamp = 5010;
    bench.read(bench.fw2.events((batch) => batch.addMoved(1, "fw3", 5010)));
    assert.deepEqual(bench.flows, []);
  });

  it("are left with a new flow of their id in the same message's order: new, ended, moved", () => {
    const bench = new Bench();
    bench.read(bench.fw2.events((batch) => add(batch, 1)));
    bench.fw2.stamp = 5000;
    bench.read(
      bench.fw2.events((batch) => {
        batch.addMoved(1, "fw1", 5000);
        add(batch, 2);
        batch.addDestroy(2, tcpRecord(2), 0, undefined);
      }),
    );
    assert.deepEqual(bench.flows, []);
    assert.equal(bench.external.counters.moved, 1);
  });
});
