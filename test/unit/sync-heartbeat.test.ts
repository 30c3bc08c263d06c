/** What a node says of itself in its heartbeats. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { EVENT_NEW, type EventSink } from "../../src/ctnetlink/event-socket.js";
import { DecodedFlow } from "../../src/flow/record.js";
import type { Heartbeat } from "../../src/stream/format/heartbeat.js";
import type { KernelEvents } from "../../src/sync/ports/kernel.js";
import { tcpRecord } from "../support/records.js";
import { plainStream, testNode } from "../support/test-node.js";

const HEARTBEAT_MS = 1000;

test("a heartbeat comes after what the kernel had reported by then, also when the daemon stood still before", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const beats: Heartbeat[] = [];
  let sink: EventSink | null = null;
  let waiting = 0;
  const events: KernelEvents = {
    listen: (listener) => {
      sink = listener;
    },
    mute: () => undefined,
    growBuffer: () => false,
    hearNew: () => undefined,
    // One flow a turn: more than one turn has come together.
    readNow: () => {
      if (waiting === 0) return false;
      waiting--;
      const flow = new DecodedFlow();
      flow.words.set(tcpRecord(waiting));
      sink?.onEvent(EVENT_NEW, flow, 0);
      sink?.onDrained(1, waiting > 0);
      return waiting > 0;
    },
    close: async () => undefined,
  };
  const end = new AbortController();
  const sunk = { publish: () => 0, publishAcked: async () => 0, backlog: { bytes: 0 } };
  const ownStream = { ...plainStream(sunk), beat: (heartbeat: Heartbeat) => void beats.push(heartbeat) };
  const node = testNode({ events, ownStream, signal: end.signal }, { publishIntervalMs: 5 });
  await node.start();
  await new Promise(setImmediate);
  assert.equal(beats.at(-1)?.flows, 0);
  waiting = 3;
  t.mock.timers.tick(HEARTBEAT_MS);
  for (let turn = 0; turn < 10 && beats.length < 2; turn++) await new Promise(setImmediate);
  assert.equal(beats.length, 2);
  assert.equal(beats.at(-1)?.flows, 3);
  end.abort();
  await node.stop();
});
