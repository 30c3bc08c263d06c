import assert from "node:assert/strict";
import { it } from "node:test";
import { Turn } from "../../src/os/turn.js";

function busy(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

it("a turn is over after some milliseconds, and a new one begins when the event loop has turned", async () => {
  const turn = new Turn();
  assert.equal(turn.over, false);
  busy(6);
  assert.equal(turn.over, true);
  await Promise.resolve();
  assert.equal(turn.over, true, "promises resolve without a turn of the event loop");
  await turn.yield();
  assert.equal(turn.over, false);
});

it("waiting for something else than a turn is over counts as well", async () => {
  const turn = new Turn();
  assert.equal(turn.over, false);
  busy(6);
  // Of two timers, one begun by the other, each has a turn of its own.
  for (let i = 0; i < 2; i++) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.equal(turn.over, false);
});
