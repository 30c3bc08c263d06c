import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { request, requestDump, requestReport } from "../../src/control/client.js";
import { decodeJson, type Frame, FrameDecoder, REQUEST_BYTES_MAX } from "../../src/control/protocol.js";
import { type ControlLimits, type ControlServer, serveControl } from "../../src/control/server.js";
import { ConntrailError } from "../../src/errors.js";
import { RECORD_WORDS, W_MARK } from "../../src/flow/record.js";
import { COMMIT, FakeHandlers, STATS, STATUS } from "../support/control-handlers.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-control-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));
let places = 0;

/** A path that no other test uses, in a directory that is not there yet. */
function newPath(): string {
  return join(directory, String(places++), "control.sock");
}

/** A server that is closed with the test. */
class Serving implements AsyncDisposable {
  readonly handlers = new FakeHandlers();
  server!: ControlServer;

  static async at(path: string, limits: Partial<ControlLimits> = {}): Promise<Serving> {
    const serving = new Serving();
    serving.server = await serveControl(path, serving.handlers, { limits });
    return serving;
  }

  get path(): string {
    return this.server.path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close(200);
  }
}

async function waitFor(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!condition()) {
    assert.ok(Date.now() < deadline, `not in time: ${what}`);
    await delay(5);
  }
}

/** Connects, sends `text` as it is, and gives the frames of the answer until the server closes. */
async function raw(path: string, text: string): Promise<Frame[]> {
  const socket = createConnection(path);
  await once(socket, "connect");
  socket.on("error", () => {});
  socket.write(text);
  return readAll(socket);
}

async function readAll(socket: Socket): Promise<Frame[]> {
  const decoder = new FrameDecoder();
  const frames: Frame[] = [];
  for await (const chunk of socket) frames.push(...decoder.push(chunk as Buffer));
  assert.ok(decoder.atBoundary);
  return frames;
}

async function countFlows(path: string): Promise<number> {
  let flows = 0;
  for await (const batch of requestDump(path, "internal")) flows += batch.words.length / RECORD_WORDS;
  return flows;
}

test("the socket is for root alone, its directory for all to see, and both are gone or left as they should be", async () => {
  const path = newPath();
  {
    await using serving = await Serving.at(path);
    assert.equal(serving.path, path);
    assert.equal(statSync(path).mode & 0o7777, 0o600);
    assert.equal(statSync(join(path, "..")).mode & 0o7777, 0o755);
    assert.deepEqual(readdirSync(join(path, "..")), ["control.sock"]);
  }
  assert.ok(!existsSync(path));
});

test("every command reaches its handler and brings its report", async () => {
  await using serving = await Serving.at(newPath());
  const { path, handlers } = serving;
  const said: string[] = [];
  assert.deepEqual(await requestReport(path, "status", {}), STATUS);
  assert.deepEqual(await requestReport(path, "stats", {}), STATS);
  assert.deepEqual(await requestReport(path, "commit", {}, { onProgress: (text) => said.push(text) }), COMMIT);
  assert.deepEqual(said, ["half done"]);
  assert.deepEqual(await requestReport(path, "flush", { table: "caches" }), { internal: 3, external: 2, kernel: null });
  assert.deepEqual(await requestReport(path, "resync", { source: "peers" }), {
    source: "peers",
    flows: 4,
    changed: 1,
    durationMs: 3,
  });
  assert.deepEqual(await requestReport(path, "bulk", {}), { flows: 4, durationMs: 2 });
  assert.deepEqual(await requestReport(path, "purge", {}), { afterSeconds: 60 });
  assert.equal((await requestReport(path, "hook", { role: "primary" })).role, "primary");
  assert.deepEqual(handlers.calls, [
    "status",
    "stats",
    "commit",
    "committed",
    "flush caches",
    "resync peers",
    "bulk",
    "purge",
    "hook primary",
  ]);
});

test("a dump brings every flow once, with its rare attributes", async () => {
  await using serving = await Serving.at(newPath());
  for (const flows of [0, 1, 2048, 2049, 10_000]) {
    serving.handlers.flows = flows;
    const marks = new Set<number>();
    const helpers: [number, string | undefined][] = [];
    for await (const { words, rare } of requestDump(serving.path, "external")) {
      for (let base = 0; base < words.length; base += RECORD_WORDS) marks.add(words[base + W_MARK]!);
      for (const [index, { helper }] of rare) helpers.push([words[index * RECORD_WORDS + W_MARK]!, helper]);
    }
    assert.equal(marks.size, flows);
    assert.deepEqual(helpers, flows > 1 ? [[1, "ftp"]] : []);
  }
});

