/** The connection history over a real nats-server: own streams, copies, retention, and streams that go on. */

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { stampMs } from "../../src/flow/clock.js";
import type { Connection, ConnectionChange, HistoryAnswer, HistoryQuery } from "../../src/history/connection.js";
import { History } from "../../src/history/scan/history.js";
import { brokerStreams } from "../../src/history/scan/streams.js";
import { type BrokerConnection, connectBroker } from "../../src/stream/connection.js";
import { streamName, subject } from "../../src/stream/format/subjects.js";
import { FORMATS } from "../../src/stream/format/versions.js";
import { ensureStream } from "../../src/stream/own-stream.js";
import { Replica } from "../../src/stream/replica.js";
import { HistoryCluster } from "../support/history-cluster.js";
import {
  natsServerMissing,
  silentLogger,
  startNatsServer,
  type TestNatsServer,
  until,
} from "../support/nats-server.js";
import { Random } from "../support/records.js";

const RETENTION = { maxAgeMs: 0, bytesMax: 256 * 1024 ** 2 };
const EVERYTHING: HistoryQuery = { sinceMs: null, untilMs: null, filter: {}, nodes: null, limit: null };
const never = new AbortController().signal;

function connect(server: TestNatsServer): BrokerConnection & AsyncDisposable {
  const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "history", log: silentLogger() });
  return Object.assign(connection, { [Symbol.asyncDispose]: () => connection.close() });
}

/** Ends what follows it, also when the test fails: else the process would go on. */
function ending(): AbortController & Disposable {
  const end = new AbortController();
  return Object.assign(end, { [Symbol.dispose]: () => end.abort() });
}

function clusterOf(seed: number, steps: number): HistoryCluster {
  const cluster = new HistoryCluster(["fw1", "fw2", "fw3"]);
  const random = new Random(seed);
  for (let i = 0; i < steps; i++) cluster.step(new Random(random.word()));
  return cluster;
}

/** Puts the streams onto the server as their nodes would have, from message `from` of each on. */
async function publish(
  server: TestNatsServer,
  cluster: HistoryCluster,
  from = new Map<string, number>(),
): Promise<void> {
  const client = await server.client();
  const jsm = await client.jetstreamManager();
  for (const { name, stream } of cluster.members) {
    await ensureStream(jsm, name, RETENTION);
    for (const { kind, payload } of stream.messages.slice(from.get(name) ?? 0))
      client.publish(subject(name, kind), payload);
    await client.flush();
    await until(`${name} to be stored`, async () => {
      const { state } = await jsm.streams.info(streamName(name));
      return state.last_seq === stream.messages.length;
    });
    from.set(name, stream.messages.length);
  }
  await client.close();
}

/** The first node's stream is its own, the others' are copies that begin somewhere else. */
async function copy(server: TestNatsServer, cluster: HistoryCluster): Promise<void> {
  await using connection = connect(server);
  for (const { name, stream } of cluster.members) {
    if (name === "fw1") continue;
    const replica = await Replica.open({
      node: name,
      connection,
      retention: RETENTION,
      formats: FORMATS,
      log: silentLogger(),
      onLost: () => assert.fail("the copy lost messages"),
    });
    for (const message of stream.messages) replica.append({ ...message, sequence: message.sequence + 777 });
    assert.equal(await replica.flush(10_000), true);
    replica.close();
  }
}

async function collect(answer: HistoryAnswer): Promise<Connection[]> {
  const all: Connection[] = [];
  for await (const batch of answer.connections) all.push(...batch);
  return all;
}

function textOf(connections: readonly Connection[]): string[] {
  return connections.map((c) =>
    JSON.stringify([c.uid, c.startMs, c.endMs, c.end, c.counters, c.path, c.mayMiss, c.words[20]]),
  );
}

