/**
 * `broker.mode: shared` with the accounts that `conntrail keys permissions` prints, on a real nats-server: a node can do
 * its work, also when a peer's daemon is dead, and no more. The nodes are fw1, fw2, fw3 and the observer audit1 of the
 * cluster edge; another cluster, core, has a fw1 too.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { connect, type NatsConnection, nkeyAuthenticator, nkeys } from "nats";
import { sharedAccounts } from "../../src/stream/broker/access.js";
import { type BrokerConnection, connectBroker } from "../../src/stream/connection.js";
import { askCheck, serveChecks } from "../../src/stream/flow-checks.js";
import { brokerName, inboxPrefix, readSubject, streamName, subject } from "../../src/stream/format/subjects.js";
import { onHeartbeat, sendHeartbeat } from "../../src/stream/heartbeats.js";
import { keptStreams } from "../../src/stream/kept-streams.js";
import { ensureStream } from "../../src/stream/own-stream.js";
import { StreamReader } from "../../src/stream/reader.js";
import { askNode, onAsked } from "../../src/stream/requests.js";
import { serveReaders } from "../../src/stream/stream-access.js";
import { listNodes } from "../../src/stream/stream-index.js";
import { type Attempt, listen as listenTo, publish, request } from "../support/broker-attempts.js";
import { heartbeat } from "../support/heartbeats.js";
import {
  natsServerHole,
  natsServerMissing,
  silentLogger,
  startNatsServer,
  type TestNatsServer,
  until,
} from "../support/nats-server.js";

const RETENTION = { maxAgeMs: 0, bytesMax: 16 * 1024 ** 2 };
const CLUSTERS: Readonly<Record<string, readonly string[]>> = { edge: ["fw1", "fw2", "fw3", "audit1"], core: ["fw1"] };

/** The key of each node, by its name on the broker. */
const keys = new Map<string, ReturnType<typeof nkeys.createUser>>();

function accounts(): string {
  const blocks = Object.entries(CLUSTERS).map(([cluster, nodes]) => {
    const members = nodes.map((node) => {
      const key = nkeys.createUser();
      keys.set(brokerName(node, cluster), key);
      return { node, isObserver: node === "audit1", nkey: key.getPublicKey() };
    });
    return sharedAccounts(cluster, members, { bytesMax: RETENTION.bytesMax, replicas: 1 });
  });
  return `accounts: {\n${blocks.join("\n")}\n}`;
}

/** What the account may hear anyway is no gain. */
const listen = (to: string): Attempt =>
  listenTo(
    to,
    () => scene.busy(),
    (subject) => subject.startsWith("cthb."),
  );

const FW1 = "fw1@edge";
const FW3 = "fw3@edge";
const CORE = "fw1@core";
const api = (text: string): string => `$JS.API.${text}`;
const push = (stream: string, to: string): object => ({
  stream_name: stream,
  config: { deliver_subject: to, ack_policy: "none", deliver_policy: "all" },
});

