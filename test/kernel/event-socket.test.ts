import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { RawNetlinkSocket } from "netlink";
import { NETLINK_NETFILTER } from "../../src/ctnetlink/constants.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import {
  EVENT_DESTROY,
  EVENT_NEW,
  EVENT_UPDATE,
  type EventKind,
  EventSocket,
  type EventSocketOptions,
  MALFORMED_HEADER,
  MALFORMED_TRUNCATED,
} from "../../src/ctnetlink/event-socket.js";
import { RequestSocket } from "../../src/ctnetlink/request-socket.js";
import { formatAddress } from "../../src/flow/address.js";
import type { DecodedFlow } from "../../src/flow/record.js";
import { W_MARK, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO } from "../../src/flow/record.js";
import { KernelNamespace, kernelAvailable, udpRecord, waitUntil } from "../support/kernel-namespace.js";

const skip = kernelAvailable() ?? false;

interface SeenEvent {
  kind: EventKind;
  protocol: number;
  source: string;
  destination: string;
  destinationPort: number;
  mark: number;
  portId: number;
}

/** An EventSocket in a namespace together with all that it has said. */
class Listener {
  readonly events: SeenEvent[] = [];
  readonly malformed: number[] = [];
  overruns = 0;
  drained = 0;
  /** Events of each turn. */
  readonly turns: number[] = [];
  readonly socket: EventSocket;

  constructor(namespace: KernelNamespace, options: EventSocketOptions = {}) {
    this.socket = namespace.run(() => new EventSocket(options));
    this.socket.listen(this);
  }

  onEvent(kind: EventKind, flow: DecodedFlow, portId: number): void {
    const { words } = flow;
    const family = words[W_PROTO]! >>> 8;
    this.events.push({
      kind,
      protocol: words[W_PROTO]! & 0xff,
      source: formatAddress(words, W_ORIG_SRC, family),
      destination: formatAddress(words, W_ORIG_DST, family),
      destinationPort: words[W_ORIG_L4]! & 0xffff,
      mark: words[W_MARK]!,
      portId,
    });
  }

  onMalformed(code: number): void {
    this.malformed.push(code);
  }

  onOverrun(): void {
    this.overruns++;
  }

  onDrained(eventsSinceLast: number): void {
    this.drained += eventsSinceLast;
    this.turns.push(eventsSinceLast);
  }

  has(kind: EventKind, destinationPort: number): boolean {
    return this.events.some((event) => event.kind === kind && event.destinationPort === destinationPort);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.socket.close();
  }
}

test("events of conntrack(8): create, update, destroy, in order and with their kind", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace);
  const tuple = ["-s", "192.0.2.1", "-d", "198.51.100.2", "-p", "tcp", "--sport", "1000", "--dport", "443"];
  await namespace.conntrack("-I", ...tuple, "-t", "60", "--state", "ESTABLISHED");
  await namespace.conntrack("-U", ...tuple, "-m", "7");
  await namespace.conntrack("-D", ...tuple);
  await waitUntil(() => listener.has(EVENT_DESTROY, 443), "the destroy event");
  assert.deepEqual(
    listener.events.map(({ kind, mark }) => [kind, mark]),
    [
      [EVENT_NEW, 0],
      [EVENT_UPDATE, 7],
      [EVENT_DESTROY, 7],
    ],
  );
  const { kind: _kind, mark: _mark, portId, ...flow } = listener.events[0]!;
  assert.deepEqual(flow, { protocol: 6, source: "192.0.2.1", destination: "198.51.100.2", destinationPort: 443 });
  assert.notEqual(portId, 0, "made by a request of conntrack(8)");
  assert.deepEqual(listener.malformed, []);
  await waitUntil(() => listener.drained === 3, "onDrained to have told of all events");
  assert.equal(listener.socket.counters.eventsReceived, 3);
});

