/**
 * The connection history over a large store: messages as the journal writes them under load (a thousand rows each, snapshots between
 * them by the journal's rule), of a firewall that fails over to another half way, in a real nats-server.
 */
import { pino } from "pino";
import { stampMs, stampOfMs } from "../../src/flow/clock.js";
import type { FlowQuery } from "../../src/flow/filter.js";
import {
  AF_INET,
  HAS_COUNTERS,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  HAS_TIMES,
  RECORD_WORDS,
  W_CREATED,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_PROTOINFO_B,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
} from "../../src/flow/record.js";
import type { HistoryAnswer } from "../../src/history/connection.js";
import { History } from "../../src/history/scan/history.js";
import { brokerStreams } from "../../src/history/scan/streams.js";
import { BatchEncoder } from "../../src/stream/format/batch.js";
import { type Mark, MarkCodec } from "../../src/stream/format/mark.js";
import type { Publisher } from "../../src/stream/publisher.js";
import { snapshotDueBytes } from "../../src/sync/out/journal.js";
import { startNatsServer, type TestNatsServer } from "../support/nats-server.js";
import { type CommandCost, historyCommand } from "./history-command.js";
import { connect, startPublisher } from "./stream.js";

const log = pino({ level: "silent" });
const STORE_BYTES_MAX = 10 * 1024 ** 3;
const FLOWS = 100_000;
const ROWS = 1000;
const INTERVAL_MS = 20;
const CHUNK_ROWS = 1024;
const BEGIN_MS = 1_700_000_000_000;
const PUBLIC = 0xc6336401;
const runsOfWho = 30;

/** Writes `events` events, `rows` a message, and measures filtered scans over all of them. */
export async function benchHistory(events: number, rows = ROWS): Promise<void> {
  await using server = await startNatsServer({ maxFileStore: 3 * STORE_BYTES_MAX });
  const written = await writeStore(server, events, rows);
  const connection = connect(server, "history");
  const history = await History.open({ streams: brokerStreams(connection, log), nodes: null });
  const everything = { sinceMs: null, untilMs: null, nodes: null, limit: null };
  const filters: Record<string, FlowQuery> = {
    "one host (--src)": { src: "10.0.1.77" },
    "one host (--host)": { host: "10.0.1.77" },
    "a network (--dst 192.0.2.0/30 --proto tcp)": { dst: "192.0.2.0/30", proto: "tcp" },
    "nothing translated": { nat: false },
  };
  for (const [name, filter] of Object.entries(filters)) {
    await scan(name, history.connections({ ...everything, filter }, new AbortController().signal));
  }
  const sinceMs = BEGIN_MS + 0.6 * (written.untilMs - BEGIN_MS);
  const untilMs = sinceMs + 0.05 * (written.untilMs - BEGIN_MS);
  const twentieth = { ...everything, sinceMs, untilMs, filter: {} };
  await scan("everything in a twentieth", history.connections(twentieth, new AbortController().signal));
  await connection.close();
  const range = ["--since", new Date(sinceMs).toISOString(), "--until", new Date(untilMs).toISOString()];
  showCommand("everything in a twentieth", await historyCommand(server, ...range));
  showCommand("everything", await historyCommand(server));
}

/** Writes `events` events and asks at random times who was behind a public port. */
export async function benchWho(events: number): Promise<void> {
  await using server = await startNatsServer({ maxFileStore: 3 * STORE_BYTES_MAX });
  const written = await writeStore(server, events);
  const connection = connect(server, "who");
  const history = await History.open({ streams: brokerStreams(connection, log), nodes: null });
  const times: number[] = [];
  let found = 0;
  for (let run = 0; run < runsOfWho; run++) {
    const timeMs = BEGIN_MS + Math.floor(((run * 0.618034) % 1) * (written.untilMs - BEGIN_MS));
    const question = { address: "198.51.100.1", port: 1024 + ((run * 7919) % 60_000), protocol: 6 };
    const startedMs = performance.now();
    const answer = history.who({ ...question, sinceMs: timeMs, untilMs: timeMs }, new AbortController().signal);
    for await (const batch of answer.connections) found += batch.length;
    times.push(performance.now() - startedMs);
  }
  times.sort((a, b) => a - b);
  const [median, worst] = [times[times.length >> 1]!, times.at(-1)!];
  const rss = Math.round(process.memoryUsage().rss / 1024 / 1024);
  console.log(
    `who: median ${median.toFixed(0)} ms, worst ${worst.toFixed(0)} ms of ${runsOfWho} (goal 1000 ms), ${found} found, RSS ${rss} MiB`,
  );
  await connection.close();
}

