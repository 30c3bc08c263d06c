/** The budget of work for a peer: what one bad message costs, what many cost, and the way back. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { ExternalCache } from "../../src/cache/external.js";
import { HybridClock } from "../../src/flow/clock.js";
import { systemClock } from "../../src/os/system-clock.js";
import type { ReaderItem, StreamMessage } from "../../src/stream/reader.js";
import { Applier } from "../../src/sync/in/applier.js";
import { Follower } from "../../src/sync/in/follower.js";
import { Quarantine } from "../../src/sync/in/quarantine.js";
import type { PeerStream } from "../../src/sync/ports/peer-stream.js";
import { silentLogger, until } from "../support/nats-server.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";

/** How many bad messages there are until the peer is put aside. */
function untilAside(quarantine: Quarantine): number {
  for (let count = 1; count < 10_000; count++) if (quarantine.applied(true, 0)) return count;
  return Number.POSITIVE_INFINITY;
}

it("good messages cost nothing, and bad ones that are rare are forgiven", () => {
  let nowMs = 0;
  const quarantine = new Quarantine(() => nowMs);
  for (let i = 0; i < 10_000; i++) {
    nowMs += 300;
    assert.equal(quarantine.applied(i % 2 === 0, 5), false);
  }
  assert.deepEqual([quarantine.leftMs, quarantine.count], [0, 0]);
});

it("whoever goes on is put aside for twice as long each time, up to a bound, and for 10 s again after a good time", () => {
  let nowMs = 0;
  const quarantine = new Quarantine(() => nowMs);
  assert.equal(untilAside(quarantine), 256);
  const waits: number[] = [];
  for (let i = 0; i < 7; i++) {
    waits.push(quarantine.leftMs / 1000);
    nowMs += quarantine.leftMs;
    assert.equal(quarantine.leftMs, 0);
    assert.equal(untilAside(quarantine), 128);
  }
  assert.deepEqual(waits, [10, 20, 40, 80, 160, 300, 300]);
  nowMs += quarantine.leftMs + 3_600_000;
  untilAside(quarantine);
  assert.equal(quarantine.leftMs, 10_000);
});

it("messages that take far too long to apply count as well, and an operator ends it", () => {
  const quarantine = new Quarantine(() => 0);
  for (let i = 0; i < 255; i++) assert.equal(quarantine.applied(false, 150), false);
  assert.equal(quarantine.applied(false, 150), true);
  assert.equal(quarantine.leftMs, 10_000);
  quarantine.release();
  assert.equal(quarantine.leftMs, 0);
});

it("a peer that floods is not read on, says why, and is read again by resync", async () => {
  const writer = new StreamWriter("fw2");
  const sound = [
    writer.mark({ type: "epoch", reason: "test", previousEpoch: 0, previousNumber: 0 }),
    writer.mark({ type: "snapshot-begin", id: 1, flows: 0 }),
    writer.mark({ type: "snapshot-end", id: 1, flows: 0 }),
  ];
  const bad = Array.from({ length: 1000 }, (): WrittenMessage => ({ kind: "ev", payload: Uint8Array.of(0xc1) }));
  const messages = ({ kind, payload }: WrittenMessage, index: number): StreamMessage => {
    return { type: "message", kind, payload, sequence: index + 1, timeMs: Date.now(), pending: 0 };
  };
  let floods = true;
  const stream: PeerStream = {
    readLast: async () => null,
    async *read(_start, signal): AsyncIterable<readonly ReaderItem[]> {
      yield [{ type: "state", connected: true }];
      yield (floods ? bad : sound).map(messages);
      while (!signal.aborted) await new Promise(setImmediate);
    },
  };
  const external = new ExternalCache(10);
  const log = silentLogger();
  const hybridClock = new HybridClock(systemClock);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock, log });
  const given = { stream, copy: null, applier, whole: false, ask: () => false };
  const follower = new Follower({ ...given, clock: systemClock, nowMs: () => 0, log });
  const end = new AbortController();
  const running = follower.run(end.signal);
  try {
    await until("it is put aside", () => follower.state.aside !== null);
    assert.match(
      follower.state.aside ?? "",
      /^put aside for \d+ s, too many of its messages are bad: a message is malformed$/,
    );
    assert.deepEqual([follower.counters.malformed, follower.counters.quarantined], [256, 1]);
    floods = false;
    follower.resync();
    await until("it is read again", () => follower.isExact);
    assert.equal(follower.state.aside, null);
  } finally {
    end.abort();
    await running;
  }
});
