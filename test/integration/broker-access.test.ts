/**
 * What the valid key of a peer is good for, against a real broker with the permissions that the product generates. The
 * peer is called fw2, the broker is fw1's, and fw3 is another peer.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { type ConnectionOptions, connect, type NatsConnection } from "nats";
import { EmbeddedBroker } from "../../src/stream/broker/broker.js";
import { type BrokerConnection, connectBroker, type TlsFiles } from "../../src/stream/connection.js";
import { askCheck, serveChecks } from "../../src/stream/flow-checks.js";
import {
  checkSubject,
  inboxPrefix,
  readSubject,
  requestSubject,
  streamName,
  subject,
} from "../../src/stream/format/subjects.js";
import { onHeartbeat } from "../../src/stream/heartbeats.js";
import { ensureStream } from "../../src/stream/own-stream.js";
import { StreamReader } from "../../src/stream/reader.js";
import { askNode, onAsked } from "../../src/stream/requests.js";
import { serveReaders, streamAccess } from "../../src/stream/stream-access.js";
import { type Attempt, listen as listenTo, publish, request } from "../support/broker-attempts.js";
import { makeCertificate, opensslMissing } from "../support/certificate.js";
import { freePort, natsServerMissing, silentLogger, temporaryDirectory, until } from "../support/nats-server.js";

const NODES = ["fw1", "fw2", "fw3"];
const RETENTION = { maxAgeMs: 0, bytesMax: 64 * 1024 ** 2 };

/** A subscription; anything that comes is a gain. */
const listen = (to: string): Attempt => listenTo(to, () => fixture.busy());
const api = (text: string): string => `$JS.API.${text}`;
const push = (to: string, more: object = {}): object => ({
  stream_name: "CT_fw1",
  config: { deliver_subject: to, ack_policy: "none", deliver_policy: "all", ...more },
});
const config = (node: string, more: object = {}): object => ({
  name: streamName(node),
  subjects: [`ct.${node}.>`],
  retention: "limits",
  storage: "file",
  ...more,
});

