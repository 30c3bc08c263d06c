import { setTimeout as delay } from "node:timers/promises";
import type {
  CommitReport,
  ExpectationView,
  FlowTableName,
  RehearsalReport,
  StatsReport,
  StatusReport,
} from "../../src/control/protocol.js";
import type { ControlHandlers } from "../../src/control/server.js";
import {
  AF_INET,
  HAS_ID,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMEOUT,
  RECORD_WORDS,
  W_CREATED,
  W_HAS,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
} from "../../src/flow/record.js";

/** A status with a peer that is there and one that is not. */
export const STATUS: StatusReport = {
  node: "fw1",
  cluster: "edge",
  role: "primary",
  epoch: 12,
  inSync: false,
  reason: null,
  warnings: [],
  kernel: { entries: 3, max: 262_144 },
  internal: { flows: 3 },
  external: { flows: 2 },
  format: { writes: 1, reads: [1], reason: null },
  broker: { mode: "embedded", state: "up", url: "nats://10.77.0.1:4222", version: "2.9.10", restarts: 2 },
  publisher: { state: "live", confirmedNumber: 7, unconfirmed: 1 },
  peers: [
    {
      node: "fw2",
      address: "10.77.0.2",
      discovered: false,
      connected: true,
      inSync: true,
      reason: null,
      role: "backup",
      cluster: "edge",
      formatVersion: 1,
      formatsRead: [1],
      clockOffsetMs: 2,
      couldTakeOver: true,
      lagEvents: 0,
      lagMs: 1.2,
      lastHeardMs: 300,
      epoch: 5,
      flows: 2,
    },
    {
      node: "fw3",
      address: "10.77.0.3",
      discovered: true,
      connected: false,
      inSync: false,
      reason: "its broker at 10.77.0.3 does not answer",
      role: null,
      cluster: null,
      formatVersion: null,
      formatsRead: null,
      clockOffsetMs: null,
      couldTakeOver: null,
      lagEvents: null,
      lagMs: null,
      lastHeardMs: null,
      epoch: null,
      flows: 0,
    },
  ],
  streams: [
    { node: "fw1", messages: 120, bytes: 3_145_728, sinceMs: Date.UTC(2026, 0, 31, 12), cut: 0 },
    { node: "fw2", messages: 0, bytes: 0, sinceMs: null, cut: 40 },
  ],
  archive: { untilMs: Date.UTC(2026, 0, 31, 11, 30), daysCut: 2 },
};

export const STATS: StatsReport = {
  internal: { active: 3, created: 10, createFailed: 1, updated: 20, updateFailed: 0, destroyed: 7, destroyFailed: 0 },
  external: { active: 2 },
  link: { bytesSent: 100, bytesReceived: 200 },
  messages: { lost: 4 },
};

export const COMMIT: CommitReport = {
  committed: 5,
  updated: 1,
  skipped: 0,
  failed: { ENOENT: 2 },
  stale: 1,
  durationMs: 12.3,
};

/** A backup that lacks a flow, and one that does not answer. */
export const REHEARSAL: RehearsalReport = {
  ...{ node: "fw1", flows: 3, filtered: 1, loses: true, durationMs: 12 },
  peers: [
    {
      ...{ node: "fw2", error: null, checked: 3, missing: 1, differing: 0, withoutHelper: 0, overLimit: 0 },
      examples: { missing: ["udp 17 29 src=10.0.0.1"], differing: [], withoutHelper: [] },
    },
    {
      ...{ node: "fw3", error: "its broker is away", checked: 0, missing: 0, differing: 0, withoutHelper: 0 },
      ...{ overLimit: 0, examples: { missing: [], differing: [], withoutHelper: [] } },
    },
  ],
};

/** An established TCP flow behind source NAT whose mark is `mark`; the one of conntrackd's manual. */
export function sampleRecord(mark: number, ageSeconds = 46): Uint32Array {
  const words = new Uint32Array(RECORD_WORDS);
  words[W_ORIG_SRC] = 0x0a00000a;
  words[W_ORIG_DST] = 0xc0a8ff21;
  words[W_REPLY_SRC] = 0xc0a8ff21;
  words[W_REPLY_DST] = 0xc0a8fffa;
  words[W_ORIG_L4] = (48070 << 16) | 22;
  words[W_REPLY_L4] = (22 << 16) | 48070;
  words[W_PROTO] = (AF_INET << 8) | 6;
  words[W_STATUS] = 0x0e;
  words[W_TIMEOUT] = 100;
  words[W_MARK] = mark;
  words[W_PROTOINFO] = 3;
  words[W_CREATED] = Math.floor(Date.now() / 1000) - ageSeconds;
  words[W_HAS] = HAS_STATUS | HAS_TIMEOUT | HAS_MARK | HAS_ID | HAS_PROTOINFO | HAS_REPLY;
  return words;
}

