/** What the ends of the traffic know, compared with what the history says. */
import assert from "node:assert/strict";
import { protocolNumber } from "../../../src/flow/protocol.js";
import type { WhoQuestion } from "../../../src/history/connection.js";
import type { ConnectionJson, GapJson } from "../../../src/history/format/connection-json.js";
import type { Answer, WhoReply } from "./asker-protocol.js";
import { COMMIT_TIMEOUT_MS, type Failover, MARKS, type Margins, TIMEOUT_MS } from "./scene.js";
import type { TrafficFlow } from "./traffic-protocol.js";

/** The kernel's timers run by ticks of 4 ms; a time in the stream is cut to the millisecond. */
const TICK_MS = 10;
/** Before a power failure: what of a node's last events may not have left it, at the least. */
const REPLICATION_MS = 250;

/** How much is known of a connection's records. */
export interface Life {
  readonly flow: TrafficFlow;
  /** Records that there must and may be. */
  readonly records: readonly [number, number];
  /** The record's start lies here. */
  readonly start: readonly [number, number];
  /** The record's end lies here; Infinity: open. */
  readonly end: readonly [number, number];
  /** It was begun or ended while the primary changed. */
  readonly crosses: boolean;
  /** The nodes that carried it, in order; null: which of them cannot be told. */
  readonly path: readonly string[] | null;
}

/** The truth of a run. */
export class Truth {
  readonly lives: readonly Life[];
  readonly failovers: readonly Failover[];
  readonly margins: Margins;
  readonly #byTuple = new Map<string, Life[]>();

  constructor(flows: readonly TrafficFlow[], failovers: readonly Failover[], margins: Margins) {
    this.failovers = failovers;
    this.margins = margins;
    const before = new Map<string, TrafficFlow>();
    const after = new Map<TrafficFlow, TrafficFlow>();
    for (const flow of flows) {
      const last = before.get(tupleOf(flow));
      if (last !== undefined) after.set(last, flow);
      before.set(tupleOf(flow), flow);
    }
    this.lives = flows.map((flow) => this.#life(flow, after.get(flow)));
    for (const life of this.lives) {
      const key = tupleOf(life.flow);
      this.#byTuple.set(key, [...(this.#byTuple.get(key) ?? []), life]);
    }
  }

  #life(flow: TrafficFlow, next: TrafficFlow | undefined): Life {
    const { startMs, firstMs, closeMs, lastMs, kind } = flow;
    const timeoutMs = TIMEOUT_MS[kind];
    const { eventMs, sweepMs } = this.margins;
    // A new SYN on the same tuple ends it at once.
    const displacedMs = next?.startMs ?? Number.POSITIVE_INFINITY;
    const earliest = closeMs === null ? Number.POSITIVE_INFINITY : Math.min(closeMs + timeoutMs - TICK_MS, displacedMs);
    const latest =
      lastMs === null
        ? Number.POSITIVE_INFINITY
        : Math.min(lastMs + timeoutMs + sweepMs, next?.firstMs ?? Number.POSITIVE_INFINITY) + eventMs;
    const met = this.failovers.filter((failover) => failover.startMs - eventMs <= latest && startMs <= failover.endMs);
    const carried = met.every(
      (failover) =>
        (firstMs ?? Infinity) + eventMs < failover.startMs && (closeMs ?? Infinity) > failover.endMs + eventMs,
    );
    const crosses = met.length > 0 && !carried;
    if (!crosses) {
      const from = met.at(0)?.from ?? this.primaryAt(startMs);
      const path = [from, ...met.map(({ to }) => to)];
      const born = (firstMs ?? startMs) + eventMs;
      const sure = firstMs !== null && flow.error === null;
      return { flow, records: [sure ? 1 : 0, 1], start: [startMs - 1, born], end: [earliest, latest], crosses, path };
    }
    const overMs = Math.max(...met.map(({ endMs }) => endMs));
    // The node that took it over gives it its own time; what came with the change itself may have been lost on the way.
    const end = [
      Math.min(earliest, ...met.map((f) => f.startMs)),
      Math.max(latest, overMs + COMMIT_TIMEOUT_MS + sweepMs + eventMs),
    ] as const;
    const start = [startMs - 1, Math.max(firstMs ?? 0, overMs) + eventMs] as const;
    const lost = met.some(({ startMs: cutMs }) => (firstMs ?? Infinity) + Math.max(REPLICATION_MS, eventMs) > cutMs);
    return { flow, records: [lost ? 0 : 1, 2], start, end, crosses, path: null };
  }