/** What fw2@edge must not be able to do. */
const FORBIDDEN: Readonly<Record<string, Attempt>> = {
  "write events into a peer's stream": publish(`ct.${FW1}.ev`, "x"),
  "write a mark into a peer's stream": publish(`ct.${FW3}.mark`, "x"),
  "write below a peer's stream": publish(`ct.${FW1}.else`, "x"),
  "write into another cluster's stream": publish(`ct.${CORE}.ev`, "x"),
  "send a peer's heartbeat": publish(`cthb.${FW1}`, "{}"),
  "answer what a peer asked": publish(`_INBOX_${FW1}.daemon.1`, "+OK"),
  "ask a peer for something unknown": publish(`ctreq.${FW1}.other`),
  "ask another cluster's node for a snapshot": publish(`ctreq.${CORE}.snapshot`),
  "acknowledge for another's consumer": publish("$JS.ACK.CT_fw1@edge.other.1.1.1.1.0", "+ACK"),
  "look at a peer's stream": request(api(`STREAM.INFO.CT_${FW1}`)),
  "purge a peer's stream": request(api(`STREAM.PURGE.CT_${FW1}`)),
  "delete a peer's stream": request(api(`STREAM.DELETE.CT_${FW1}`)),
  "delete another cluster's stream": request(api(`STREAM.DELETE.CT_${CORE}`)),
  "cut a peer's history": request(api(`STREAM.UPDATE.CT_${FW1}`), { name: `CT_${FW1}`, max_msgs_per_subject: 1 }),
  "delete a peer's message": request(api(`STREAM.MSG.DELETE.CT_${FW1}`), { seq: 1 }),
  "read a peer's message as an administrator": request(api(`STREAM.MSG.GET.CT_${FW1}`), { seq: 1 }),
  "take a backup of a peer's stream": request(api(`STREAM.SNAPSHOT.CT_${FW1}`), { deliver_subject: "_INBOX_x" }),
  "mirror a peer's stream into a second one of its own": request(api("STREAM.CREATE.tap"), {
    name: "tap",
    mirror: { name: `CT_${FW1}` },
  }),
  "make a second stream": request(api("STREAM.CREATE.more"), { name: "more", subjects: ["more.>"], max_bytes: 1024 }),
  "make a peer's leader step down": request(api(`STREAM.LEADER.STEPDOWN.CT_${FW1}`)),
  "remove a replica": request(api(`STREAM.PEER.REMOVE.CT_${FW1}`), { peer: "n1" }),
  "purge a peer's account": request(api(`ACCOUNT.PURGE.conntrail_${FW1}`)),
  "remove a server": request(api("SERVER.REMOVE"), { peer: "n1" }),
  "make the servers elect": request(api("META.LEADER.STEPDOWN")),
  "list a peer's consumers": request(api(`CONSUMER.LIST.CT_${FW1}`)),
  "create a consumer of a peer's stream": request(
    api(`CONSUMER.CREATE.CT_${FW1}`),
    push(`CT_${FW1}`, "_INBOX_fw2@edge.p"),
  ),
  "have a consumer write into a peer's stream": request(
    api(`CONSUMER.CREATE.CT_${FW1}`),
    push(`CT_${FW1}`, `ct.${FW3}.ev`),
  ),
  "delete a peer's consumer": request(api(`CONSUMER.DELETE.CT_${FW1}.other`)),
  "read another cluster's message": request(api(`DIRECT.GET.CT_${CORE}`), { seq: 1 }),
  "read another cluster's last message": request(api(`DIRECT.GET.CT_${CORE}.ct.${CORE}.ev`)),
  "take messages of another cluster": request(api(`CONSUMER.MSG.NEXT.CT_${CORE}.other`), { batch: 1, no_wait: true }),
  "ask a peer's daemon in another's name": request(`ctread.${FW1}.fw3`, { consume: 0 }),
  "ask another cluster's daemon": request(`ctread.${CORE}.fw2`, { find: true }),
  "have the daemon delete another's consumer": request(`ctread.${FW1}.fw2`, { release: "conntrail_fw3_x" }),
  "have a message of its own sent into a peer's stream": publish(api("DIRECT.GET.CT_fw2@edge"), '{"seq":1}', {
    reply: `ct.${FW1}.ev`,
  }),
  "have a peer's message sent into its stream again": publish(api(`DIRECT.GET.CT_${FW1}`), '{"seq":1}', {
    reply: `ct.${FW1}.ev`,
  }),
  "have a peer's message sent into another's stream": publish(api(`DIRECT.GET.CT_${FW1}`), '{"seq":1}', {
    reply: `ct.${FW3}.ev`,
  }),
  "have an empty answer sent to a purge": publish(api(`DIRECT.GET.CT_${FW1}`), '{"seq":999}', {
    reply: api(`STREAM.PURGE.CT_${FW1}`),
  }),
  "have an empty answer sent to a deletion": publish(api(`DIRECT.GET.CT_${FW1}`), '{"seq":999}', {
    reply: api(`STREAM.DELETE.CT_${FW3}`),
  }),
  "have the state of its stream sent into a peer's": publish(api("STREAM.INFO.CT_fw2@edge"), "", {
    reply: `ct.${FW1}.ev`,
  }),
  "have the daemon's answer sent into another's stream": publish(`ctread.${FW1}.fw2`, '{"find":true}', {
    reply: `ct.${FW3}.ev`,
  }),
  "have a consumer of its own write into a peer's stream": request(
    api("CONSUMER.CREATE.CT_fw1@edge"),
    push("CT_fw2@edge", `ct.${FW1}.ev`),
  ),
  "check flows in another's name": request(`ctcheck.${FW1}.fw3`),
  "ask the server who is there": request("$SYS.REQ.SERVER.PING"),
  "ask the server for its connections": request("$SYS.REQ.SERVER.PING.CONNZ"),
  "listen to everything": listen(">"),
  "listen to the streams": listen("ct.>"),
  "listen to what a peer is answered": listen(`_INBOX_${FW1}.>`),
  "listen to what a peer is asked": listen(`ctreq.${FW1}.*`),
  "listen to what a peer's daemon is asked": listen("ctread.>"),
  "take a peer's place for its readers": listen(`ctread.${FW1}.*`),
  "take a peer's place for checks": listen(`ctcheck.${FW1}.*`),
  "listen to JetStream": listen("$JS.>"),
  "listen to the server": listen("$SYS.>"),
  "listen to answers across accounts": listen("_R_.>"),
};

