import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff } from "../../src/os/backoff.js";
import { pause } from "../../src/os/pause.js";

test("a wait doubles up to its bound, and begins anew after a success", () => {
  const backoff = new Backoff({ minMs: 100, maxMs: 500 });
  assert.deepEqual(
    [1, 2, 3, 4, 5].map(() => backoff.nextMs()),
    [100, 200, 400, 500, 500],
  );
  backoff.reset();
  assert.equal(backoff.nextMs(), 100);
});

test("the first repetition may come at once", () => {
  const backoff = new Backoff({ firstMs: 0, minMs: 100, maxMs: 300 });
  assert.deepEqual(
    [1, 2, 3, 4].map(() => backoff.nextMs()),
    [0, 100, 200, 300],
  );
  backoff.reset();
  assert.equal(backoff.nextMs(), 0);
});

test("a pause ends early, and without an error, when its signal is aborted before or during it", async () => {
  await pause(60_000, AbortSignal.abort());
  const stop = new AbortController();
  const paused = pause(60_000, stop.signal);
  stop.abort(new Error("not the pause's"));
  await paused;
});