  /** The primary at a time that is within no failover. */
  primaryAt(ms: number): string {
    return this.failovers.findLast(({ startMs }) => startMs <= ms)?.to ?? this.failovers[0]!.from;
  }

  /** Each record of an answer over the whole run and the life that it is of. Throws where one agrees with none, or a life has too few or many. */
  match(answer: Answer): Map<string, Life> {
    const { lives, problems } = this.compare(answer);
    assert.deepEqual(
      problems.map(({ text }) => text),
      [],
    );
    return lives;
  }

  /** As `match`; what does not agree is told, with the life that it is about where there is one. */
  compare({ connections }: Answer): { lives: Map<string, Life>; problems: { life: Life | null; text: string }[] } {
    const lives = new Map<string, Life>();
    const records = new Map<Life, number>();
    const problems: { life: Life | null; text: string }[] = [];
    for (const record of connections) {
      if (lives.has(record.uid)) problems.push({ life: null, text: `not the only one of its uid: ${brief(record)}` });
      const startMs = Date.parse(record.start ?? "");
      const endMs = Date.parse(record.end ?? "") || Number.POSITIVE_INFINITY;
      const begun = this.#byTuple.get(tupleOfRecord(record))?.filter((life) => isWithin(startMs, life.start)) ?? [];
      // Two of one tuple, one after the other, may begin alike and end at different times.
      const life = begun.findLast(({ end }) => isWithin(endMs, end)) ?? begun.at(-1);
      if (life === undefined) {
        const near = this.#byTuple.get(tupleOfRecord(record))?.findLast(({ start: [from] }) => from <= startMs) ?? null;
        problems.push({ life: near, text: `nothing is behind ${brief(record)}, perhaps ${JSON.stringify(near)}` });
        continue;
      }
      lives.set(record.uid, life);
      records.set(life, (records.get(life) ?? 0) + 1);
      for (const text of this.#problems(life, record)) {
        problems.push({ life, text: `${text}: ${brief(record)} of ${JSON.stringify(life)}` });
      }
    }
    for (const life of this.lives) {
      const count = records.get(life) ?? 0;
      const [least, most] = life.records;
      if (count < least || count > most) problems.push({ life, text: `${count} records of ${JSON.stringify(life)}` });
    }
    return { lives, problems };
  }