/** One that a helper made: an active FTP transfer through a source NAT. */
export function sampleExpectation(table: FlowTableName, number: number): ExpectationView {
  return {
    family: "ipv4",
    protocol: "tcp",
    tuple: { src: "198.51.100.7", dst: "203.0.113.1", sport: 0, dport: 50_000 + number },
    mask: { src: "255.255.255.255", dst: "255.255.255.255", sport: 0, dport: 65_535 },
    master: { family: "ipv4", protocol: "tcp", src: "10.0.0.12", dst: "198.51.100.7", sport: 40_000, dport: 21 },
    timeoutSeconds: 300,
    class: 0,
    helper: "ftp",
    ...(table === "kernel" ? {} : { activeSeconds: 5 }),
    ...(table === "external" ? { node: "fw2" } : {}),
  };
}

/** A daemon that has nothing behind it: it knows `flows` flows, and answers everything else from the constants above. */
export class FakeHandlers implements ControlHandlers {
  readonly calls: string[] = [];
  flows = 3;
  expected = 2;
  /** Flows handed out by dumps so far. */
  dumped = 0;
  dumpsStopped = 0;
  commitMs = 0;
  failure: Error | null = null;

  status(): StatusReport {
    this.#call("status");
    return STATUS;
  }

  stats(): StatsReport {
    this.#call("stats");
    return STATS;
  }

  async dump(...[table, sink, signal, replicated]: Parameters<ControlHandlers["dump"]>): Promise<void> {
    this.#call(`dump ${table}${replicated === true ? " replicated" : ""}`);
    const counters = replicated === true ? Float64Array.of(1, 60, 2, 90) : undefined;
    const words = sampleRecord(0);
    try {
      for (let i = 0; i < this.flows; i++) {
        words[W_MARK] = i;
        this.dumped++;
        if (!sink.write(words, 0, i === 1 ? { helper: "ftp" } : null, counters)) await sink.drain();
        signal.throwIfAborted();
      }
    } catch (error) {
      this.dumpsStopped++;
      throw error;
    }
  }

  async expectations(table: Parameters<ControlHandlers["expectations"]>[0]): Promise<ExpectationView[]> {
    this.#call(`expectations ${table}`);
    return Array.from({ length: this.expected }, (_, i) => sampleExpectation(table, i));
  }

  async commit(...[progress, only]: Parameters<ControlHandlers["commit"]>): Promise<CommitReport> {
    this.#call(["commit", only].join(" ").trim());
    progress("half done");
    await delay(this.commitMs);
    this.calls.push("committed");
    return COMMIT;
  }

  async flush(...[table, only]: Parameters<ControlHandlers["flush"]>): ReturnType<ControlHandlers["flush"]> {
    this.#call(["flush", table, only].join(" ").trim());
    const caches = table === "caches";
    return {
      internal: caches || table === "internal" ? 3 : null,
      external: caches || table === "external" ? 2 : null,
      kernel: table === "kernel" ? 9 : null,
    };
  }

  async resync(...[source, , wait]: Parameters<ControlHandlers["resync"]>): ReturnType<ControlHandlers["resync"]> {
    this.#call(`resync ${source}${wait === false ? " begun" : ""}`);
    return { source, flows: 4, changed: 1, durationMs: 3 };
  }

  async bulk(...[, wait]: Parameters<ControlHandlers["bulk"]>): ReturnType<ControlHandlers["bulk"]> {
    this.#call(`bulk${wait === false ? " begun" : ""}`);
    return { flows: 4, durationMs: 2 };
  }

  purge(): { afterSeconds: number } {
    this.#call("purge");
    return { afterSeconds: 60 };
  }

  async rehearse(): Promise<RehearsalReport> {
    this.#call("rehearse");
    return REHEARSAL;
  }

  stop(): void {
    this.#call("stop");
  }

  async reload(): ReturnType<ControlHandlers["reload"]> {
    this.calls.push("reload");
    return { applied: ["filter.protocols"], restart: [], failed: [] };
  }

  async rekey(): ReturnType<ControlHandlers["rekey"]> {
    this.calls.push("rekey");
    return { keys: null };
  }

  async hook(role: Parameters<ControlHandlers["hook"]>[0]): ReturnType<ControlHandlers["hook"]> {
    this.#call(`hook ${role}`);
    return { role, previous: "backup", commit: role === "primary" ? COMMIT : null, durationMs: 4 };
  }

  #call(what: string): void {
    this.calls.push(what);
    if (this.failure !== null) throw this.failure;
  }
}