const FORBIDDEN: Readonly<Record<string, Attempt>> = {
  "write events into the owner's stream": publish("ct.fw1.ev", "x"),
  "write a snapshot into the owner's stream": publish("ct.fw1.snap", "x"),
  "write a mark into the owner's stream": publish("ct.fw1.mark", "x"),
  "write with the right sequence": publish("ct.fw1.ev", "x", { expects: 3 }),
  "write below the owner's stream": publish("ct.fw1.else", "x"),
  "write into the copy of the own stream": publish("ct.fw2.ev", "x"),
  "write into the copy of another's stream": publish("ct.fw3.ev", "x"),
  "send the owner's heartbeat": publish("cthb.fw1", "{}"),
  "send its own heartbeat over the owner's broker": publish("cthb.fw2", "{}"),
  "answer what the owner asked": publish("_INBOX_fw1.daemon.1", "+OK"),
  "answer what another asked": publish("_INBOX_fw3.reader.1", "+OK"),
  "ask another node through this broker": publish("ctreq.fw3.snapshot"),
  "ask the owner for something unknown": publish("ctreq.fw1.other"),
  "acknowledge for another's consumer": publish("$JS.ACK.CT_fw1.other.1.1.1.1.0", "+ACK"),
  "ask for the account": request(api("INFO")),
  "list the streams": request(api("STREAM.LIST")),
  "name the streams": request(api("STREAM.NAMES")),
  "look at a stream's settings": request(api("STREAM.INFO.CT_fw1")),
  "look at a copy's settings": request(api("STREAM.INFO.CT_fw3")),
  "create a stream": request(api("STREAM.CREATE.CT_fw9"), config("fw9")),
  "create a stream for another's subjects": request(api("STREAM.CREATE.CT_tap"), {
    name: "CT_tap",
    subjects: ["cthb.>"],
  }),
  "cut a stream's history": request(api("STREAM.UPDATE.CT_fw1"), config("fw1", { max_msgs_per_subject: 1 })),
  "seal a stream": request(api("STREAM.UPDATE.CT_fw1"), config("fw1", { sealed: true })),
  "republish a stream": request(api("STREAM.UPDATE.CT_fw1"), config("fw1", { republish: { src: ">", dest: "tap.>" } })),
  "purge the owner's stream": request(api("STREAM.PURGE.CT_fw1")),
  "purge a copy": request(api("STREAM.PURGE.CT_fw3")),
  "delete the owner's stream": request(api("STREAM.DELETE.CT_fw1")),
  "delete a copy": request(api("STREAM.DELETE.CT_fw2")),
  "delete a message": request(api("STREAM.MSG.DELETE.CT_fw1"), { seq: 1 }),
  "read a message as an administrator": request(api("STREAM.MSG.GET.CT_fw1"), { seq: 1 }),
  "take a backup": request(api("STREAM.SNAPSHOT.CT_fw1"), { deliver_subject: "_INBOX_fw2.backup" }),
  "restore a backup": request(api("STREAM.RESTORE.CT_fw9"), { config: config("fw9"), state: {} }),
  "create a template": request(api("STREAM.TEMPLATE.CREATE.t"), {
    name: "t",
    config: { subjects: ["t.>"] },
    max_streams: 9,
  }),
  "make a stream's leader step down": request(api("STREAM.LEADER.STEPDOWN.CT_fw1")),
  "remove a stream's replica": request(api("STREAM.PEER.REMOVE.CT_fw1"), { peer: "fw1" }),
  "purge the account": request(api("ACCOUNT.PURGE.conntrail")),
  "purge the default account": request(api("ACCOUNT.PURGE.$G")),
  "remove the server": request(api("SERVER.REMOVE"), { peer: "fw1" }),
  "make the servers elect": request(api("META.LEADER.STEPDOWN")),
  "list consumers": request(api("CONSUMER.LIST.CT_fw1")),
  "name consumers": request(api("CONSUMER.NAMES.CT_fw1")),
  "look at a consumer": request(api("CONSUMER.INFO.CT_fw1.other")),
  "create a consumer": request(api("CONSUMER.CREATE.CT_fw1"), push("_INBOX_fw2.push")),
  "create a consumer by name": request(api("CONSUMER.CREATE.CT_fw1.mine"), push("_INBOX_fw2.push")),
  "create a durable consumer": request(
    api("CONSUMER.DURABLE.CREATE.CT_fw1.mine"),
    push("_INBOX_fw2.push", { durable_name: "mine" }),
  ),
  "create a consumer of a copy": request(api("CONSUMER.CREATE.CT_fw3"), push("_INBOX_fw2.push")),
  "have a consumer write into a copy": request(api("CONSUMER.CREATE.CT_fw1"), push("ct.fw3.ev")),
  "have a consumer purge": request(
    api("CONSUMER.CREATE.CT_fw1"),
    push(api("STREAM.PURGE.CT_fw3"), { headers_only: true }),
  ),
  "delete another's consumer": request(api("CONSUMER.DELETE.CT_fw1.other")),
  "read a copy": request(api("DIRECT.GET.CT_fw3"), { seq: 1 }),
  "read the last message of a copy": request(api("DIRECT.GET.CT_fw3.ct.fw3.ev")),
  "take messages of a copy": request(api("CONSUMER.MSG.NEXT.CT_fw3.other"), { batch: 1, no_wait: true }),
  "ask the daemon in another's name": request(readSubject("fw1", "fw3"), { consume: 0 }),
  "have the daemon make a consumer of another kind": request(readSubject("fw1", "fw2"), {
    consume: 0,
    deliver_subject: "ct.fw3.ev",
  }),
  "have the daemon delete another's consumer": request(readSubject("fw1", "fw2"), { release: "conntrail_fw3_x" }),
  "have the daemon read a place that is none": request(readSubject("fw1", "fw2"), { consume: -1 }),
  "have the daemon read nonsense": request(readSubject("fw1", "fw2"), {
    find: true,
    consume: 0,
    more: "x".repeat(1000),
  }),
  "have a message sent into the owner's stream": publish(api("DIRECT.GET.CT_fw1"), '{"seq":1}', { reply: "ct.fw1.ev" }),
  "have a message sent into a copy": publish(api("DIRECT.GET.CT_fw1"), '{"seq":1}', { reply: "ct.fw3.ev" }),
  "have an empty answer sent to a purge": publish(api("DIRECT.GET.CT_fw1"), '{"seq":999}', {
    reply: api("STREAM.PURGE.CT_fw3"),
  }),
  "have an empty answer sent to a deletion": publish(api("DIRECT.GET.CT_fw1"), '{"seq":999}', {
    reply: api("STREAM.DELETE.CT_fw3"),
  }),
  "have an empty answer sent to the owner": publish(api("DIRECT.GET.CT_fw1"), '{"seq":999}', {
    reply: "_INBOX_fw1.daemon.1",
  }),
  "have the daemon's answer sent to a purge": publish(readSubject("fw1", "fw2"), '{"find":true}', {
    reply: api("STREAM.PURGE.CT_fw3"),
  }),
  "have the daemon's answer sent into a copy": publish(readSubject("fw1", "fw2"), '{"find":true}', {
    reply: "ct.fw3.ev",
  }),
  "have a consumer's messages sent into a copy": async (peer) => {
    const consumer = await fixture.consumer();
    return publish(api(`CONSUMER.MSG.NEXT.CT_fw1.${consumer}`), '{"batch":3,"no_wait":true}', { reply: "ct.fw3.ev" })(
      peer,
    );
  },
  "have the end of a request sent to a purge": async (peer) => {
    const consumer = await fixture.consumer();
    const next = api(`CONSUMER.MSG.NEXT.CT_fw1.${consumer}`);
    return publish(next, '{"batch":9,"no_wait":true}', { reply: api("STREAM.PURGE.CT_fw3") })(peer);
  },
  "ask the server who is there": request("$SYS.REQ.SERVER.PING"),
  "ask the server for its connections": request("$SYS.REQ.SERVER.PING.CONNZ"),
  "ask the server for the account": request("$SYS.REQ.ACCOUNT.conntrail.CONNZ"),
  "reload the server": request("$SYS.REQ.SERVER.fw1.RELOAD"),
  "listen to everything": listen(">"),
  "listen to the streams": listen("ct.>"),
  "listen to what the owner is answered": listen("_INBOX_fw1.>"),
  "listen to what another is answered": listen("_INBOX_fw3.>"),
  "listen to all inboxes": listen("*.*"),
  "listen to what the owner is asked": listen("ctreq.fw1.*"),
  "listen to what the daemon is asked": listen("ctread.>"),
  "take the owner's place for its readers": listen("ctread.fw1.*"),
  "check flows in another's name": request(checkSubject("fw1", "fw3")),
  "check another node's flows through this broker": request(checkSubject("fw3", "fw2")),
  "listen to checks": listen("ctcheck.>"),
  "take the owner's place for checks": listen("ctcheck.fw1.*"),
  "listen to JetStream": listen("$JS.>"),
  "listen to the server": listen("$SYS.>"),
  "listen to answers across accounts": listen("_R_.>"),
};