test("many ask at once", async () => {
  await using serving = await Serving.at(newPath());
  serving.handlers.flows = 5000;
  const dumps = Array.from({ length: 8 }, () => countFlows(serving.path));
  const states = Array.from({ length: 20 }, () => requestReport(serving.path, "status", {}));
  assert.deepEqual(await Promise.all(dumps), Array(8).fill(5000));
  for (const status of await Promise.all(states)) assert.deepEqual(status, STATUS);
});

test("a handler's error arrives with code and message; the server goes on", async () => {
  await using serving = await Serving.at(newPath());
  serving.handlers.failure = new ConntrailError("BROKER", "the broker is away: start it");
  await assert.rejects(requestReport(serving.path, "bulk", {}), {
    code: "BROKER",
    message: "the broker is away: start it",
  });
  await assert.rejects(countFlows(serving.path), { code: "BROKER" });
  serving.handlers.failure = new TypeError("x is undefined");
  await assert.rejects(requestReport(serving.path, "status", {}), { code: "CONTROL", message: "x is undefined" });
  serving.handlers.failure = null;
  assert.deepEqual(await requestReport(serving.path, "status", {}), STATUS);
  assert.equal(serving.server.counters.failed, 3);
});

test("what is not a request is answered, counted and survived", async () => {
  await using serving = await Serving.at(newPath());
  const { path, server } = serving;
  for (const text of [
    "hello\n",
    "\n",
    '{"command":"reboot","version":1}\n',
    '{"command":"status","version":9}\n',
    "\xff\0\n",
  ]) {
    const frames = await raw(path, text);
    assert.deepEqual(
      frames.map(({ type }) => type),
      ["X"],
    );
    assert.equal((decodeJson(frames[0]!.payload) as { code: string }).code, "MALFORMED");
  }
  assert.equal(server.counters.malformed, 5);
  assert.deepEqual(serving.handlers.calls, []);
  assert.deepEqual(await requestReport(path, "status", {}), STATUS);
});

test("a request in pieces is put together, what follows it is ignored", async () => {
  await using serving = await Serving.at(newPath());
  const socket = createConnection(serving.path);
  for (const piece of ['{"comma', 'nd":"sta', 'tus","version":1}', "\nmore\n"]) {
    socket.write(piece);
    await delay(5);
  }
  assert.deepEqual(
    (await readAll(socket)).map(({ type }) => type),
    ["J", "E"],
  );
});

test("half a request is given up after a time", async () => {
  await using serving = await Serving.at(newPath(), { requestTimeoutMs: 50 });
  const frames = await raw(serving.path, '{"command":');
  assert.equal((decodeJson(frames[0]!.payload) as { code: string }).code, "TIMEOUT");
  assert.equal(serving.server.counters.timedOut, 1);
  assert.deepEqual(serving.handlers.calls, []);
});

test("half a request is given up when its client goes", async () => {
  await using serving = await Serving.at(newPath());
  const socket = createConnection(serving.path);
  await once(socket, "connect");
  socket.write('{"command":');
  socket.destroy();
  await waitFor("count of the client that left", () => serving.server.counters.aborted === 1);
  assert.deepEqual(serving.handlers.calls, []);
});

test("a request that is too long is refused before it is read whole", async () => {
  await using serving = await Serving.at(newPath());
  const frames = await raw(serving.path, "x".repeat(REQUEST_BYTES_MAX + 1));
  assert.match((decodeJson(frames[0]!.payload) as { message: string }).message, /longer than 65536 bytes/);
  assert.equal(serving.server.counters.oversized, 1);
  assert.deepEqual(await requestReport(serving.path, "status", {}), STATUS);
});

