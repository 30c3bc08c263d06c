import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { watchLiveness } from "../../src/stream/liveness.js";
import { until } from "../support/nats-server.js";

/** A client whose broker sends and answers as the test says. */
function bench(options: { sends: boolean; flush: () => Promise<void> }) {
  const found = { looks: 0, pings: 0, dead: 0 };
  const stop = new AbortController();
  const done = watchLiveness({
    client: {
      stats: () => ({ inBytes: 0, outBytes: 0, outMsgs: 0, inMsgs: options.sends ? found.looks++ : 0 * found.looks++ }),
      flush: () => {
        found.pings++;
        return options.flush();
      },
    },
    quietMs: 1,
    connected: () => true,
    dead: () => {
      found.dead++;
      stop.abort();
    },
    signal: stop.signal,
  });
  return { found, stop, done };
}

describe("the watch over a connection", () => {
  it("does not ping a broker that sends", async () => {
    const { found, stop, done } = bench({ sends: true, flush: () => Promise.resolve() });
    await until("some looks", () => found.looks > 10);
    stop.abort();
    await done;
    assert.deepEqual([found.pings, found.dead], [0, 0]);
  });

  it("pings a silent one, and trusts its answers and the end of the connection", async () => {
    for (const flush of [() => Promise.resolve(), () => Promise.reject(new Error("the connection was closed"))]) {
      const { found, stop, done } = bench({ sends: false, flush });
      await until("some pings", () => found.pings > 3);
      stop.abort();
      await done;
      assert.equal(found.dead, 0);
    }
  });

  it("says that it is dead when no answer comes", async () => {
    const { found, done } = bench({ sends: false, flush: () => new Promise(() => undefined) });
    await until("the verdict", () => found.dead > 0);
    await done;
    assert.deepEqual([found.pings, found.dead], [1, 1]);
  });

  it("ends at once while it waits for an answer", async () => {
    const { found, stop, done } = bench({ sends: false, flush: () => new Promise(() => undefined) });
    await until("a ping", () => found.pings > 0);
    const startMs = performance.now();
    stop.abort();
    await done;
    assert.ok(performance.now() - startMs < 1000);
    assert.equal(found.dead, 0);
  });
});
