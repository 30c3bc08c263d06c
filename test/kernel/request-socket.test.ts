import assert from "node:assert/strict";
import { test } from "node:test";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { BATCH_MESSAGES, RequestSocket, type RequestSocketOptions } from "../../src/ctnetlink/request-socket.js";
import { AF_INET, AF_INET6, W_ORIG_SRC, W_PROTO } from "../../src/flow/record.js";
import { EEXIST, ENOENT } from "../../src/os/errno.js";
import { KernelNamespace, kernelAvailable, udpRecord } from "../support/kernel-namespace.js";

const skip = kernelAvailable() ?? false;
const CREATE = { timeoutSeconds: 600, liberal: false };

/** A RequestSocket in a namespace, closed at the end of its scope. */
class Requests implements Disposable {
  readonly socket: RequestSocket;

  constructor(namespace: KernelNamespace, options: RequestSocketOptions = {}) {
    this.socket = namespace.run(() => new RequestSocket(options));
  }

  [Symbol.dispose](): void {
    this.socket.close();
  }
}

test("dump visits what conntrack -L counts: 50,000 flows, without holding up the event loop", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  await createMany(requests.socket, 1, 50_000);
  const sources = new Set<number>();
  let turns = 0;
  const ticking = setInterval(() => turns++, 1);
  const result = await requests.socket.dump({}, (flow) => sources.add(flow.words[W_ORIG_SRC]!));
  clearInterval(ticking);
  assert.deepEqual(result, { count: 50_000, malformed: 0, interrupted: false });
  assert.equal(sources.size, 50_000);
  assert.ok(turns >= 2, `timers ran ${turns} times meanwhile`);
  const listed = await namespace.conntrack("-L");
  assert.equal(listed.trimEnd().split("\n").length, 50_000);
});

test("dump of one family", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  await createMany(requests.socket, 1, 10);
  await namespace.conntrack(
    "-I",
    "-s",
    "2001:db8::1",
    "-d",
    "2001:db8::2",
    "-p",
    "udp",
    "--sport",
    "5",
    "--dport",
    "6",
    "-t",
    "60",
  );
  const families: number[] = [];
  const visit = (flow: { words: Uint32Array }): number => families.push(flow.words[W_PROTO]! >>> 8);
  assert.equal((await requests.socket.dump({ family: AF_INET6 }, visit)).count, 1);
  assert.equal((await requests.socket.dump({ family: AF_INET }, visit)).count, 10);
  assert.deepEqual(families, [AF_INET6, ...Array<number>(10).fill(AF_INET)]);
  assert.equal((await requests.socket.dump({ family: 0 }, () => undefined)).count, 11);
});

test("a dump that is aborted or whose visitor throws rejects, and the next one is whole", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  await createMany(requests.socket, 1, 5000);
  const abort = new AbortController();
  let visited = 0;
  const aborted = requests.socket.dump({ signal: abort.signal }, () => {
    visited++;
    if (visited === 10) abort.abort(new Error("enough"));
  });
  await assert.rejects(aborted, /enough/);
  assert.equal(visited, 10);
  const thrown = requests.socket.dump({}, () => {
    throw new Error("visitor");
  });
  await assert.rejects(thrown, /visitor/);
  const before = AbortSignal.abort(new Error("before"));
  await assert.rejects(
    requests.socket.dump({ signal: before }, () => undefined),
    /before/,
  );
  assert.equal((await requests.socket.dump({}, () => undefined)).count, 5000);
});

test("dumps queue up, and batches go on while one runs", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  await createMany(requests.socket, 1, 3000);
  const dumps = [1, 2, 3].map(() => requests.socket.dump({}, () => undefined));
  await createMany(requests.socket, 3001, 3300);
  const counts = (await Promise.all(dumps)).map((result) => result.count);
  assert.ok(counts.every((count) => count >= 3000 && count <= 3300));
});

test("errors of a batch are matched by their place: EEXIST in the middle, ENOENT on delete", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  await createMany(requests.socket, 7, 8);
  const batch = new RequestBatch();
  for (let i = 1; i <= 20; i++) batch.create(udpRecord(i), 0, null, CREATE);
  assert.deepEqual(await requests.socket.send(batch), {
    sent: 20,
    errors: [
      { index: 6, errno: EEXIST },
      { index: 7, errno: EEXIST },
    ],
    unknown: 0,
  });
  batch.reset();
  for (const i of [1, 99, 2, 100]) batch.delete(udpRecord(i), 0);
  assert.deepEqual(await requests.socket.send(batch), {
    sent: 4,
    errors: [
      { index: 1, errno: ENOENT },
      { index: 3, errno: ENOENT },
    ],
    unknown: 0,
  });
  assert.equal((await requests.socket.dump({}, () => undefined)).count, 18);
});

test("an empty batch is done at once", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  assert.deepEqual(await requests.socket.send(new RequestBatch()), { sent: 0, errors: [], unknown: 0 });
});