/** The broker of fw1 with three streams, and its daemon's side. */
class Fixture {
  readonly #end: (() => PromiseLike<unknown>)[] = [];
  readonly heard: string[] = [];
  #unserve: (() => void) | null = null;
  own!: BrokerConnection;
  address = "";
  tlsOf!: (name: string) => TlsFiles;

  async start(): Promise<void> {
    const directory = await temporaryDirectory();
    this.#end.push(() => directory[Symbol.asyncDispose]());
    this.tlsOf = (name) => makeCertificate(directory.path, "authority", name, `DNS:${name}`);
    const tls = this.tlsOf("fw1");
    const log = silentLogger();
    const listenAt = { host: "127.0.0.1", port: await freePort() };
    const storeDir = join(directory.path, "store");
    const readers = NODES.slice(1);
    const broker = new EmbeddedBroker({
      node: "fw1",
      listen: listenAt,
      storeDir,
      storeBytesMax: 1024 ** 3,
      tls,
      readers,
      log,
    });
    this.#end.push(() => broker.stop());
    await broker.start();
    this.address = broker.address;
    this.own = connectBroker({ servers: [broker.address], node: "fw1", purpose: "test", serverName: "fw1", tls, log });
    this.#end.push(() => this.own.close());
    const client = await this.own.ready(10_000);
    const jsm = await client.jetstreamManager();
    for (const node of NODES) {
      await ensureStream(jsm, node, RETENTION);
      for (let i = 0; i < 3; i++) await client.jetstream().publish(subject(node, "ev"), `${node} ${i}`);
    }
    this.listen();
    serveChecks(this.own, "fw1", async (payload) => `checked ${payload.length}`);
    onAsked(this.own, "fw1", (what) => this.heard.push(`ctreq ${what}`));
    client.subscribe(`${inboxPrefix("fw1")}.daemon.*`, { callback: (_error, msg) => this.heard.push(msg.subject) });
    await client.flush();
  }