test("a muted port: nothing of what its requests make, but of what they end, and of all others", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  const [own, other] = [1, 2].map(() => namespace.run(() => new RequestSocket()));
  await using listener = new Listener(namespace);
  listener.socket.mute(own!.portId);
  const seen = (): number[][] => listener.events.splice(0).map(({ kind, source }) => [kind, Number(source.at(-1))]);
  await own!.send(creating(1));
  await other!.send(creating(2));
  await own!.send(deleting(1));
  await other!.send(deleting(2));
  await waitUntil(() => listener.events.length === 3, "three events");
  assert.deepEqual(seen(), [
    [EVENT_NEW, 2],
    [EVENT_DESTROY, 1],
    [EVENT_DESTROY, 2],
  ]);
  listener.socket.mute(0);
  await own!.send(creating(3));
  await waitUntil(() => listener.events.length === 1, "an event");
  assert.deepEqual(seen(), [[EVENT_NEW, 3]]);
  for (const socket of [own!, other!]) socket.close();
});

test("without new events: only of what changes and ends, whoever made it", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace);
  const tuple = ["-s", "192.0.2.1", "-d", "198.51.100.2", "-p", "tcp", "--sport", "1000", "--dport", "443"];
  listener.socket.hearNew(false);
  await namespace.conntrack("-I", ...tuple, "-t", "60", "--state", "ESTABLISHED");
  await namespace.conntrack("-U", ...tuple, "-m", "7");
  await namespace.conntrack("-D", ...tuple);
  await waitUntil(() => listener.has(EVENT_DESTROY, 443), "the destroy event");
  listener.socket.hearNew(true);
  await namespace.conntrack("-I", ...tuple, "-t", "60", "--state", "ESTABLISHED");
  await waitUntil(() => listener.has(EVENT_NEW, 443), "the new event");
  const kinds = listener.events.map(({ kind }) => kind);
  assert.deepEqual(kinds, [EVENT_UPDATE, EVENT_DESTROY, EVENT_NEW]);
});

test("events of IPv6 flows", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace);
  const tuple = ["-s", "2001:db8::1", "-d", "2001:db8::2", "-p", "udp", "--sport", "5000", "--dport", "53"];
  await namespace.conntrack("-I", ...tuple, "-t", "60");
  await waitUntil(() => listener.has(EVENT_NEW, 53), "the new event");
  assert.equal(listener.events[0]!.source, "2001:db8::1");
  assert.equal(listener.events[0]!.destination, "2001:db8::2");
});

test("events of real TCP and UDP traffic come with port id 0", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await namespace.track();
  await using listener = new Listener(namespace);
  await namespace.exec(process.execPath, ["-e", TRAFFIC]);
  await waitUntil(() => listener.has(EVENT_NEW, 7001) && listener.has(EVENT_UPDATE, 7001), "the TCP events");
  await waitUntil(() => listener.has(EVENT_NEW, 7002), "the UDP event");
  const packets = listener.events.filter((event) => event.destinationPort >= 7001 && event.destinationPort <= 7002);
  assert.ok(packets.every((event) => event.portId === 0 && event.source === "127.0.0.1"));
  await namespace.conntrack("-F");
  await waitUntil(() => listener.has(EVENT_DESTROY, 7001) && listener.has(EVENT_DESTROY, 7002), "the destroy events");
});

test("an event that a request of ours caused carries its port id", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace);
  const requests = namespace.run(() => new RequestSocket());
  try {
    const batch = new RequestBatch();
    batch.create(udpRecord(1), 0, null, { timeoutSeconds: 60, liberal: false });
    assert.deepEqual(await requests.send(batch), { sent: 1, errors: [], unknown: 0 });
    await waitUntil(() => listener.events.length === 1, "the event");
    assert.equal(listener.events[0]!.portId, requests.portId);
    assert.notEqual(requests.portId, listener.socket.portId);
  } finally {
    requests.close();
  }
});

test("several messages in a datagram, foreign types, bad headers and truncation are told apart", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace);
  const sender = namespace.run(
    () => new RawNetlinkSocket(NETLINK_NETFILTER, { recvBufferSize: 65_536, sendBufferSize: 65_536 }),
  );
  try {
    const batch = new RequestBatch();
    for (const i of [1, 2, 3]) batch.create(udpRecord(i), 0, null, { timeoutSeconds: 60, liberal: false });
    const three = Uint8Array.from(batch.bytes(4711, 1));
    const headers = new Uint32Array(three.buffer);
    const { counters, portId } = listener.socket;

    sender.send(three, { port: portId });
    await waitUntil(() => listener.events.length === 3, "three events of one datagram");
    assert.ok(listener.events.every((event) => event.kind === EVENT_NEW && event.portId === 4711));
    assert.equal(counters.datagrams, 1);

    headers[1] = 0x0999;
    sender.send(three, { port: portId });
    await waitUntil(() => counters.unknownType === 1, "the foreign type");
    assert.equal(listener.events.length, 5, "the messages behind it are read");

    headers[0] = 1 << 20;
    sender.send(three, { port: portId });
    sender.send(three.subarray(0, 8), { port: portId });
    sender.send(new Uint8Array(5000), { port: portId });
    await waitUntil(() => listener.malformed.length === 3, "the malformed datagrams");
    assert.deepEqual(listener.malformed, [MALFORMED_HEADER, MALFORMED_HEADER, MALFORMED_TRUNCATED]);
    assert.equal(counters.malformed, 3);
    assert.equal(listener.events.length, 5);
  } finally {
    sender.close();
  }
});

