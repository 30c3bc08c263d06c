/** Where a follower begins to read, and what it does when that place is gone. */
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { it } from "node:test";
import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { HybridClock } from "../../src/flow/clock.js";
import { systemClock } from "../../src/os/system-clock.js";
import { MarkCodec } from "../../src/stream/format/mark.js";
import type { ReaderItem, StreamMessage } from "../../src/stream/reader.js";
import { resyncPeers } from "../../src/sync/handlers.js";
import { Applier } from "../../src/sync/in/applier.js";
import { Follower } from "../../src/sync/in/follower.js";
import type { CopySource, PeerStream } from "../../src/sync/ports/peer-stream.js";
import { aborted } from "../support/aborted.js";
import { MemoryStream } from "../support/memory-stream.js";
import { until } from "../support/nats-server.js";
import { tcpRecord } from "../support/records.js";
import { StreamWriter, type WrittenMessage } from "../support/stream-writer.js";

const log = pino({ level: "silent" });

it("a snapshot that retention has cut off is not asked for again and again: reading begins with what is there", async () => {
  const envelope = { node: "fw2", epoch: 1, number: 90, stamp: 1, wallMs: 1 };
  const payload = new MarkCodec().encode(envelope, { type: "stop" }, 50);
  const mark: StreamMessage = { type: "message", kind: "mark", sequence: 90, timeMs: 1, payload, pending: 0 };
  const end = new AbortController();
  const starts: number[] = [];
  const stream: PeerStream = {
    readLast: async (kind) => (kind === "mark" ? mark : null),
    async *read(start): AsyncIterable<readonly ReaderItem[]> {
      starts.push(start);
      if (start > 1) yield [{ type: "reset", reason: "trimmed" }];
      else end.abort();
    },
  };
  const external = new ExternalCache(10);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock: new HybridClock(systemClock), log });
  const follower = new Follower({
    stream,
    copy: null,
    applier,
    whole: false,
    ask: () => false,
    clock: systemClock,
    log,
  });
  const running = follower.run(end.signal);
  const deadline = setTimeout(() => end.abort(), 3000);
  await running;
  clearTimeout(deadline);
  assert.deepEqual(starts, [50, 1]);
});

it("resync of a peer whose broker answers and whose daemon is gone ends after its time, and says who", async () => {
  const end = new AbortController();
  const stream: PeerStream = {
    readLast: async () => null,
    async *read(_start, signal): AsyncIterable<readonly ReaderItem[]> {
      yield [{ type: "state", connected: true }];
      await aborted(signal);
    },
  };
  const external = new ExternalCache(10);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock: new HybridClock(systemClock), log });
  const options = { stream, copy: null, applier, whole: false, ask: () => false, clock: systemClock, log };
  const follower = new Follower(options);
  const running = follower.run(end.signal);
  while (!follower.state.connected) await new Promise(setImmediate);
  const waiting = new AbortController();
  for (let i = 0; i < 3; i++) {
    await assert.rejects(
      resyncPeers({ external, followers: [follower], signal: waiting.signal }, () => undefined, 20),
      {
        name: "ConntrailError",
        code: "TIMEOUT",
        message: /^fw2 .*conntrail status/,
      },
    );
    while (!follower.state.connected) await new Promise(setImmediate);
  }
  assert.equal(getEventListeners(waiting.signal, "abort").length, 0);
  end.abort();
  await running;
});