async function scan(name: string, answer: HistoryAnswer): Promise<void> {
  const startedMs = performance.now();
  let found = 0;
  let rss = 0;
  for await (const batch of answer.connections) {
    found += batch.length;
    rss = Math.max(rss, process.memoryUsage().rss);
  }
  const seconds = (performance.now() - startedMs) / 1000;
  const { events, messages } = answer.progress();
  const rate = (events / seconds / 1e6).toFixed(2);
  console.log(
    `history: ${name}: ${rate} million events/s (goal 5), ${events} events in ${messages} messages, ${found} connections, ${seconds.toFixed(1)} s, RSS ${Math.round(rss / 2 ** 20)} MiB`,
  );
}

function showCommand(name: string, { lines, ms, peakKib }: CommandCost): void {
  const seconds = (ms / 1000).toFixed(1);
  console.log(
    `history: command, ${name}: ${lines} connections in ${seconds} s, ${Math.round(peakKib / 1024)} MiB (goal 300 MB)`,
  );
}

/** A firewall's stream, from a table of FLOWS flows that change all the time. */
class Writer {
  readonly node: string;
  readonly publisher: Publisher;
  readonly encoder = new BatchEncoder();
  readonly marks = new MarkCodec();
  number = 0;
  timeMs = BEGIN_MS;
  snapshotSequence = 0;
  sequence = 0;
  eventBytes = 0;
  snapshotBytes = 0;

  constructor(node: string, publisher: Publisher) {
    this.node = node;
    this.publisher = publisher;
  }

  envelope() {
    this.sequence++;
    return {
      node: this.node,
      epoch: 1,
      number: ++this.number,
      stamp: stampOfMs(this.timeMs) + (this.number % 4096),
      wallMs: this.timeMs,
    };
  }

  mark(mark: Mark, snapshot = this.snapshotSequence): void {
    const envelope = this.envelope();
    this.publisher.publish("mark", envelope.number, this.marks.encode(envelope, mark, snapshot));
  }

  async send(range: { from: number; to: number } | null): Promise<void> {
    const envelope = this.envelope();
    const payload = this.encoder.encode(envelope, range);
    if (range === null) this.eventBytes += payload.length;
    else this.snapshotBytes += payload.length;
    this.publisher.publish(range === null ? "ev" : "snap", envelope.number, payload);
    if (this.publisher.backlog.bytes > 8 * 1024 * 1024) await this.publisher.flush(60_000);
  }
}

async function writeStore(server: TestNatsServer, events: number, rows = ROWS): Promise<{ untilMs: number }> {
  const startedMs = performance.now();
  const connection = connect(server, "writer");
  await connection.ready(10_000);
  const writers: Writer[] = [];
  for (const node of ["fw1", "fw2", "fw3"]) {
    const publisher = await startPublisher(connection, node, STORE_BYTES_MAX);
    const writer = new Writer(node, publisher);
    writer.mark({ type: "epoch", reason: "bench", previousEpoch: 0, previousNumber: 0 });
    await snapshot(writer, null);
    writers.push(writer);
  }
  const table = new Table();
  const [fw1, fw2] = writers as [Writer, Writer, Writer];
  await run(fw1, table, events / 2, rows);
  fw2.timeMs = fw1.timeMs + 3000;
  await takeOver(fw2, table);
  await run(fw2, table, events / 2, rows);
  for (const { publisher } of writers) {
    await publisher.flush(60_000);
    publisher.close();
  }
  await connection.close();
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(`  ${events} events of ${FLOWS} flows written, ${rows} a message: ${seconds.toFixed(1)} s`);
  return { untilMs: fw2.timeMs };
}

/** Records of the flows that live, by flow id. */
class Table {
  readonly words = new Uint32Array(FLOWS * RECORD_WORDS);
  readonly births = new Float64Array(FLOWS);
  readonly told = new Float64Array(FLOWS);
  opened = 0;

