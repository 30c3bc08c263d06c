import { stampMs } from "../../flow/clock.js";
import { type DestroySection, MEASURED_COUNTERS, MEASURED_TIMES } from "../../stream/format/columns.js";
import type { ConnectionCounters } from "../connection.js";
import type { Ending } from "./live-table.js";

/** What an end has that nobody measured. */
export const NO_ENDING = { counters: null, startMs: 0, endMs: 0 } as const;

/** The end of the year 9999. */
const MICROS_END = Date.UTC(10_000, 0) * 1000;

/** What a message claims to have measured and no kernel could have counts as not measured. */
export function endingOf(section: DestroySection, row: number, stamp: number, aheadMs: number): Ending {
  const measured = section.measured[row]!;
  const timed = (measured & MEASURED_TIMES) !== 0;
  const counters = (measured & MEASURED_COUNTERS) === 0 ? null : countersOf(section, row);
  const startMs = timed ? msOfMicros(section.startMicros[row]!) : 0;
  const endMs = timed ? msOfMicros(section.stopMicros[row]!) : 0;
  return { end: "ended", stamp, aheadMs, counters, startMs, endMs };
}

function countersOf(section: DestroySection, row: number): ConnectionCounters | null {
  const origPackets = section.packetsOriginal[row]!;
  const origBytes = section.bytesOriginal[row]!;
  const replyPackets = section.packetsReply[row]!;
  const replyBytes = section.bytesReply[row]!;
  const sound = isCount(origPackets) && isCount(origBytes) && isCount(replyPackets) && isCount(replyBytes);
  return sound ? { origPackets, origBytes, replyPackets, replyBytes } : null;
}

/** Counters of the kernel have 64 bits. */
function isCount(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < 2 ** 64;
}

/** 0 for what is no time. */
function msOfMicros(micros: number): number {
  return micros > 0 && micros < MICROS_END ? micros / 1000 : 0;
}

/** When a connection ended, by the kernel or else by the clock of the node that said so; milliseconds since the Unix epoch. */
export function msOfEnding(ending: Ending): number {
  return ending.endMs > 0 ? ending.endMs : stampMs(ending.stamp) - ending.aheadMs;
}