test("an overrun is reported, and the socket goes on", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace, { bufferBytes: 8192, bufferBytesMax: 1 << 20 });
  const requests = namespace.run(() => new RequestSocket());
  try {
    await createMany(requests, 1, 500);
    await waitUntil(() => listener.overruns > 0, "the overrun");
    assert.equal(listener.socket.counters.overruns, listener.overruns);
    assert.ok(listener.events.length < 500, "events were lost");

    const before = listener.socket.counters.bufferBytes;
    assert.equal(listener.socket.growBuffer(), true);
    assert.ok(listener.socket.counters.bufferBytes >= before * 2 - 1);
    while (listener.socket.growBuffer());
    assert.ok(listener.socket.counters.bufferBytes <= 1 << 20);

    // The last overrun may not have been read yet: with what comes after it, it has.
    const early = listener.events.length;
    await createMany(requests, 701, 701);
    await waitUntil(() => listener.events.length > early, "an event after the overrun");
    const overruns = listener.overruns;
    const seen = listener.events.length;
    await createMany(requests, 501, 700);
    await waitUntil(() => listener.events.length >= seen + 200, "the events after the overrun");
    assert.equal(listener.overruns, overruns, "the grown buffer holds them");
  } finally {
    requests.close();
  }
});

test("a turn reads no more than it may, and the next one goes on", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace, { turnDatagramsMax: 150 });
  const requests = namespace.run(() => new RequestSocket());
  try {
    const batch = new RequestBatch();
    for (let i = 1; i <= 1000; i++) batch.create(udpRecord(i), 0, null, { timeoutSeconds: 600, liberal: false });
    const sent = requests.send(batch);
    // Sent, on a thread of the pool, in the microtask that the socket's queue takes: nothing is read before all is there.
    await Promise.resolve();
    const count = (): string => namespace.run(() => readFileSync("/proc/sys/net/netfilter/nf_conntrack_count", "utf8"));
    const deadlineMs = performance.now() + 30_000;
    while (Number(count()) < 1000 && performance.now() < deadlineMs);
    assert.deepEqual((await sent).errors, []);
    await waitUntil(() => listener.events.length === 1000, "all events");
    assert.ok(Math.max(...listener.turns) <= 150, `${listener.turns} events in the turns`);
    assert.ok(listener.turns.includes(150), "no turn was full");
  } finally {
    requests.close();
  }
});

test("a reliable socket reports no overrun", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace, { bufferBytes: 8192, reliable: true });
  const requests = namespace.run(() => new RequestSocket());
  try {
    await createMany(requests, 1, 300);
    await requests.flush();
    // Destroy events that did not fit are sent again by the kernel's event cache.
    await waitUntil(
      () => listener.events.filter((event) => event.kind === EVENT_DESTROY).length === 300,
      "all destroy events",
    );
    assert.equal(listener.overruns, 0);
  } finally {
    requests.close();
  }
});

test("under load events gather, so that wake-ups stay rare, and all arrive", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  await using listener = new Listener(namespace, { gatherMs: 10 });
  const requests = namespace.run(() => new RequestSocket());
  try {
    // Where the machine holds the load up for longer than events gather, the next one wakes.
    let pauses = 0;
    for (let i = 0; i < 100; i++) {
      const startMs = performance.now();
      await createMany(requests, 1 + i * 50, 50 + i * 50);
      await new Promise((resolve) => setTimeout(resolve, 1));
      if (performance.now() - startMs > 10) pauses++;
    }
    await waitUntil(() => listener.events.length === 5000, "all events");
    const { wakeups } = listener.socket.counters;
    assert.ok(wakeups < 60 + pauses, `${wakeups} wake-ups, ${pauses} pauses`);
    assert.equal(listener.overruns, 0);
  } finally {
    requests.close();
  }
});

