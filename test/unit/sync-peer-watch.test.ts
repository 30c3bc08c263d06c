/** What a node makes of a peer's heartbeats as they come, beside what it has read of the peer's stream. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import type { Heartbeat } from "../../src/stream/format/heartbeat.js";
import { PeerWatch } from "../../src/sync/in/peer-watch.js";
import { heartbeat } from "../support/heartbeats.js";

const EPOCH = 1000;

class Peer {
  nowMs = 0;
  /** How far the peer's clock is ahead. */
  aheadMs = 3_600_000;
  applied = { epoch: EPOCH, number: 0 };
  flows = 0;
  #heard: (heartbeat: Heartbeat | null) => void = () => undefined;
  readonly watch: PeerWatch;
  begunAnew = 0;
  resynced = 0;

  constructor() {
    const follower = {
      node: "fw2",
      state: { connected: true, lagEvents: 0, copyTrouble: null, aside: null } as never,
      isExact: true,
      begun: { epoch: EPOCH, reads: [1] },
      refusals: { refused: 0, reason: "", noRoom: 0 },
      flowsAt: () => null,
      beginAnew: () => this.begunAnew++,
      resync: () => this.resynced++,
    };
    Object.defineProperty(follower, "applied", { get: () => this.applied });
    Object.defineProperty(follower, "flows", { get: () => this.flows });
    this.watch = new PeerWatch({
      port: {
        address: "10.77.0.2",
        unreachable: () => null,
        hear: (heard) => {
          this.#heard = heard;
          return () => undefined;
        },
      },
      follower: follower as never,
      external: new ExternalCache(16),
      cluster: "edge",
      self: "fw1",
      silenceMsMax: 3000,
      reads: [1],
      wallMs: () => this.nowMs,
      nowMs: () => this.nowMs,
      log: pino({ level: "silent" }),
    });
    this.watch.start();
  }

  /** The peer's daemon says at `nowMs` that its stream ends at `number`, with `flows` alive. */
  beats(nowMs: number, number: number, flows = 0, epoch = EPOCH): void {
    this.nowMs = nowMs;
    this.#heard(heartbeat({ epoch, number, flows, flowsAt: number, wallMs: nowMs + this.aheadMs }));
  }

  /** A heartbeat that was sent at `sentMs` comes now. */
  beatComes(sentMs: number, number: number): void {
    this.#heard(heartbeat({ epoch: EPOCH, number, flows: 0, flowsAt: number, wallMs: sentMs + this.aheadMs }));
  }

  reads(number: number, flows = 0, epoch = EPOCH): void {
    this.applied = { epoch, number };
    this.flows = flows;
  }
}

test("one heartbeat whose place has been read is enough", () => {
  const peer = new Peer();
  assert.equal(peer.watch.reason, "waiting for its daemon");
  peer.reads(7);
  peer.beats(10, 7);
  assert.equal(peer.watch.reason, null);
});

test("a message may take as long to come as a heartbeat is away, however often another node asks for heartbeats", () => {
  const peer = new Peer();
  peer.reads(7);
  peer.beats(0, 7);
  peer.beats(10, 8);
  assert.equal(peer.watch.reason, null);
  peer.reads(8);
  peer.beats(1000, 8);
  for (let asked = 1010; asked < 1400; asked += 10) {
    peer.beats(asked, 10);
    assert.equal(peer.watch.reason, null);
  }
  peer.beats(2000, 10);
  assert.equal(peer.watch.reason, "2 of its messages have not been read yet");
});

test("a flood of heartbeats hides no place that is not read, and no flow that is missing", () => {
  const peer = new Peer();
  peer.reads(7);
  for (let nowMs = 0; nowMs < 3000; nowMs += 10) peer.beats(nowMs, 8);
  assert.equal(peer.watch.reason, "1 of its messages have not been read yet");
  peer.reads(8);
  for (let nowMs = 3000; nowMs < 6000; nowMs += 10) peer.beats(nowMs, 8, 5);
  assert.equal(peer.watch.reason, "5 of its 5 flows are missing here");
});

test("after a silence, what was published during it must have been read", () => {
  const peer = new Peer();
  peer.reads(7);
  for (const nowMs of [0, 1000, 2000]) peer.beats(nowMs, 7);
  assert.equal(peer.watch.reason, null);
  peer.beats(3_600_000, 90_000);
  assert.equal(peer.watch.reason, "89993 of its messages have not been read yet");
});