/** As above, but servers with CVE-2025-30215 let it happen: JetStream sends its answers with its own power. */
const UNTIL_FIXED: Readonly<Record<string, Attempt>> = {
  "have an answer sent to the purge of a peer's account": publish(api("DIRECT.GET.CT_fw2@edge"), '{"seq":999}', {
    reply: api(`ACCOUNT.PURGE.conntrail_${FW1}`),
  }),
  "have a confirmation sent to the purge of a peer's account": publish("ct.fw2@edge.ev", "x", {
    reply: api(`ACCOUNT.PURGE.conntrail_${FW1}`),
  }),
};

/** The servers' side, and the daemons of the nodes. */
class Scene {
  server!: TestNatsServer;
  readonly heard: string[] = [];
  readonly #connections: BrokerConnection[] = [];

  async start(): Promise<void> {
    this.server = await startNatsServer({ more: accounts() });
    for (const [cluster, nodes] of Object.entries(CLUSTERS)) {
      for (const node of nodes.filter((one) => one !== "audit1")) await this.daemon(node, cluster);
    }
  }

  /** A daemon as far as its peers see it. Its stream has three messages before anything else comes. */
  async daemon(node: string, cluster: string): Promise<BrokerConnection> {
    const connection = this.connection(node, cluster);
    const client = await connection.ready(10_000);
    const name = brokerName(node, cluster);
    const jsm = await client.jetstreamManager();
    await ensureStream(jsm, name, RETENTION);
    const { last_seq } = (await jsm.streams.info(streamName(name))).state;
    for (let i = last_seq; i < 3; i++) await client.jetstream().publish(subject(name, "ev"), `${name} ${i}`);
    serveReaders(connection, node);
    serveChecks(connection, node, async () => "checked");
    onAsked(connection, node, (what) => this.heard.push(`${name} ${what}`));
    await client.flush();
    return connection;
  }

  connection(node: string, cluster: string, asksDaemon = true): BrokerConnection {
    const file = join(this.server.directory, `${node}@${cluster}.nkey`);
    writeFileSync(file, keys.get(brokerName(node, cluster))!.getSeed(), { mode: 0o600 });
    const connection = connectBroker({
      servers: [this.server.address],
      node,
      cluster,
      asksDaemon,
      purpose: "test",
      login: { kind: "nkey", file },
      log: silentLogger(),
    });
    this.#connections.push(connection);
    return connection;
  }

  /** A client with the key of a node, and nothing of the product. */
  raw(name: string): Promise<NatsConnection> {
    const authenticator = nkeyAuthenticator(keys.get(name)!.getSeed());
    return connect({ servers: this.server.address, authenticator, inboxPrefix: inboxPrefix(name), reconnect: false });
  }

  /** All that the streams of the others are and hold, as text. */
  async streams(): Promise<string> {
    const found: unknown[] = [];
    for (const name of [FW1, FW3, CORE]) {
      const client = await this.raw(name);
      const jsm = await client.jetstreamManager({ checkAPI: false });
      for await (const { config, state } of jsm.streams.list()) {
        const { consumer_count: _, ...rest } = state;
        found.push({ config, rest });
      }
      await client.close();
    }
    return JSON.stringify(found, null, 1);
  }