it("a peer is not asked for a snapshot before what it has written is read anew", async () => {
  const end = new AbortController();
  const marks = new MarkCodec();
  const mark = (number: number, type: "snapshot-begin" | "snapshot-end"): StreamMessage => {
    const envelope = { node: "fw2", epoch: 1, number, stamp: number, wallMs: 1 };
    const payload = marks.encode(envelope, { type, id: 7, flows: 0 }, 1);
    return { type: "message", kind: "mark", sequence: number, timeMs: 1, payload, pending: 2 - number };
  };
  let asked = 0;
  let reads = 0;
  const stream: PeerStream = {
    readLast: async (kind) => (kind === "mark" ? mark(2, "snapshot-end") : null),
    async *read(_start, signal): AsyncIterable<readonly ReaderItem[]> {
      reads++;
      yield [{ type: "state", connected: true }];
      yield [mark(1, "snapshot-begin")];
      yield [mark(2, "snapshot-end")];
      while (!signal.aborted) await new Promise(setImmediate);
      // What has come meanwhile is told before the end.
      yield [];
    },
  };
  const external = new ExternalCache(10);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock: new HybridClock(systemClock), log });
  const ask = (): boolean => {
    asked++;
    return true;
  };
  const follower = new Follower({ stream, copy: null, applier, whole: false, ask, clock: systemClock, log });
  const running = follower.run(end.signal);
  await follower.exact(end.signal);
  follower.resync();
  await follower.exact(end.signal);
  end.abort();
  await running;
  assert.deepEqual({ reads, asked }, { reads: 2, asked: 0 });
});

it("what has come at a time is applied in turns: the event loop is not held up, and what an abort leaves undone is read again", async () => {
  const end = new AbortController();
  const count = 200_000;
  const damaged: StreamMessage = {
    type: "message",
    kind: "ev",
    sequence: 1,
    timeMs: 1,
    payload: Uint8Array.of(0xc1),
    pending: count,
  };
  const stream: PeerStream = {
    readLast: async () => null,
    async *read(): AsyncIterable<readonly ReaderItem[]> {
      yield new Array<ReaderItem>(count).fill(damaged);
    },
  };
  const external = new ExternalCache(10);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock: new HybridClock(systemClock), log });
  const options = { stream, copy: null, applier, whole: false, ask: () => false, clock: systemClock, log };
  const follower = new Follower(options);
  const running = follower.run(end.signal);
  while (follower.counters.malformed === 0) await new Promise(setImmediate);
  const before = follower.counters.malformed;
  assert.ok(before < count, "the event loop turns while there is more to apply");
  end.abort();
  await running;
  assert.ok(follower.counters.malformed <= before + 1, "nothing is applied after the signal");
});

it("flows that found no room are asked for when there is room again, and not before", async () => {
  const end = new AbortController();
  const writer = new StreamWriter("fw2");
  const stream = new MemoryStream();
  const publish = ({ kind, payload }: WrittenMessage): void => stream.publish(kind, writer.number, payload);
  const snapshot = (id: number, flows: readonly number[]): void => {
    publish(writer.mark({ type: "snapshot-begin", id, flows: flows.length }));
    publish(
      writer.chunk(0, 0xffff_ffff, (batch) => {
        for (const flow of flows) batch.addNew(flow, tcpRecord(flow), 0, null, null);
      }),
    );
    publish(writer.mark({ type: "snapshot-end", id, flows: flows.length }));
  };
  let asked = 0;
  const ask = (): boolean => {
    asked++;
    snapshot(2, [2, 3, 4, 5]);
    return true;
  };
  const external = new ExternalCache(4);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock: new HybridClock(systemClock), log });
  const follower = new Follower({ stream, copy: null, applier, whole: false, ask, clock: systemClock, log });
  snapshot(1, [0, 1, 2, 3, 4, 5]);
  const running = follower.run(end.signal);
  try {
    await until("the cache is full", () => follower.isExact);
    assert.deepEqual([external.table.size, follower.refusals.noRoom], [4, 2]);
    follower.catchUp();
    assert.equal(asked, 0, "a snapshot would not help yet");
    publish(
      writer.events((batch) => {
        batch.addDestroy(0, tcpRecord(0), 0, undefined);
        batch.addDestroy(1, tcpRecord(1), 0, undefined);
      }),
    );
    await until("all flows are here", () => external.table.size === 4 && follower.refusals.noRoom === 0, 5000);
    assert.equal(asked, 1);
  } finally {
    end.abort();
    await running;
  }
});