test("a peer whose epochs begin anew below the one that was read is read anew", () => {
  const peer = new Peer();
  peer.reads(7);
  peer.beats(0, 7);
  peer.beats(1000, 1, 0, EPOCH - 5);
  assert.equal(peer.watch.reason, "its daemon names an earlier epoch than its stream did");
  assert.equal(peer.begunAnew, 0, "one heartbeat may be older than what was read meanwhile");
  peer.beats(2000, 2, 0, EPOCH - 5);
  assert.equal(peer.begunAnew, 1);
});

test("epochs that rise and fall are those of two daemons with one name", () => {
  const peer = new Peer();
  peer.reads(7);
  for (const [index, epoch] of [EPOCH, EPOCH - 5, EPOCH].entries()) peer.beats(index * 1000, 7, 0, epoch);
  assert.equal(peer.watch.reason, "two daemons call themselves fw2: give each node a name of its own");
  for (let nowMs = 3000; nowMs < 13_000; nowMs += 1000) peer.beats(nowMs, 7);
  assert.equal(peer.watch.reason, null);
});

test("after a restart of the peer, heartbeats of its earlier epoch prove nothing", () => {
  for (const restartedMs of [10, 2000]) {
    const peer = new Peer();
    peer.reads(42);
    peer.beats(0, 42);
    assert.equal(peer.watch.reason, null);
    // It was down for a while. What its kernel saw meanwhile is in messages that nobody has read yet.
    peer.beats(restartedMs, 3, 0, EPOCH + 1);
    assert.equal(peer.watch.reason, "its new epoch has not been read yet");
    peer.reads(1, 0, EPOCH + 1);
    assert.equal(peer.watch.reason, "2 of its messages have not been read yet");
    peer.reads(3, 0, EPOCH + 1);
    assert.equal(peer.watch.reason, null);
  }
});

test("after a silence, the heartbeat before it leaves no time: all that the peer has published by now must be read", () => {
  const peer = new Peer();
  peer.reads(7);
  peer.beats(0, 7);
  peer.beats(1000, 7);
  peer.beats(9000, 207);
  assert.equal(peer.watch.reason, "200 of its messages have not been read yet");
  peer.reads(207);
  assert.equal(peer.watch.reason, null);
});

test("heartbeats that lay in a buffer say nothing: of this node, which stood still, or of a broker that did", () => {
  const peer = new Peer();
  peer.reads(7);
  peer.beats(0, 7);
  peer.beats(1000, 7);
  // Stopped until 10 s. The peer went on for 3 s, and died.
  peer.nowMs = 10_000;
  for (const sentMs of [2000, 3000, 4000]) peer.beatComes(sentMs, 7);
  assert.equal(peer.watch.reason, "its daemon has been silent for 9 s");
  assert.equal(peer.watch.counters.heartbeatsLate, 3);
  // The peer lives on: its next heartbeat is not late.
  peer.beats(10_500, 7);
  assert.equal(peer.watch.reason, null);
});

test("a clock that was set, or a link that became slower, costs one heartbeat", () => {
  const peer = new Peer();
  peer.reads(7);
  peer.beats(0, 7);
  peer.beats(1000, 7);
  peer.aheadMs -= 3_600_000;
  for (let nowMs = 2000; nowMs < 10_000; nowMs += 1000) peer.beats(nowMs, 7);
  assert.equal(peer.watch.counters.heartbeatsLate, 1);
  peer.aheadMs += 7_200_000;
  for (let nowMs = 10_000; nowMs < 20_000; nowMs += 1000) peer.beats(nowMs, 7);
  assert.equal(peer.watch.counters.heartbeatsLate, 1);
  assert.equal(peer.watch.reason, null);
});

test("a new epoch of which nothing comes makes the stream be read from its last snapshot", () => {
  const peer = new Peer();
  peer.reads(7);
  for (let beat = 1; beat < 10; beat++) peer.beats(beat * 1000, 3, 0, EPOCH + 5);
  assert.equal(peer.resynced, 0);
  peer.beats(10_000, 3, 0, EPOCH + 5);
  assert.equal(peer.resynced, 1);
  peer.reads(3, 0, EPOCH + 5);
  for (let beat = 11; beat < 30; beat++) peer.beats(beat * 1000, 3, 0, EPOCH + 5);
  assert.equal(peer.resynced, 1);
});
