/**
 * Restart: how long until the external cache is whole again, from the copy of a peer's stream on the own broker.
 * A peer with a million flows is written through the real journal and publisher to a real nats-server, copied by the real
 * replica, and then replayed as a daemon does when it starts. The copy's server is restarted in between.
 */

import { pino } from "pino";
import { ExternalCache } from "../../src/cache/external.js";
import { InternalCache } from "../../src/cache/internal.js";
import { HybridClock } from "../../src/flow/clock.js";
import { systemClock } from "../../src/os/system-clock.js";
import { FORMATS } from "../../src/stream/format/versions.js";
import { StreamReader } from "../../src/stream/reader.js";
import { inspectCopy, Replica } from "../../src/stream/replica.js";
import { Journal } from "../../src/sync/out/journal.js";
import { Peers } from "../../src/sync/peers.js";
import { startNatsServer, type TestNatsServer } from "../support/nats-server.js";
import { decodedFlow, tcpRecord } from "../support/records.js";
import { connect, startPublisher } from "./stream.js";

const log = pino({ level: "silent" });
const retention = { maxAgeMs: 0, bytesMax: 2 * 1024 ** 3 };
const node = "fw1";

/** Replays `flows` flows `runs` times and prints what each took. */
export async function benchReplay(flows: number, runs: number): Promise<void> {
  await using origin = await startNatsServer({ maxFileStore: retention.bytesMax });
  await using own = await startNatsServer({ maxFileStore: retention.bytesMax });
  await writeOrigin(origin, flows);
  const originConnection = connect(origin, "origin");
  const clock = systemClock;
  const times: number[] = [];
  for (let run = 0; run <= runs; run++) {
    const connection = connect(own, "own");
    await connection.ready(10_000);
    const external = new ExternalCache(flows * 2);
    const peers = new Peers({
      external,
      local: null,
      keepsAll: false,
      cluster: "bench",
      node: "bench",
      silenceMsMax: 3000,
      formats: FORMATS,
      hybridClock: new HybridClock(clock),
      clock,
      log,
    });
    const follower = peers.add({
      ...{ node, address: "", discovered: false },
      stream: new StreamReader({ connection: originConnection, node, log }),
      copy: {
        inspect: () => inspectCopy(connection, node),
        open: (onLost, anew) => Replica.open({ node, connection, retention, formats: FORMATS, log, onLost, anew }),
        stream: new StreamReader({ connection, node, log }),
      },
      reached: () => originConnection.connected,
      unreachable: () => null,
      hear: () => () => undefined,
      ask: () => false,
      close: () => undefined,
    });
    const end = new AbortController();
    const startedMs = performance.now();
    await follower.restore(end.signal);
    const tookMs = performance.now() - startedMs;
    if (run > 0) {
      if (!(await follower.exact(AbortSignal.abort())) || external.table.size !== flows)
        throw new Error(`replayed ${external.table.size} of ${flows}`);
      times.push(tookMs);
      console.log(`  replay of ${flows} flows from the own broker: ${(tookMs / 1000).toFixed(2)} s`);
    }
    const running = follower.run(end.signal);
    await follower.exact(end.signal);
    if (run === 0)
      console.log(`  following and copying them first: ${((performance.now() - startedMs) / 1000).toFixed(2)} s`);
    end.abort();
    await running;
    await connection.close();
  }
  await originConnection.close();
  times.sort((a, b) => a - b);
  const median = times[times.length >> 1]!;
  const rss = Math.round(process.memoryUsage().rss / 1024 / 1024);
  console.log(
    `replay: median ${(median / 1000).toFixed(2)} s for ${flows} flows (goal 2 s for 1000000), RSS ${rss} MiB`,
  );
}

async function writeOrigin(server: TestNatsServer, flows: number): Promise<void> {
  const connection = connect(server, "writer");
  await connection.ready(10_000);
  const internal = new InternalCache(flows * 2);
  const publisher = await startPublisher(connection, node, retention.bytesMax);
  const clock = systemClock;
  const hybridClock = new HybridClock(clock);
  const journal = new Journal({ node, epoch: 1, continues: null, internal, sink: publisher, clock, hybridClock, log });
  journal.writeMark({ type: "epoch", reason: "bench", previousEpoch: 0, previousNumber: 0 });
  const nowSeconds = Math.floor(clock.wallMs() / 1000);
  for (let i = 0; i < flows; i++) {
    internal.upsert(decodedFlow(tcpRecord(i)), nowSeconds);
    if (internal.pendingCount < 2048) continue;
    journal.writePending();
    if (publisher.backlog.bytes > 8 * 1024 * 1024) await publisher.flush(10_000);
  }
  await publisher.flush(10_000);
  const startedMs = performance.now();
  if (!(await journal.writeSnapshot(new AbortController().signal))) throw new Error("the snapshot was not written");
  console.log(`  snapshot of ${flows} flows written: ${((performance.now() - startedMs) / 1000).toFixed(2)} s`);
  await publisher.flush(10_000);
  publisher.close();
  await connection.close();
}
