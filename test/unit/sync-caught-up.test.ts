import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { pino } from "pino";
import { followersCaughtUp } from "../../src/sync/caught-up.js";
import { aborted } from "../support/aborted.js";

/** A start in mode `inject` with one peer, and the warnings that it gave. */
class Start {
  over = false;
  reached = true;
  readonly warnings: string[] = [];
  #catchUp: () => void = () => undefined;
  #pass: () => void = () => undefined;

  constructor() {
    const caughtUp = (signal: AbortSignal): Promise<void> =>
      new Promise((resolve) => {
        this.#catchUp = resolve;
        void aborted(signal).then(resolve);
      });
    const pass = (): Promise<void> =>
      new Promise((resolve) => {
        this.#pass = resolve;
      });
    const log = pino({ level: "warn" }, { write: (line: string) => void this.warnings.push(line) });
    const peer = { follower: { node: "fw2", caughtUp }, reached: () => this.reached };
    void followersCaughtUp([peer], new AbortController().signal, log, pass).then(() => {
      this.over = true;
    });
  }

  async catchUp(): Promise<void> {
    this.#catchUp();
    await new Promise(setImmediate);
  }

  async pass(turns: number): Promise<void> {
    for (let turn = 0; turn < turns; turn++) {
      this.#pass();
      await new Promise(setImmediate);
    }
  }
}

describe("a start in mode inject", () => {
  it("gives a peer that is away some turns, and says that it goes without it", async () => {
    const start = new Start();
    start.reached = false;
    await start.pass(59);
    assert.equal(start.over, false);
    await start.pass(1);
    assert.equal(start.over, true);
    assert.match(start.warnings.join(), /"peers":\["fw2"\].*starting without news of these peers/);
  });

  it("waits for one that is there and has much to tell", async () => {
    const start = new Start();
    await start.pass(500);
    assert.equal(start.over, false);
    await start.catchUp();
    assert.deepEqual([start.over, start.warnings], [true, []]);
  });

  it("does not wait for ever, nor for one that goes away meanwhile", async () => {
    for (const goes of [false, true]) {
      const start = new Start();
      await start.pass(500);
      assert.equal(start.over, false);
      start.reached = !goes;
      await start.pass(goes ? 1 : 100);
      assert.equal(start.over, true);
      assert.equal(start.warnings.length, 1);
    }
  });
});