  /** Ends all daemons of a node of the cluster edge. */
  async silence(node: string): Promise<void> {
    const of = this.#connections.filter((connection) => connection.node === node && connection.nameOf("") === "@edge");
    await Promise.all(of.map((connection) => connection.close()));
  }

  /** What happens on servers that work. */
  async busy(): Promise<void> {
    const third = await this.raw(FW3);
    await third.request(`ctread.${FW1}.fw3`, '{"find":true}', { timeout: 2000 });
    await third.request(`ctcheck.${FW1}.fw3`, "flows", { timeout: 2000 });
    await third.close();
  }

  async end(): Promise<void> {
    await Promise.all(this.#connections.map((connection) => connection.close()));
    await this.server[Symbol.asyncDispose]();
  }
}

const scene = new Scene();

/** The payloads that a reader brings, until there are `count`. */
async function readAll(connection: BrokerConnection, node: string, count: number): Promise<string[]> {
  const read: string[] = [];
  const signal = AbortSignal.timeout(20_000);
  const reader = new StreamReader({ connection, node, log: silentLogger() });
  for await (const items of reader.read(0, signal)) {
    for (const item of items) if (item.type === "message") read.push(new TextDecoder().decode(item.payload));
    if (read.length >= count) break;
  }
  return read;
}

describe("a shared NATS cluster with an account for each node", { skip: natsServerMissing() }, () => {
  before(() => scene.start());
  after(() => scene.end());

  for (const [what, attempt] of Object.entries({ ...FORBIDDEN, ...UNTIL_FIXED })) {
    it(`a peer's key is no good to ${what}`, {
      skip: what in UNTIL_FIXED && natsServerHole("CVE-2025-30215"),
    }, async () => {
      const held = await scene.streams();
      scene.heard.length = 0;
      const peer = await scene.raw("fw2@edge");
      try {
        assert.equal((await attempt(peer))?.string() ?? null, null);
        await peer.flush().catch(() => undefined);
      } finally {
        await peer.close();
      }
      assert.equal(await scene.streams(), held);
      assert.deepEqual(scene.heard, []);
    });
  }

  it("a node reads its peers, hears and asks them; an observer too; and each sees its own cluster only", async () => {
    for (const [node, peers] of [
      ["fw2", ["fw1", "fw3"]],
      ["audit1", ["fw1", "fw2", "fw3"]],
    ] as const) {
      const connection = scene.connection(node, "edge");
      await connection.ready(10_000);
      assert.deepEqual(await listNodes(connection), node === "fw2" ? ["fw2"] : []);
      assert.equal((await keptStreams(connection)).length, node === "fw2" ? 1 : 0);
      for (const peer of peers) {
        // fw2 may write into its own stream, and has.
        const read = (await readAll(connection, peer, 3)).slice(0, 3);
        assert.deepEqual(
          read,
          [0, 1, 2].map((i) => `${peer}@edge ${i}`),
          `${node} reads ${peer}`,
        );
        assert.equal(await askCheck(connection, peer, new Uint8Array()), "checked");
        scene.heard.length = 0;
        askNode(connection, peer, "snapshot");
        await until("the question", () => scene.heard.includes(`${peer}@edge snapshot`));
        let beats = 0;
        const end = onHeartbeat(connection, peer, () => beats++);
        await connection.client?.flush();
        const own = scene.connection(peer, "edge");
        await own.ready(10_000);
        await until("a heartbeat", () => {
          sendHeartbeat(own, heartbeat({ node: peer }));
          return beats > 0;
        });
        end();
      }
    }
  });

  it("a peer's stream is read when its daemon is dead, and followed when that is back", async () => {
    const writer = await scene.daemon("fw3", "edge");
    const file = scene.connection("fw2", "edge");
    await file.ready(10_000);
    await scene.silence("fw3");
    const reader = new StreamReader({ connection: file, node: "fw3", log: silentLogger() });
    const last = await reader.readLast("ev");
    assert.equal(new TextDecoder().decode(last?.payload), "fw3@edge 2");
    const read: string[] = [];
    const stop = new AbortController();
    const done = (async () => {
      for await (const items of reader.read(0, stop.signal)) {
        for (const item of items) if (item.type === "message") read.push(new TextDecoder().decode(item.payload));
      }
    })();
    await until("what the dead one wrote", () => read.length === 3, 10_000);
    assert.equal(writer.closed, true);
    const again = await scene.daemon("fw3", "edge");
    const js = again.client!.jetstream();
    for (let i = 3; i < 6; i++) await js.publish(subject(FW3, "ev"), `fw3@edge ${i}`);
    await until("what came then", () => read.length === 6, 10_000);
    assert.deepEqual(
      read,
      [0, 1, 2, 3, 4, 5].map((i) => `fw3@edge ${i}`),
    );
    assert.equal(reader.counters.handovers, 1);
    stop.abort();
    await done;
  });
});

describe("two clusters in one account", { skip: natsServerMissing() }, () => {
  it("have streams of their own", async () => {
    await using server = await startNatsServer();
    const open = (cluster: string) =>
      connectBroker({ servers: [server.address], node: "fw1", cluster, purpose: "test", log: silentLogger() });
    const [edge, core] = [open("edge"), open("core")];
    try {
      for (const connection of [edge, core]) {
        const client = await connection.ready(10_000);
        await ensureStream(await client.jetstreamManager(), connection.nameOf("fw1"), RETENTION);
        await client.jetstream().publish(subject(connection.nameOf("fw1"), "ev"), connection.nameOf("fw1"));
      }
      for (const connection of [edge, core]) {
        assert.deepEqual(await listNodes(connection), ["fw1"]);
        assert.deepEqual(await readAll(connection, "fw1", 1), [connection.nameOf("fw1")]);
      }
    } finally {
      await Promise.all([edge.close(), core.close()]);
    }
  });

  it("a stream is read on while the consumers that its daemon makes bring nothing", { timeout: 60_000 }, async () => {
    await using server = await startNatsServer();
    const open = (node: string, asksDaemon: boolean) =>
      connectBroker({
        servers: [server.address],
        node,
        cluster: "edge",
        asksDaemon,
        purpose: "test",
        log: silentLogger(),
      });
    const [own, reading] = [open("fw1", false), open("fw2", true)];
    const stop = new AbortController();
    try {
      const client = await own.ready(10_000);
      const jsm = await client.jetstreamManager();
      await ensureStream(jsm, FW1, RETENTION);
      const js = client.jetstream();
      for (let i = 0; i < 100; i++) await js.publish(subject(FW1, "ev"), `${i}`);
      // As after the loss of a server: the consumer was on that one.
      let consumers = 0;
      own.subscribe(readSubject(FW1, "*"), async (_client, message) => {
        if (message.string().includes("consume")) message.respond(`{"consumer":"lost${++consumers}"}`);
        else {
          const { created, state } = await jsm.streams.info(streamName(FW1));
          message.respond(JSON.stringify({ place: { created, first: state.first_seq, last: state.last_seq } }));
        }
      });
      await reading.ready(10_000);
      const read: number[] = [];
      const reader = new StreamReader({ connection: reading, node: "fw1", log: silentLogger() });
      const done = (async () => {
        for await (const items of reader.read(0, stop.signal))
          for (const item of items)
            if (item.type === "message") read.push(Number(new TextDecoder().decode(item.payload)));
      })();
      await until("what was there", () => read.length === 100, 15_000);
      for (let i = 100; i < 150; i++) await js.publish(subject(FW1, "ev"), `${i}`);
      const publishedMs = performance.now();
      await until("what came then", () => read.length === 150, 15_000);
      assert.ok(performance.now() - publishedMs < 3000, "it waits for another consumer that is lost");
      assert.deepEqual(
        read,
        Array.from({ length: 150 }, (_, i) => i),
      );
      assert.ok(consumers >= 1);
      stop.abort();
      await done;
    } finally {
      stop.abort();
      await Promise.all([own.close(), reading.close()]);
    }
  });
});