  *#problems(life: Life, record: ConnectionJson): Iterable<string> {
    const { flow, end, path, crosses } = life;
    const endMs = record.end === undefined ? Number.POSITIVE_INFINITY : Date.parse(record.end);
    if (endMs < end[0] || endMs > end[1]) yield `ended ${endMs} and not in ${end.join(" to ")}`;
    if (record.outcome !== (record.end === undefined ? "open" : "ended") && !crosses) yield `outcome ${record.outcome}`;
    const nodes = record.path.map(({ node }) => node);
    if (path !== null && nodes.join() !== path.join()) yield `path ${nodes.join(", ")} and not ${path.join(", ")}`;
    const order = [this.failovers[0]!.from, ...this.failovers.map(({ to }) => to)];
    if (!order.join().includes(nodes.join())) yield `path ${nodes.join(", ")} is not in order`;
    for (const [i, { node, since }] of record.path.entries()) {
      const sinceMs = Date.parse(since);
      const failover = this.failovers.find(({ to }) => to === node);
      const [from, until] = i === 0 || failover === undefined ? startOf(record) : [failover.startMs, failover.endMs];
      // One that began as the primary changed may be known to the new one alone, from its commit on.
      const latest = crosses && failover !== undefined ? Math.max(until, failover.endMs) : until;
      if (sinceMs < from || sinceMs > latest + this.margins.eventMs) yield `came to ${node} at ${since}`;
    }
    if (flow.public !== null && life.records[0] > 0 && !samePublic(flow, record)) {
      yield `public ${JSON.stringify(publicOf(record))}`;
    }
    if (crosses) return;
    if ((record.mark ?? 0) !== MARKS[flow.led === null ? flow.protocol : "led"]) yield `mark ${record.mark}`;
    yield* measured(life, record, this.margins);
  }

  /** What the table must and may hold at a time. */
  checkAt(
    timeMs: number,
    { connections }: Answer,
    matched: ReadonlyMap<string, Life>,
  ): { sure: number; possible: number } {
    const problems: string[] = [];
    const seen = new Map<Life, number>();
    for (const record of connections) {
      const life = matched.get(record.uid);
      if (life === undefined) {
        problems.push(`not in the history: ${brief(record)}`);
        continue;
      }
      seen.set(life, (seen.get(life) ?? 0) + 1);
      if (!mayLive(life, timeMs, timeMs)) problems.push(`not alive: ${brief(record)} of ${JSON.stringify(life)}`);
    }
    let sure = 0;
    for (const life of this.lives) {
      const count = seen.get(life) ?? 0;
      if (count > 1) problems.push(`${count} times: ${JSON.stringify(life)}`);
      if (!mustLive(life, timeMs, timeMs)) continue;
      sure++;
      if (count === 0) problems.push(`not told: ${JSON.stringify(life)}`);
    }
    assert.deepEqual(problems, [], `at ${new Date(timeMs).toISOString()}`);
    return { sure, possible: connections.length };
  }

  /** Every second of every life that had a public address, one before and one after. */
  questions(sinceMs: number, untilMs: number): WhoQuestion[] {
    const questions = new Map<string, WhoQuestion>();
    for (const { flow, start, end } of this.lives) {
      if (flow.public === null) continue;
      const last = Math.min(untilMs, end[1] + 1000);
      for (let second = Math.max(sinceMs, Math.floor(start[0] / 1000) * 1000 - 1000); second <= last; second += 1000) {
        const { address, port } = flow.public;
        const protocol = protocolNumber(flow.protocol) ?? 0;
        const question = { address, port, protocol, sinceMs: second, untilMs: second + 999 };
        questions.set(JSON.stringify(question), question);
      }
    }
    return [...questions.values()];
  }

  checkWho(question: WhoQuestion, { inside }: WhoReply): "sure" | "nobody" | "edge" {
    const { address, port, protocol, sinceMs, untilMs } = question;
    const lives = this.lives.filter(
      ({ flow }) =>
        flow.public?.address === address && flow.public.port === port && protocolNumber(flow.protocol) === protocol,
    );
    const nameOf = ({ flow }: Life): string => {
      const { address: host, port: at } = flow.led ?? flow.inside;
      return `${host} ${at}`;
    };
    const must = new Set(lives.filter((life) => mustLive(life, sinceMs, untilMs)).map(nameOf));
    // Of a ping whose two requests went through two nodes, the server tells one id.
    const isEither = ({ flow, crosses }: Life): boolean =>
      crosses && flow.kind === "icmp" && flow.inside.port === port && protocolNumber(flow.protocol) === protocol;
    const possible = this.lives.filter((life) => lives.includes(life) || isEither(life));
    const may = possible.filter((life) => mayLive(life, sinceMs, untilMs)).map(nameOf);
    const what = `who ${JSON.stringify(question)}: ${inside.join(", ")} of ${JSON.stringify(lives)}`;
    for (const name of must) assert.ok(inside.includes(name), `missing ${name}, ${what}`);
    for (const name of inside) assert.ok(may.includes(name), `wrong, ${what}`);
    if (must.size > 0) return "sure";
    return may.length === 0 ? "nobody" : "edge";
  }
}

/** True when a gap touches the life of a connection. */
export function touches({ from, until }: GapJson, { start, end }: Life, eventMs: number): boolean {
  const fromMs = from === undefined ? 0 : Date.parse(from);
  const untilMs = until === undefined ? Number.POSITIVE_INFINITY : Date.parse(until);
  return start[0] - eventMs <= untilMs && end[1] + eventMs >= fromMs;
}