describe("history from a broker", { skip: natsServerMissing() }, () => {
  it("answers as from memory, from own streams and from copies, at any time", async () => {
    const cluster = clusterOf(4711, 400);
    const memory = await History.open({ streams: cluster, nodes: null });
    await using own = await startNatsServer();
    await publish(own, cluster);
    await using copies = await startNatsServer();
    const only = new HistoryCluster(["fw1"]);
    only.members[0]!.stream.messages.splice(0, Number.POSITIVE_INFINITY, ...cluster.members[0]!.stream.messages);
    await publish(copies, only);
    await copy(copies, cluster);
    for (const server of [own, copies]) {
      await using connection = connect(server);
      const history = await History.open({ streams: brokerStreams(connection, silentLogger()), nodes: null });
      assert.deepEqual(history.nodes, ["fw1", "fw2", "fw3"]);
      const whole = await collect(history.connections(EVERYTHING, never));
      assert.deepEqual(textOf(whole), textOf(await collect(memory.connections(EVERYTHING, never))));
      for (let i = 1; i < 40; i++) {
        const timeMs = stampMs(cluster.stamps[Math.floor((cluster.stamps.length * i) / 40)]!);
        const found = textOf(await collect(history.at(timeMs, EVERYTHING, never)));
        assert.deepEqual(found, textOf(await collect(memory.at(timeMs, EVERYTHING, never))));
      }
    }
  });

  it("comes to the end of a stream whose last message is none of ours", async () => {
    const cluster = clusterOf(11, 50);
    const memory = await History.open({ streams: cluster, nodes: null });
    await using server = await startNatsServer();
    await publish(server, cluster);
    const client = await server.client();
    await client.jetstream().publish("ct.fw1.other", "");
    await client.close();
    await using connection = connect(server);
    const history = await History.open({ streams: brokerStreams(connection, silentLogger()), nodes: null });
    const found = textOf(await collect(history.connections(EVERYTHING, never)));
    assert.deepEqual(found, textOf(await collect(memory.connections(EVERYTHING, never))));
  });

  it("says what retention has cut off, and that a node has no stream", async () => {
    const cluster = clusterOf(11, 200);
    await using server = await startNatsServer();
    await publish(server, cluster);
    const half = Math.floor(cluster.members[0]!.stream.messages.length / 2);
    await server.manage((jsm) => jsm.streams.purge(streamName("fw1"), { seq: half }));
    await using connection = connect(server);
    const history = await History.open({ streams: brokerStreams(connection, silentLogger()), nodes: ["fw9"] });
    const answer = history.connections(EVERYTHING, never);
    const found = await collect(answer);
    assert.ok(found.length > 0);
    const reasons = answer.gaps().map(({ node, fromMs, reason }) => [node, fromMs, reason.slice(0, 21)]);
    assert.ok(
      reasons.some(([node, fromMs, reason]) => node === "fw1" && fromMs === null && reason === "nothing older is kept"),
    );
    assert.ok(reasons.some(([node, , reason]) => node === "fw9" && String(reason).startsWith("this broker holds no")));
    assert.ok(!reasons.some(([node, , reason]) => node === "fw2" && String(reason).startsWith("nothing")));
  });

  it("follows what is written, and goes on when the broker comes back", async () => {
    const cluster = clusterOf(5, 30);
    await using server = await startNatsServer();
    const stored = new Map<string, number>();
    await publish(server, cluster, stored);
    await using connection = connect(server);
    const history = await History.open({ streams: brokerStreams(connection, silentLogger()), nodes: null });
    using end = ending();
    const changes: ConnectionChange[] = [];
    const since = stampMs(cluster.stamp) + 1;
    const following = (async () => {
      for await (const batch of history.follow({ ...EVERYTHING, sinceMs: since }, end.signal)) changes.push(...batch);
    })();
    const told = () => new Set(changes.map(({ type, connection }) => `${type} ${connection.uid}`));
    const more = async (steps: number) => {
      const random = new Random(steps);
      cluster.stamp += 10 * 4096;
      for (let i = 0; i < steps; i++) cluster.batch(cluster.members[0]!, random);
      await publish(server, cluster, stored);
    };
    const expected = () => cluster.truth.filter(({ births }) => stampMs(births[0]!) >= since).length;
    const opened = () => [...told()].filter((text) => text.startsWith("new ")).length;
    await more(20);
    await until("new connections to be told", () => expected() > 0 && opened() === expected());
    await server.kill();
    await server.start();
    await more(21);
    await until("those after the restart to be told", () => opened() === expected());
    const ended = cluster.truth.filter((c) => c.end !== null && stampMs(c.end.stamp) >= since).length;
    assert.equal(changes.filter(({ type }) => type === "ended").length, ended);
    end.abort();
    await following;
  });

  it("follows a node that joins", async () => {
    await using server = await startNatsServer();
    await publish(server, clusterOf(5, 30));
    await using connection = connect(server);
    const history = await History.open({ streams: brokerStreams(connection, silentLogger()), nodes: null });
    using end = ending();
    const nodes = new Set<string>();
    const following = (async () => {
      for await (const batch of history.follow({ ...EVERYTHING, sinceMs: 0 }, end.signal)) {
        for (const { connection: found } of batch) for (const { node } of found.path) nodes.add(node);
      }
    })();
    await until("the first nodes to be told of", () => nodes.size === 3);
    const joined = new HistoryCluster(["fw9"]);
    for (let i = 0; i < 20; i++) joined.batch(joined.members[0]!, new Random(i));
    await publish(server, joined);
    await until("the node that joined to be told of", () => nodes.has("fw9"));
    end.abort();
    await following;
  });

  it("ends at once when it is told to", async () => {
    const cluster = clusterOf(8, 50);
    await using server = await startNatsServer();
    await publish(server, cluster);
    await using connection = connect(server);
    const history = await History.open({ streams: brokerStreams(connection, silentLogger()), nodes: null });
    using end = ending();
    for await (const _ of history.connections({ ...EVERYTHING, limit: null }, end.signal).connections) end.abort();
    for await (const _ of history.follow({ ...EVERYTHING, sinceMs: 0 }, end.signal)) assert.fail("it had ended");
  });
});
