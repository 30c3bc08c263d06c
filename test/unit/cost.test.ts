/**
 * What an event costs, in counts that do not depend on the machine: bytes and rows of a message, messages a second, memory
 * allocated. The limits are far above what is needed, and fail on a gross regression alone; `npm run bench` measures time.
 */
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it, mock } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { InternalCache } from "../../src/cache/internal.js";
import { NLMSG_HDRLEN } from "../../src/ctnetlink/constants.js";
import { decodeConntrack } from "../../src/ctnetlink/decode.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { DecodedFlow, RECORD_WORDS } from "../../src/flow/record.js";
import type { Journal } from "../../src/sync/out/journal.js";
import { Pacer } from "../../src/sync/out/pacer.js";
import { writeTestFlow } from "../support/cluster/flows.js";
import { firstStart, plainStream, testNode } from "../support/test-node.js";

const clock = { wallMs: () => 1_750_000_000_000 };
const NOW_SECONDS = 1_750_000_000;
const FLOWS = 2000;

/** The way out without its sockets: messages of the kernel in, payloads of the stream counted. */
class WayOut {
  messages = 0;
  bytes = 0;
  readonly #internal = new InternalCache(FLOWS * 2);
  readonly #journal: Journal;
  readonly #flow = new DecodedFlow();
  readonly #events: Uint8Array;
  readonly #at: number[] = [0];

  constructor() {
    const sink = {
      backlog: { bytes: 0 },
      publish: (_kind: string, _number: number, payload: Uint8Array): void => {
        this.messages++;
        this.bytes += payload.length;
      },
      publishAcked: async () => 1,
    };
    const past = firstStart(clock, this.#internal);
    this.#journal = testNode({ past, ownStream: plainStream(sink), clock }, { node: "fw1" }).journal;
    // A request has the attributes of an event, in the same form.
    const batch = new RequestBatch(FLOWS * 512);
    const words = new Uint32Array(RECORD_WORDS);
    for (let index = 0; index < FLOWS; index++) {
      writeTestFlow(words, 1, index, index + 1);
      batch.create(words, 0, null, { timeoutSeconds: 600, liberal: false });
      this.#at.push(batch.length);
    }
    this.#events = batch.bytes(0, 1);
  }

  /** Every flow begins, and every flow ends, told of in messages of `rows`; gives the events. */
  round(rows: number): number {
    for (const ends of [false, true]) {
      for (let index = 0; index < FLOWS; index++) {
        const start = this.#at[index]! + NLMSG_HDRLEN;
        assert.equal(decodeConntrack(this.#events, start, this.#at[index + 1]!, this.#flow), 0);
        if (ends) this.#internal.destroy(this.#flow, NOW_SECONDS);
        else this.#internal.upsert(this.#flow, NOW_SECONDS);
        if (index % rows === rows - 1) this.#journal.writePending();
      }
      this.#journal.writePending();
    }
    return FLOWS * 2;
  }
}

describe("the cost of an event", () => {
  it("is at most 40 bytes of the stream where many share a message, and 60 where few do", () => {
    for (const [rows, bytesMax] of [
      [200, 40],
      [10, 60],
    ] as const) {
      const way = new WayOut();
      const events = way.round(rows);
      assert.ok(way.bytes / events <= bytesMax, `${way.bytes / events} bytes an event, ${rows} rows a message`);
      assert.equal(way.messages, events / rows);
    }
  });

  it("is at most 200 bytes of the JavaScript heap", () => {
    // Nothing is collected between the two readings but by chance, which makes the figure smaller.
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const way = new WayOut();
    for (let round = 0; round < 5; round++) way.round(200);
    collect();
    const before = process.memoryUsage().heapUsed;
    const events = way.round(200) + way.round(200);
    const bytes = (process.memoryUsage().heapUsed - before) / events;
    assert.ok(bytes <= 200, `${bytes} bytes an event`);
  });
});

describe("the cost of a second", () => {
  beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
  afterEach(() => mock.timers.reset());

  for (const [eventsPerMs, messagesMax] of [
    [1, 210],
    [10, 210],
    [50, 60],
  ] as const) {
    it(`is at most ${messagesMax} messages at ${eventsPerMs * 1000} events/s`, () => {
      let nowMs = 0;
      let pending = 0;
      let messages = 0;
      const flush = (): number => {
        const rows = pending;
        pending = 0;
        if (rows > 0) messages++;
        return rows;
      };
      const pacer = new Pacer({ intervalMs: 5, flush, nowMs: () => nowMs });
      const pass = (milliseconds: number): void => {
        for (let i = 0; i < milliseconds; i++) {
          pending += eventsPerMs;
          pacer.poke(false);
          nowMs++;
          mock.timers.tick(1);
        }
      };
      pass(1000);
      messages = 0;
      pass(1000);
      assert.ok(messages <= messagesMax, `${messages} messages`);
      assert.ok(messages >= 40, `${messages} messages: events wait too long`);
    });
  }
});