function isWithin(ms: number, [from, until]: readonly [number, number]): boolean {
  return from <= ms && ms <= until;
}

/** Alive at some time of [from, until] for certain. */
function mustLive({ records, start, end, crosses }: Life, from: number, until: number): boolean {
  return records[0] === 1 && !crosses && start[1] < until && end[0] > from;
}

function mayLive({ start, end }: Life, from: number, until: number): boolean {
  return start[0] <= until && end[1] >= from;
}

/** The first node has it from its start on. */
function startOf({ start = "" }: ConnectionJson): [number, number] {
  return [Date.parse(start), Date.parse(start)];
}

/** Counters and times where the kernel took them, and only there. fw2 takes none. */
function* measured({ flow, path }: Life, record: ConnectionJson, { sentAgain }: Margins): Iterable<string> {
  const { counters, timedByKernel } = record;
  if (record.outcome === "open") {
    if (counters !== undefined || timedByKernel) yield "measured while open";
    return;
  }
  const measures = path!.at(-1) !== "fw2";
  if ((counters !== undefined) !== measures || timedByKernel !== measures) yield "measured on the wrong node";
  if (counters === undefined || flow.error !== null) return;
  const six = flow.inside.address.includes(":");
  const { orig, reply } = counters;
  if (path!.length > 1) {
    // Counted since the takeover.
    if (flow.kind === "udp" && orig.packets >= flow.packetsSent) yield "more packets than since the takeover";
    return;
  }
  if (flow.protocol === "tcp") {
    // SYN 60 or 80 bytes of headers, any other packet 52 or 72 for the time stamps; a RST has none of those.
    const header = six ? 72 : 52;
    const most = (packets: number): number => packets * header + 8;
    for (const [bytes, packets, payload] of [
      [orig.bytes, orig.packets, flow.bytesSent],
      [reply.bytes, reply.packets, flow.bytesReceived],
    ] as const) {
      // What was late to be acknowledged was sent twice, and is counted twice.
      const twice = sentAgain ? payload : 0;
      if (bytes - payload > most(packets) + twice || bytes - payload < most(packets) - 24)
        yield `${bytes} bytes in ${packets} packets for ${payload}`;
    }
    return;
  }
  const header = flow.kind === "udp" ? (six ? 48 : 28) : six ? 48 : 28;
  const size =
    flow.kind === "udp"
      ? [flow.bytesSent, flow.bytesReceived]
      : [flow.bytesSent * flow.packetsSent, flow.bytesSent * flow.packetsReceived];
  if (orig.packets !== flow.packetsSent || orig.bytes !== size[0]! + header * flow.packetsSent)
    yield "packets or bytes of the original direction";
  if (reply.packets !== flow.packetsReceived || reply.bytes !== size[1]! + header * flow.packetsReceived)
    yield "packets or bytes of the reply";
}

function publicOf({ reply, protocol }: ConnectionJson): { address: string; port: number } {
  const port = protocol.startsWith("icmp") ? reply?.icmpId : reply?.dport;
  return { address: reply?.dst ?? "", port: port ?? 0 };
}

function samePublic(flow: TrafficFlow, record: ConnectionJson): boolean {
  const { led } = flow;
  if (led !== null) return record.reply?.src === led.address && record.reply.sport === led.port;
  const { address, port } = publicOf(record);
  return flow.public?.address === address && flow.public.port === port;
}

function tupleOf({ protocol, inside, remote }: TrafficFlow): string {
  return [protocol, inside.address, inside.port, remote.address, remote.port].join(" ");
}

function tupleOfRecord({ protocol, orig }: ConnectionJson): string {
  const [from, to] = protocol.startsWith("icmp") ? [orig.icmpId, 0] : [orig.sport, orig.dport];
  return [protocol, orig.src, from, orig.dst, to].join(" ");
}

function brief(record: ConnectionJson): string {
  const { uid, start, end, outcome, path, reply, counters, mayMiss } = record;
  return JSON.stringify({ uid, tuple: tupleOfRecord(record), reply, start, end, outcome, path, counters, mayMiss });
}