  /** Answers readers, as a daemon does from its start on. */
  listen(): void {
    this.#unserve ??= serveReaders(this.own, "fw1");
  }

  /** Answers no reader. */
  deafen(): void {
    this.#unserve?.();
    this.#unserve = null;
  }

  /** All that the streams are and hold, as text. */
  async streams(): Promise<string> {
    const jsm = await this.own.client!.jetstreamManager({ checkAPI: false });
    const found: unknown[] = [];
    for await (const { config: settings, state, created } of jsm.streams.list()) {
      const { consumer_count: _, ...rest } = state;
      found.push({ settings, rest, created });
    }
    const consumers: string[] = [];
    for await (const { name } of jsm.consumers.list("CT_fw1")) if (name === "other") consumers.push(name);
    return JSON.stringify([found, consumers], null, 1);
  }

  /** What happens on a broker that works: requests, answers, heartbeats of another. */
  async busy(): Promise<void> {
    await this.streams();
    const third = await this.connect("fw3", { inboxPrefix: inboxPrefix("fw3") });
    await third.request(readSubject("fw1", "fw3"), '{"find":true}', { timeout: 2000 });
    await third.request(checkSubject("fw1", "fw3"), "flows", { timeout: 2000 });
    await third.close();
  }

  /** A consumer of fw2's own, at the first message. */
  async consumer(): Promise<string> {
    const peer = await this.connect("fw2", { inboxPrefix: inboxPrefix("fw2") });
    const answer = await peer.request(readSubject("fw1", "fw2"), '{"consume":0}', { timeout: 2000 });
    await peer.close();
    return answer.json<{ consumer: string }>().consumer;
  }

  connect(name: string, options: ConnectionOptions = {}): Promise<NatsConnection> {
    const { ca, cert, key } = this.tlsOf(name);
    const tls = { ca: readFileSync(ca, "utf8"), cert: readFileSync(cert, "utf8"), key: readFileSync(key, "utf8") };
    const verified = { ...tls, servername: "fw1" };
    return connect({ servers: this.address, tls: verified, reconnect: false, ...options });
  }

