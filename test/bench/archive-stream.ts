/** A firewall's stream as a file: for a process that only archives, so that neither a broker nor made-up data is counted in it. */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { stampOfMs } from "../../src/flow/clock.js";
import {
  AF_INET,
  HAS_COUNTERS,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  HAS_TIMES,
  RECORD_WORDS,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
} from "../../src/flow/record.js";
import type { HistoryStreams } from "../../src/history/scan/streams.js";
import { BatchEncoder } from "../../src/stream/format/batch.js";
import { MarkCodec } from "../../src/stream/format/mark.js";
import type { StoredMessage } from "../../src/stream/own-stream.js";
import type { ReaderItem } from "../../src/stream/reader.js";

const NODE = "fw1";
const BEGIN_MS = Date.parse("2026-01-31T00:00:00Z");
const INSIDE = 0x0a000000;
const OUTSIDE = 0xc6336400;
const PUBLIC = 0xcb007101;
/** Connections that begin in a message; those of some messages before end in it. */
const PER_MESSAGE = 500;
const MESSAGES_OPEN = 20;
const INTERVAL_MS = 2;
const LENGTH_BYTES = 4;
const PIECE_BYTES = 1024 * 1024;

/** A host behind a translated address: the record of connection number `i`. */
export function fillRecord(words: Uint32Array, i: number): void {
  words[W_PROTO] = (AF_INET << 8) | 6;
  words[W_ORIG_SRC] = INSIDE + (i % 5000);
  words[W_ORIG_DST] = OUTSIDE + ((i * 31) % 20_000);
  words[W_REPLY_SRC] = words[W_ORIG_DST]!;
  words[W_REPLY_DST] = PUBLIC + (Math.floor(i / 60_000) % 16);
  words[W_ORIG_L4] = ((1024 + (i % 60_000)) << 16) | 443;
  words[W_REPLY_L4] = (443 << 16) | (1024 + ((i * 7919) % 60_000));
  words[W_STATUS] = 0x18e;
  words[W_PROTOINFO] = 7;
  words[W_HAS] = HAS_STATUS | HAS_MARK | HAS_PROTOINFO | HAS_REPLY;
}

/** Writes the stream of `count` connections that begin and end, counted and timed by the kernel, 1000 events a message; gives how many messages. */
export function writeStreamFile(path: string, count: number): number {
  const file = openSync(path, "w");
  const length = Buffer.alloc(LENGTH_BYTES);
  const put = (payload: Uint8Array): void => {
    length.writeUInt32LE(payload.length);
    writeSync(file, length);
    writeSync(file, payload);
  };
  let number = 0;
  const envelope = () => {
    const wallMs = BEGIN_MS + INTERVAL_MS * ++number;
    return { node: NODE, epoch: 1, number, stamp: stampOfMs(wallMs), wallMs };
  };
  const begin = { type: "epoch", reason: "bench", previousEpoch: 0, previousNumber: 0 } as const;
  put(new MarkCodec().encode(envelope(), begin, 0));
  const encoder = new BatchEncoder();
  const words = new Uint32Array(RECORD_WORDS);
  const end = { has: HAS_COUNTERS | HAS_TIMES, counters: new Float64Array(4), timesMicros: new Float64Array(2) };
  const open = PER_MESSAGE * MESSAGES_OPEN;
  for (let i = 0; i < count + open; i++) {
    if (i < count) {
      fillRecord(words, i);
      encoder.addNew(i % (2 * open), words, 0, null, null, 0);
    }
    const ended = i - open;
    if (ended >= 0) {
      fillRecord(words, ended);
      const endMs = BEGIN_MS + INTERVAL_MS * number;
      end.counters.set([ended % 100, (ended * 13) % 100_000, ended % 90, (ended * 17) % 1e6]);
      end.timesMicros.set([(endMs - MESSAGES_OPEN * INTERVAL_MS) * 1000 + (ended % 997), endMs * 1000 + (ended % 991)]);
      encoder.addDestroy(ended % (2 * open), words, 0, end);
    }
    if ((i + 1) % PER_MESSAGE === 0 && encoder.rows > 0) put(encoder.encode(envelope(), null));
  }
  if (encoder.rows > 0) put(encoder.encode(envelope(), null));
  closeSync(file);
  return number;
}

/** Reads such a file of `total` messages as the streams of a broker, a piece at a time. */
export function fileStreams(path: string, total: number): HistoryStreams {
  const first: StoredMessage = { ...[...items(path, total).next().value!][0]!, origin: 0, snapshot: 0 };
  return {
    nodes: async () => [NODE],
    lookup: () => ({
      bounds: async () => ({ first: 1, last: total, messages: total }),
      next: async () => first,
      lastMark: async () => first,
    }),
    read: async function* () {
      yield* items(path, total);
    },
  };
}

function* items(path: string, total: number): Generator<Extract<ReaderItem, { type: "message" }>[], void, undefined> {
  const file = openSync(path, "r");
  try {
    for (let sequence = 0, position = 0; sequence < total; ) {
      const bytes = Buffer.allocUnsafeSlow(PIECE_BYTES);
      const size = readSync(file, bytes, 0, PIECE_BYTES, position);
      const messages: Extract<ReaderItem, { type: "message" }>[] = [];
      let at = 0;
      while (at + LENGTH_BYTES <= size) {
        const next = at + LENGTH_BYTES + bytes.readUInt32LE(at);
        if (next > size) break;
        const kind = sequence === 0 ? "mark" : "ev";
        const payload = bytes.subarray(at + LENGTH_BYTES, next);
        sequence++;
        messages.push({ type: "message", kind, sequence, timeMs: 0, payload, pending: total - sequence });
        at = next;
      }
      position += at;
      yield messages;
    }
  } finally {
    closeSync(file);
  }
}
