/** Many that wait for one thing leave nothing behind, and node has no reason to warn of listeners that pile up. */
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, it } from "node:test";
import { ExternalCache } from "../../src/cache/external.js";
import type { NodeHandlers } from "../../src/control/server.js";
import { whenStarted } from "../../src/daemon/start-wait.js";
import { HybridClock } from "../../src/flow/clock.js";
import { systemClock } from "../../src/os/system-clock.js";
import { connectBroker } from "../../src/stream/connection.js";
import { Applier } from "../../src/sync/in/applier.js";
import { Follower } from "../../src/sync/in/follower.js";
import { FakeHandlers } from "../support/control-handlers.js";
import { freePort, silentLogger } from "../support/nats-server.js";

const WAITERS = 20;
const each = <T>(act: (index: number) => T): T[] => Array.from({ length: WAITERS }, (_, index) => act(index));

/** Calls `act`, lets node's warnings come, and fails if there is one. */
async function withoutWarning(act: () => Promise<void>): Promise<void> {
  const warnings: string[] = [];
  const note = (warning: Error): void => void warnings.push(`${warning.name}: ${warning.message}`);
  process.on("warning", note);
  try {
    await act();
    await new Promise(setImmediate);
  } finally {
    process.off("warning", note);
  }
  assert.deepEqual(warnings, []);
}

describe("many that wait", () => {
  it("for a node that starts", () =>
    withoutWarning(async () => {
      const begun = new AbortController();
      let started: NodeHandlers | null = null;
      const waiting = whenStarted(() => started, begun.signal, new AbortController().signal);
      const answers = each(() => waiting.status());
      assert.equal(getEventListeners(begun.signal, "abort").length, 1);
      started = new FakeHandlers();
      begun.abort();
      assert.equal((await Promise.all(answers)).length, WAITERS);
    }));

  it("for a broker that is away, until the connection is closed", () =>
    withoutWarning(async () => {
      const server = `127.0.0.1:${await freePort()}`;
      const connection = connectBroker({ servers: [server], node: "fw1", purpose: "test", log: silentLogger() });
      const waits = each(() => assert.rejects(connection.ready(60_000), { code: "BROKER" }));
      await new Promise(setImmediate);
      await connection.close();
      await Promise.all(waits);
    }));

  it("for copies that cannot be looked at, and for tables that are held exactly", () =>
    withoutWarning(async () => {
      const end = new AbortController();
      const stream = { readLast: async () => null, async *read() {} };
      const inspect = (): Promise<never> => Promise.reject(new Error("the broker is away"));
      const copy = { stream, inspect, open: inspect };
      const external = new ExternalCache(10);
      const hybridClock = new HybridClock(systemClock);
      const log = silentLogger();
      const followers = each((index) => {
        const applier = new Applier({ node: `fw${index}`, external, local: null, hybridClock, log });
        return new Follower({ stream, copy, applier, whole: false, ask: () => false, clock: systemClock, log });
      });
      const waits = followers.flatMap((follower) => [follower.restore(end.signal), follower.exact(end.signal)]);
      await new Promise(setImmediate);
      end.abort();
      await Promise.all(waits);
    }));
});