  /** A host inside, translated to a public port. */
  open(flowId: number, timeMs: number): number {
    const base = flowId * RECORD_WORDS;
    const { words } = this;
    const i = this.opened++;
    const source = 0x0a000000 + (i % 5000);
    const port = 1024 + (i % 60_000);
    const publicPort = 1024 + (flowId % 60_000);
    const destination = 0xc0000200 + (i % 256);
    words[base + W_ORIG_SRC] = source;
    words[base + W_ORIG_DST] = destination;
    words[base + W_REPLY_SRC] = destination;
    words[base + W_REPLY_DST] = PUBLIC + Math.floor(flowId / 60_000);
    words[base + W_ORIG_L4] = ((port << 16) | 443) >>> 0;
    words[base + W_REPLY_L4] = ((443 << 16) | publicPort) >>> 0;
    words[base + W_PROTO] = (AF_INET << 8) | 6;
    words[base + W_STATUS] = 0x19e;
    words[base + W_TIMEOUT] = 432_000;
    words[base + W_PROTOINFO] = 3 | (7 << 8) | (7 << 16);
    words[base + W_PROTOINFO_B] = 0x23 | (0x23 << 16);
    words[base + W_CREATED] = Math.floor(timeMs / 1000);
    words[base + W_HAS] = HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_REPLY | HAS_PROTOINFO;
    return base;
  }
}

/** One connection after the other ends and another takes its flow id in the next message; two updates in between. */
async function run(writer: Writer, table: Table, events: number, rows: number): Promise<void> {
  const { encoder } = writer;
  const end = {
    has: HAS_COUNTERS | HAS_TIMES,
    counters: Float64Array.of(12, 3456, 10, 65_432),
    timesMicros: new Float64Array(2),
  };
  let turn = 0;
  let free: number[] = [];
  for (let done = 0; done < events; ) {
    const stamp = stampOfMs(writer.timeMs) + ((writer.number + 1) % 4096);
    const next: number[] = [];
    for (const flowId of free) {
      encoder.addNew(flowId, table.words, table.open(flowId, writer.timeMs), null, null, 0);
      table.births[flowId] = stamp;
      table.told[flowId] = stamp;
    }
    while (encoder.rows < rows) {
      const flowId = turn++ % FLOWS;
      const base = flowId * RECORD_WORDS;
      if (table.births[flowId] === 0) {
        encoder.addNew(flowId, table.words, table.open(flowId, writer.timeMs), null, null, 0);
        table.births[flowId] = stamp;
      } else if (Math.floor(turn / FLOWS) % 3 !== 0) {
        encoder.addUpdate(flowId, table.words, base, null);
      } else {
        end.timesMicros[0] = stampMs(table.births[flowId]!) * 1000;
        end.timesMicros[1] = writer.timeMs * 1000;
        encoder.addDestroy(flowId, table.words, base, end);
        next.push(flowId);
      }
      table.told[flowId] = stamp;
    }
    done += encoder.rows;
    free = next;
    await writer.send(null);
    writer.timeMs += INTERVAL_MS;
    if (writer.eventBytes > snapshotDueBytes(writer.snapshotBytes)) await snapshot(writer, table, free);
  }
  for (const flowId of free) table.births[flowId] = 0;
}

async function takeOver(writer: Writer, table: Table): Promise<void> {
  for (let flowId = 0; flowId < FLOWS; flowId++) {
    if (table.births[flowId] === 0) continue;
    writer.encoder.addNew(flowId, table.words, flowId * RECORD_WORDS, null, null, table.births[flowId]!);
    table.told[flowId] = stampOfMs(writer.timeMs);
    if (writer.encoder.rows === 2048) await writer.send(null);
  }
  await writer.send(null);
  writer.mark({ type: "commit", committed: FLOWS, updated: 0, failed: 0, stale: 0, durationMs: 1 });
}

async function snapshot(writer: Writer, table: Table | null, free: readonly number[] = []): Promise<void> {
  const gone = new Set(free);
  writer.eventBytes = 0;
  writer.snapshotBytes = 0;
  const id = writer.timeMs;
  writer.mark({ type: "snapshot-begin", id, flows: FLOWS });
  const begin = writer.sequence;
  for (let from = 0; from < FLOWS; from += CHUNK_ROWS) {
    const to = from + CHUNK_ROWS >= FLOWS ? 0xffffffff : from + CHUNK_ROWS;
    for (let flowId = from; table !== null && flowId < Math.min(to, FLOWS); flowId++) {
      if (table.births[flowId] === 0 || gone.has(flowId)) continue;
      const stated = { stamp: table.told[flowId]! };
      writer.encoder.addNew(flowId, table.words, flowId * RECORD_WORDS, null, stated, table.births[flowId]!);
    }
    await writer.send({ from, to });
  }
  writer.mark({ type: "snapshot-end", id, flows: FLOWS }, begin);
  writer.snapshotSequence = begin;
}