test("a client that stops reading stops the dump, at a bounded cost in memory, and nobody else", async () => {
  await using serving = await Serving.at(newPath(), { heartbeatMs: 5 });
  const { handlers, path } = serving;
  handlers.flows = 2_000_000;
  const socket = createConnection(path);
  await once(socket, "connect");
  const before = process.memoryUsage();
  socket.pause();
  socket.write('{"command":"dump","args":{"table":"internal"},"version":1}\n');
  await waitFor("first flows", () => handlers.dumped > 0);
  let seen = -1;
  await waitFor("standstill", () => {
    const still = seen === handlers.dumped;
    seen = handlers.dumped;
    return still;
  });
  await delay(100);
  assert.ok(handlers.dumped < 20_000, `${handlers.dumped} flows written for nobody`);
  const now = process.memoryUsage();
  assert.ok(now.external + now.arrayBuffers - before.external - before.arrayBuffers < 16e6, "memory grows");
  assert.deepEqual(await requestReport(path, "status", {}), STATUS);
  socket.destroy();
  await waitFor("end of the dump", () => handlers.dumpsStopped === 1);
});

test("a client that never reads on is given up", async () => {
  await using serving = await Serving.at(newPath(), { stallTimeoutMs: 50 });
  serving.handlers.flows = 100_000;
  const socket = createConnection(serving.path);
  await once(socket, "connect");
  socket.on("error", () => {});
  socket.pause();
  socket.write('{"command":"dump","args":{"table":"internal"},"version":1}\n');
  await waitFor("count", () => serving.server.counters.stalled === 1);
  await waitFor("end of the dump", () => serving.handlers.dumpsStopped === 1);
  socket.destroy();
});

test("a client that reads slowly still gets everything", async () => {
  await using serving = await Serving.at(newPath(), { requestTimeoutMs: 500 });
  serving.handlers.flows = 10_000;
  let flows = 0;
  for await (const batch of requestDump(serving.path, "internal")) {
    await delay(300);
    flows += batch.words.length / RECORD_WORDS;
  }
  assert.equal(flows, 10_000);
});

test("a client that goes during a commit does not stop the commit", async () => {
  await using serving = await Serving.at(newPath());
  serving.handlers.commitMs = 1000;
  const abort = new AbortController();
  const answer = requestReport(serving.path, "commit", {}, { signal: abort.signal, onProgress: () => abort.abort() });
  await assert.rejects(answer, { code: "CONTROL", message: "interrupted" });
  await waitFor("commit", () => serving.handlers.calls.includes("committed"));
  await waitFor("count", () => serving.server.counters.aborted === 1);
});

test("leaving a dump early ends it", async () => {
  await using serving = await Serving.at(newPath());
  serving.handlers.flows = 1_000_000;
  for await (const _ of requestDump(serving.path, "kernel")) break;
  await waitFor("end of the dump", () => serving.handlers.dumpsStopped === 1);
});

test("a daemon that is silent is told from one that is busy", async () => {
  await using serving = await Serving.at(newPath(), { heartbeatMs: 10 });
  serving.handlers.commitMs = 300;
  assert.deepEqual(await requestReport(serving.path, "commit", {}, { silenceMsMax: 150 }), COMMIT);
  const held = requestReport(serving.path, "commit", {}, { silenceMsMax: 150, onProgress: standStill });
  assert.deepEqual(await held, COMMIT, "what was said while this process stood still");
  const mute = createServer(() => {});
  const path = join(directory, "mute.sock");
  await once(mute.listen(path), "listening");
  try {
    await assert.rejects(requestReport(path, "status", {}, { silenceMsMax: 50 }), {
      code: "TIMEOUT",
      message: `the daemon on ${path} has said nothing for 0.05 s: look at its log`,
    });
  } finally {
    mute.close();
  }
});

/** Holds this process up for longer than silence may last. */
function standStill(): void {
  setTimeout(() => {
    const startMs = performance.now();
    while (performance.now() - startMs < 200);
  }, 20);
}

test("an answer that breaks off is an error", async () => {
  const broken = createServer((socket) => socket.end(Buffer.from([0, 1, 0, 0, 0x52, 1, 2, 3])));
  const path = join(directory, "broken.sock");
  await once(broken.listen(path), "listening");
  try {
    await assert.rejects(countFlows(path), {
      code: "CONTROL",
      message: `the daemon on ${path} broke off its answer: look at its log`,
    });
  } finally {
    broken.close();
  }
});