test("batches that are sent together are answered each for itself", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  await createMany(requests.socket, 1, 30);
  const results = await Promise.all(
    [1, 2, 3].map((n) => {
      const batch = new RequestBatch();
      for (let i = 0; i < n; i++) batch.create(udpRecord(i + 1), 0, null, CREATE);
      batch.create(udpRecord(100 + n), 0, null, CREATE);
      return requests.socket.send(batch);
    }),
  );
  assert.deepEqual(
    results.map((result) => result.errors.map((error) => error.index)),
    [[0], [0, 1], [0, 1, 2]],
  );
});

test("answers that do not fit the buffer are survived and counted as unknown", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace, { bufferBytes: 16_384 });
  await createMany(requests.socket, 1, 400);
  const batch = new RequestBatch();
  // As many as are sent in one go, before an answer can be read; and as many as a thread sends, while answers are read.
  for (const count of [32, 400]) {
    batch.reset();
    for (let i = 1; i <= count; i++) batch.create(udpRecord(i), 0, null, CREATE);
    const { sent, unknown, errors } = await requests.socket.send(batch);
    assert.equal(sent, count);
    if (count === 32) assert.ok(unknown > 0, "some answers were lost");
    assert.equal(errors.length + unknown, count, "each answer either came or is counted");
    assert.ok(errors.every(({ errno }) => errno === EEXIST));
    const places = errors.map(({ index }) => index);
    assert.deepEqual(
      places,
      [...new Set(places)].sort((x, y) => x - y),
      "in order, each once",
    );
  }
  batch.reset();
  batch.delete(udpRecord(1), 0);
  assert.deepEqual(await requests.socket.send(batch), { sent: 1, errors: [], unknown: 0 });
});

test("get gives the flow or null; flush empties the table", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  await createMany(requests.socket, 1, 3);
  const record = udpRecord(2);
  const flow = await requests.socket.get(record, 0);
  assert.ok(flow !== null);
  assert.deepEqual(flow.words.subarray(0, 19), record.subarray(0, 19));
  assert.equal(await requests.socket.get(udpRecord(9), 0), null);
  await requests.socket.flush();
  assert.equal(await requests.socket.get(record, 0), null);
  assert.equal((await requests.socket.dump({}, () => undefined)).count, 0);
});

test("close rejects what is under way and what comes after", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  await createMany(requests.socket, 1, 2000);
  const dump = requests.socket.dump({}, () => undefined);
  const closedDump = assert.rejects(dump, { code: "KERNEL" });
  const get = requests.socket.get(udpRecord(1), 0);
  const closedGet = assert.rejects(get, { code: "KERNEL" });
  requests.socket.close();
  await Promise.all([closedDump, closedGet]);
  await assert.rejects(requests.socket.flush(), { code: "KERNEL" });
  await assert.rejects(
    requests.socket.dump({}, () => undefined),
    { code: "KERNEL" },
  );
});

test("close while a thread of the pool sends: the batch is rejected, and the kernel may have done it", {
  skip,
}, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace);
  const batch = new RequestBatch();
  for (let i = 0; i < 256; i++) {
    assert.ok(batch.create(udpRecord(i), 0, null, { timeoutSeconds: 60, liberal: false }));
  }
  const sent = assert.rejects(requests.socket.send(batch), { code: "KERNEL" });
  // Sent in the microtask that the socket's queue takes.
  await Promise.resolve();
  requests.socket.close();
  await sent;
  using others = new Requests(namespace);
  await createMany(others.socket, 1000, 1300);
  // The thread may be at it still.
  let count = 0;
  const { count: all } = await others.socket.dump({}, ({ words }) => {
    if ((words[W_ORIG_SRC]! & 0xffffff) >= 1000) count++;
  });
  assert.equal(count, 301, "another socket is not disturbed");
  assert.ok(all - count <= 256);
});

test("a silent kernel is a TIMEOUT", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  using requests = new Requests(namespace, { timeoutMs: 1 });
  const batch = new RequestBatch(4 << 20);
  for (let i = 1; i <= 3000; i++) batch.create(udpRecord(i), 0, null, CREATE);
  // Timers come next after this phase of the event loop, and answers are read after them: until then the kernel is silent.
  await new Promise(setImmediate);
  const timedOut = assert.rejects(requests.socket.send(batch), { code: "TIMEOUT" });
  // Sent in the microtask that the socket's queue takes.
  await Promise.resolve();
  const sentMs = performance.now();
  while (performance.now() - sentMs < 5);
  await timedOut;
  batch.reset();
  assert.equal((await requests.socket.send(batch)).sent, 0, "the socket goes on");
});

test("without CAP_NET_ADMIN a request fails with PERMISSION", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  const module = new URL("../../src/ctnetlink/request-socket.js", import.meta.url).href;
  const refusal = await namespace.refusal(module, "await new module.RequestSocket().dump({}, () => undefined)");
  assert.match(refusal, /^PERMISSION .*CAP_NET_ADMIN/);
});

/** Creates flows `first` to `last` in batches. */
async function createMany(requests: RequestSocket, first: number, last: number): Promise<void> {
  const batch = new RequestBatch();
  for (let i = first; i <= last; i++) {
    batch.create(udpRecord(i), 0, null, CREATE);
    if (batch.count < BATCH_MESSAGES && i < last) continue;
    assert.deepEqual(await requests.send(batch), { sent: batch.count, errors: [], unknown: 0 });
    batch.reset();
  }
}