it("a copy that cannot be opened is tried again, and says why; what was read meanwhile is not read twice until it opens", async () => {
  const end = new AbortController();
  const writer = new StreamWriter("fw2");
  const stream = new MemoryStream();
  const publish = ({ kind, payload }: WrittenMessage): void => stream.publish(kind, writer.number, payload);
  const starts: number[] = [];
  const watched: PeerStream = {
    readLast: (kind) => stream.readLast(kind),
    read(start, signal) {
      starts.push(start);
      return stream.read(start, signal);
    },
  };
  const copied: number[] = [];
  const replica = {
    originSequence: 0,
    emptied: false,
    trouble: null,
    backlog: { bytes: 0, messages: 0 },
    append: ({ sequence }: StreamMessage) => copied.push(sequence),
    flush: async () => true,
    close: () => undefined,
  };
  let opens = 0;
  const copy: CopySource = {
    inspect: async () => ({ epoch: 0, snapshotSequence: 0, lastSequence: 0, damaged: false }),
    open: async () => {
      opens++;
      if (opens < 3) throw new Error("the broker's store has no room for CT_fw2");
      return replica as never;
    },
    stream,
  };
  const lines: { level: number; error?: string }[] = [];
  const logs = pino({ level: "info" }, { write: (line: string) => lines.push(JSON.parse(line)) });
  const external = new ExternalCache(10);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock: new HybridClock(systemClock), log });
  const options = { stream: watched, copy, applier, whole: false, ask: () => false, clock: systemClock, log: logs };
  const follower = new Follower(options);
  publish(writer.mark({ type: "snapshot-begin", id: 1, flows: 0 }));
  publish(writer.mark({ type: "snapshot-end", id: 1, flows: 0 }));
  assert.equal(follower.state.copyTrouble, "its copy on this node is not open yet");
  const running = follower.run(end.signal);
  try {
    await until("the peer is followed", () => follower.isExact);
    const reason = "its copy on this node cannot be opened: the broker's store has no room for CT_fw2";
    assert.equal(follower.state.copyTrouble, reason);
    await until("all is copied", () => copied.length === 2);
    assert.deepEqual(starts, [1, 3, 1]);
    assert.deepEqual(copied, [1, 2]);
    assert.equal(follower.state.copyTrouble, null);
    const errors = lines.filter(({ level, error }) => level >= 40 && /no room for CT_fw2/.test(error ?? ""));
    assert.equal(errors.length, 1, "logged once");
    assert.equal(follower.counters.copyOpenFailed, 2);
  } finally {
    end.abort();
    await running;
  }
});

it("a copy that cannot be read at once when the node starts is read a little later", async () => {
  const writer = new StreamWriter("fw2");
  const stream = new MemoryStream();
  const publish = ({ kind, payload }: WrittenMessage): void => stream.publish(kind, writer.number, payload);
  publish(writer.mark({ type: "snapshot-begin", id: 1, flows: 1 }));
  publish(writer.chunk(0, 0xffff_ffff, (batch) => batch.addNew(1, tcpRecord(1), 0, null, null)));
  publish(writer.mark({ type: "snapshot-end", id: 1, flows: 1 }));
  let looks = 0;
  const copy: CopySource = {
    inspect: async () => {
      if (++looks === 1) throw new Error("TIMEOUT");
      return { epoch: writer.epoch, snapshotSequence: 1, lastSequence: writer.number, damaged: false };
    },
    open: () => Promise.reject(new Error("not here")),
    stream,
  };
  const external = new ExternalCache(10);
  const applier = new Applier({ node: "fw2", external, local: null, hybridClock: new HybridClock(systemClock), log });
  const options = { stream, copy, applier, whole: false, ask: () => false, clock: systemClock, log };
  await new Follower(options).restore(AbortSignal.timeout(20_000));
  assert.equal(external.table.size, 1);
});