test("connections and dumps are limited, and a status finds room beside dumps", async () => {
  await using serving = await Serving.at(newPath(), { connectionsMax: 3, dumpsMax: 1 });
  serving.handlers.flows = 1_000_000;
  const { path } = serving;
  const dump = request(path, "dump", { table: "internal" });
  await dump.next();
  await assert.rejects(countFlows(path), { code: "CONTROL", message: /answers 1 dumps already/ });
  assert.deepEqual(await requestReport(path, "status", {}), STATUS);
  const idle = [createConnection(path), createConnection(path)];
  await Promise.all(idle.map((socket) => once(socket, "connect")));
  await assert.rejects(requestReport(path, "status", {}), { code: "CONTROL", message: /answers 3 requests already/ });
  for (const socket of idle) socket.destroy();
  await dump.return();
  await waitFor("room", () => serving.server.counters.aborted === 3);
  assert.deepEqual(await requestReport(path, "status", {}), STATUS);
  assert.equal(serving.server.counters.refused, 2);
});

test("nobody there is said in one line", async () => {
  const path = newPath();
  await assert.rejects(requestReport(path, "status", {}), {
    code: "CONTROL",
    message: `no conntrail daemon answers on ${path}: start it with systemctl start conntrail, or conntrail daemon`,
  });
});

test("a second daemon is refused and does the first no harm", async () => {
  const path = newPath();
  await using serving = await Serving.at(path);
  await assert.rejects(Serving.at(path), {
    code: "ALREADY_RUNNING",
    message: `a daemon answers on ${path} already: stop it first`,
  });
  assert.deepEqual(await requestReport(serving.path, "status", {}), STATUS);
  assert.deepEqual(readdirSync(join(path, "..")), ["control.sock"]);
});

test("the socket of a killed daemon is taken over, by one of several that start together", async () => {
  const path = join(directory, "killed.sock");
  const script = "require('net').createServer().listen(process.argv[1], () => console.log('listening'))";
  const killed = spawn(process.execPath, ["-e", script, path], { stdio: ["ignore", "pipe", "inherit"] });
  await once(killed.stdout, "data");
  killed.kill("SIGKILL");
  await once(killed, "exit");
  assert.ok(existsSync(path));
  const starts = await Promise.allSettled(Array.from({ length: 8 }, () => Serving.at(path)));
  const running = starts.flatMap((start) => (start.status === "fulfilled" ? [start.value] : []));
  assert.equal(running.length, 1);
  for (const start of starts) if (start.status === "rejected") assert.equal(start.reason.code, "ALREADY_RUNNING");
  assert.deepEqual(await requestReport(path, "status", {}), STATUS);
  await running[0]![Symbol.asyncDispose]();
  assert.deepEqual(
    readdirSync(directory).filter((name) => name.startsWith(".") || name === "killed.sock"),
    [],
  );
});

test("a file that is no socket is left alone", async () => {
  const path = join(directory, "precious");
  writeFileSync(path, "precious");
  await assert.rejects(Serving.at(path), {
    code: "CONTROL",
    message: `${path} exists and is not a socket: remove it or set control to another path`,
  });
  assert.equal(statSync(path).size, 8);
  await assert.rejects(Serving.at(join(path, "x.sock")), { code: "CONTROL", message: /cannot be created/ });
});

test("a socket that was replaced meanwhile is not removed at the end", async () => {
  const path = newPath();
  const first = await Serving.at(path);
  rmSync(path);
  await using second = await Serving.at(path);
  await first[Symbol.asyncDispose]();
  assert.deepEqual(await requestReport(second.path, "status", {}), STATUS);
});

test("closing lets a commit finish and stops dumps", async () => {
  const serving = await Serving.at(newPath());
  serving.handlers.commitMs = 50;
  serving.handlers.flows = 1_000_000;
  const commit = requestReport(serving.path, "commit", {});
  const dump = request(serving.path, "dump", { table: "internal" });
  await dump.next();
  await waitFor("commit", () => serving.handlers.calls.includes("commit"));
  await serving.server.close(5000);
  assert.deepEqual(await commit, COMMIT);
  await assert.rejects(async () => {
    for await (const _ of dump);
  });
  assert.ok(!existsSync(serving.path));
});

test("others than root get nothing", { skip: process.getuid?.() === 0 ? false : "needs root" }, async () => {
  await using serving = await Serving.at(newPath());
  chmodSync(directory, 0o755);
  const script = `require("net").createConnection(process.argv[1]).on("connect", () => console.log("connected")).on("error", (e) => console.log(e.code))`;
  const other = spawn(process.execPath, ["-e", script, serving.path], { uid: 65534, gid: 65534, cwd: "/" });
  const [said] = (await once(other.stdout, "data")) as [Buffer];
  assert.equal(said.toString().trim(), "EACCES");
});