/** One of several is quick: the machine may hold one up, what is looked for holds up all. */
async function assertOnceBelow(msMax: number, what: string, measure: () => Promise<number>): Promise<void> {
  const all: number[] = [];
  while (all.length < 5 && !all.some((ms) => ms < msMax)) all.push(await measure());
  assert.ok(all.at(-1)! < msMax, `${what}: ${all.join(", ")} ms`);
}

test("close ends an idle socket within 100 ms, may be called twice, and nothing is delivered after it", {
  skip,
}, async () => {
  await using namespace = await KernelNamespace.create();
  const tuple = ["-s", "192.0.2.1", "-d", "192.0.2.2", "-p", "udp", "--sport", "1", "--dport", "2"];
  await assertOnceBelow(100, "close", async () => {
    const listener = new Listener(namespace);
    await namespace.conntrack("-I", ...tuple, "-t", "9");
    await waitUntil(() => listener.events.length === 1, "the event before");
    const startMs = performance.now();
    const closing = listener.socket.close();
    assert.equal(listener.socket.close(), closing);
    await closing;
    const endMs = performance.now();
    assert.equal(listener.socket.growBuffer(), false);
    await namespace.conntrack("-F");
    assert.equal(listener.events.length, 1);
    return endMs - startMs;
  });
});

for (const [name, ending] of [
  ["ends by itself after close()", "socket.close();"],
  ["ends at once by process.exit()", "process.exit(0);"],
] as const) {
  test(`a process with an idle socket ${name}`, { skip }, async () => {
    await using namespace = await KernelNamespace.create();
    const module = new URL("../../src/ctnetlink/event-socket.js", import.meta.url).href;
    const script = `
      const { EventSocket } = await import(${JSON.stringify(module)});
      const ignore = () => undefined;
      const socket = new EventSocket();
      socket.listen({ onEvent: ignore, onMalformed: ignore, onOverrun: ignore, onDrained: ignore });
      setTimeout(() => {
        process.stdout.write(String(Date.now()));
        ${ending}
      }, 100);`;
    await assertOnceBelow(400, "the process lived on", async () => {
      const { stdout } = await namespace.exec(process.execPath, ["--input-type=module", "-e", script]);
      return Date.now() - Number(stdout);
    });
  });
}

test("without CAP_NET_ADMIN the error says so", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  const module = new URL("../../src/ctnetlink/event-socket.js", import.meta.url).href;
  const refusal = await namespace.refusal(module, "new module.EventSocket().listen({})");
  assert.match(refusal, /^PERMISSION .*CAP_NET_ADMIN/);
});

/** Creates flows `first` to `last` in batches. */
async function createMany(requests: RequestSocket, first: number, last: number): Promise<void> {
  const batch = new RequestBatch();
  for (let i = first; i <= last; i++) {
    batch.create(udpRecord(i), 0, null, { timeoutSeconds: 600, liberal: false });
    if (batch.count < 200 && i < last) continue;
    const result = await requests.send(batch);
    assert.deepEqual(result.errors, []);
    batch.reset();
  }
}

/** One TCP connection to port 7001 and one UDP datagram to port 7002, over loopback. */
const TRAFFIC = `
  const net = require("node:net");
  const dgram = require("node:dgram");
  const server = net.createServer((socket) => socket.end("bye")).listen(7001, "127.0.0.1", () => {
    net.connect(7001, "127.0.0.1").resume().on("close", () => server.close());
  });
  const receiver = dgram.createSocket("udp4").on("message", () => receiver.close());
  receiver.bind(7002, "127.0.0.1", () => {
    const sender = dgram.createSocket("udp4");
    sender.send("hello", 7002, "127.0.0.1", () => sender.close());
  });`;

function creating(number: number): RequestBatch {
  const batch = new RequestBatch();
  batch.create(udpRecord(number), 0, null, { timeoutSeconds: 60, liberal: false });
  return batch;
}

function deleting(number: number): RequestBatch {
  const batch = new RequestBatch();
  batch.delete(udpRecord(number), 0);
  return batch;
}