  async stop(): Promise<void> {
    for (const end of this.#end.reverse()) await end();
  }
}

const fixture = new Fixture();

describe("a peer's valid key", { skip: natsServerMissing() || opensslMissing() }, () => {
  let peer: NatsConnection;

  before(async () => {
    await fixture.start();
    const jsm = await fixture.own.client!.jetstreamManager();
    await jsm.consumers.add("CT_fw1", { durable_name: "other", ack_policy: "explicit" as never });
    peer = await fixture.connect("fw2", { inboxPrefix: inboxPrefix("fw2") });
  });
  after(async () => {
    await peer?.close();
    await fixture.stop();
  });

  it("is tried with 40 requests and more", () => {
    assert.ok(Object.keys(FORBIDDEN).length >= 40, `${Object.keys(FORBIDDEN).length}`);
  });

  for (const [what, attempt] of Object.entries(FORBIDDEN)) {
    it(`is no key to ${what}`, async () => {
      const before = await fixture.streams();
      fixture.heard.length = 0;
      const got = await attempt(peer);
      assert.equal(
        got === null ? null : `${got.subject} ${got.string().slice(0, 200)}`,
        null,
        "the broker gave it something",
      );
      // The broker handles a connection's messages in order, so what it does for this one it has done.
      await peer.flush();
      assert.equal(await fixture.streams(), before, "the streams are as they were");
      assert.deepEqual(fixture.heard, [], "the daemon heard nothing");
    });
  }

  it("asks for a snapshot and a heartbeat, hears it, and reads the stream to its end and on", async () => {
    const connection = connectBroker({
      servers: [fixture.address],
      node: "fw2",
      purpose: "test",
      serverName: "fw1",
      tls: fixture.tlsOf("fw2"),
      asksDaemon: true,
      log: silentLogger(),
    });
    const stop = new AbortController();
    try {
      await connection.ready(10_000);
      fixture.heard.length = 0;
      let beats = 0;
      onHeartbeat(connection, "fw1", () => beats++);
      askNode(connection, "fw1", "snapshot");
      await until("both requests", () => fixture.heard.length === 2);
      assert.deepEqual([...fixture.heard].sort(), ["ctreq heartbeat", "ctreq snapshot"]);
      fixture.own.client!.publish("cthb.fw1", "{}");
      await until("the heartbeat", () => beats > 0);
      const reader = new StreamReader({ connection, node: "fw1", log: silentLogger() });
      assert.equal((await reader.readLast("ev"))?.sequence, 3);
      const sequences: number[] = [];
      for await (const items of reader.read(1, stop.signal)) {
        for (const item of items) if (item.type === "message") sequences.push(item.sequence);
        if (sequences.length === 3) await fixture.own.client!.jetstream().publish(subject("fw1", "ev"), "more");
        if (sequences.length === 4) stop.abort();
      }
      assert.deepEqual(sequences, [1, 2, 3, 4]);
    } finally {
      stop.abort();
      await connection.close();
    }
  });

  it("asks again where a stream is: the first question may come before the daemon listens", async () => {
    fixture.deafen();
    const connection = connectBroker({
      servers: [fixture.address],
      node: "fw2",
      purpose: "test",
      serverName: "fw1",
      tls: fixture.tlsOf("fw2"),
      asksDaemon: true,
      log: silentLogger(),
    });
    try {
      const client = await connection.ready(10_000);
      const beganMs = performance.now();
      const found = (await streamAccess(connection, client, "fw1")).find();
      await client.flush();
      fixture.listen();
      assert.equal((await found)?.last, 4);
      const tookMs = performance.now() - beganMs;
      assert.ok(tookMs < 1500, `${tookMs} ms: an unanswered question costs 2 s`);
    } finally {
      fixture.listen();
      await connection.close();
    }
  });

  it("is no key to answer in another's name: whoever is asked must have the name that is asked for", async () => {
    const connectTo = (serverName: string, onlyByName: boolean) => {
      const tls = fixture.tlsOf("fw2");
      const common = { servers: [fixture.address], node: "fw2", purpose: "test", tls, log: silentLogger() };
      return connectBroker({ ...common, serverName, onlyByName });
    };
    const [right, wrong, revoked] = [
      connectTo("fw1", true),
      connectTo("fw3", true),
      connectBroker({
        servers: [fixture.address],
        node: "fw2",
        purpose: "test",
        serverName: "fw1",
        tls: fixture.tlsOf("fw2"),
        trusts: () => false,
        log: silentLogger(),
      }),
    ];
    try {
      await right.ready(10_000);
      await until("both refusals", () => wrong.lastError !== "" && revoked.lastError !== "");
      assert.match(revoked.lastError, /fw1 was revoked, or is not among the nodes/);
      assert.equal(wrong.connected || revoked.connected, false);
    } finally {
      await Promise.all([right, wrong, revoked].map((connection) => connection.close()));
    }
  });

  it("asks whether flows would be there, and is answered", async () => {
    const tls = fixture.tlsOf("fw2");
    const common = { servers: [fixture.address], node: "fw2", purpose: "test", serverName: "fw1", tls };
    const connection = connectBroker({ ...common, asksDaemon: true, log: silentLogger() });
    try {
      await connection.ready(10_000);
      assert.equal(await askCheck(connection, "fw1", Buffer.from("flows")), "checked 5");
    } finally {
      await connection.close();
    }
    await assert.rejects(askCheck(connection, "fw1", Buffer.from("flows")), { code: "BROKER" });
  });

  it("leaves no more consumers behind than it may have", async () => {
    for (let i = 0; i < 12; i++) await fixture.consumer();
    const jsm = await fixture.own.client!.jetstreamManager();
    const consumers = async (): Promise<number> => {
      let count = 0;
      // One that is just being deleted is listed as null.
      for await (const info of jsm.consumers.list("CT_fw1")) if (info?.name.startsWith("conntrail_fw2_")) count++;
      return count;
    };
    await until("the oldest to be deleted", async () => (await consumers()) <= 4);
  });

  it("is no key of the node's own name, and a certificate of another name is none at all", async () => {
    for (const name of ["fw4", "localhost"]) {
      await assert.rejects(fixture.connect(name), /Authorization Violation|AUTHORIZATION/i, name);
    }
  });

  it("finds nothing on a broker whose stream is not there yet", async () => {
    const access = await streamAccess(fixture.own, fixture.own.client!, "fw8");
    assert.equal(await access.find(), null);
    assert.equal(requestSubject("fw1", "snapshot"), "ctreq.fw1.snapshot");
  });
});

describe("a node that gets keys, or gives them up", { skip: natsServerMissing() || opensslMissing() }, () => {
  it("takes its streams along, and lets a node in or out while its broker runs", async () => {
    await using directory = await temporaryDirectory();
    const tlsOf = (name: string): TlsFiles => makeCertificate(directory.path, "authority", name, `DNS:${name}`);
    const listenAt = { host: "127.0.0.1", port: await freePort() };
    const common = { node: "fw1", listen: listenAt, storeDir: join(directory.path, "store"), storeBytesMax: 1024 ** 3 };
    const log = silentLogger();
    const start = async (keys: { tls?: TlsFiles; readers?: readonly string[] }): Promise<EmbeddedBroker> => {
      const broker = new EmbeddedBroker({ ...common, ...keys, log });
      await broker.start();
      return broker;
    };
    const messages = async (tls?: TlsFiles): Promise<number> => {
      const files = tls === undefined ? {} : { tls };
      const own = connectBroker({
        servers: [`127.0.0.1:${listenAt.port}`],
        node: "fw1",
        purpose: "test",
        serverName: "fw1",
        ...files,
        log,
      });
      try {
        const client = await own.ready(10_000);
        await ensureStream(await client.jetstreamManager(), "fw1", RETENTION);
        await client.jetstream().publish(subject("fw1", "ev"), "x");
        return (await (await client.jetstreamManager()).streams.info("CT_fw1")).state.messages;
      } finally {
        await own.close();
      }
    };
    let broker = await start({});
    assert.equal(await messages(), 1);
    await broker.stop();
    const tls = tlsOf("fw1");
    broker = await start({ tls, readers: ["fw2"] });
    assert.equal(await messages(tls), 2);
    const pid = broker.pid;
    const reader = (name: string) =>
      connectBroker({
        servers: [broker.address],
        node: name,
        purpose: "test",
        serverName: "fw1",
        tls: tlsOf(name),
        retryMs: 20,
        log,
      });
    const [second, third] = [reader("fw2"), reader("fw3")];
    try {
      await second.ready(10_000);
      await until("fw3 to be refused", () => third.lastError !== "");
      await broker.reload(["fw3"]);
      await until("fw2 to be cut off", () => !second.connected);
      await third.ready(10_000);
      assert.equal(await messages(tls), 3);
      assert.equal(broker.pid, pid, "the same server");
    } finally {
      await Promise.all([second.close(), third.close()]);
      await broker.stop();
    }
    broker = await start({});
    assert.equal(await messages(), 4);
    await broker.stop();
  });
});
