/** How a connection ended: what its owner's stream says of the end, and what the kernel measured. */
import { stampMs } from "../../flow/clock.js";
import { type DestroySection, MEASURED_COUNTERS, MEASURED_TIMES } from "../../stream/format/columns.js";
import type { Connection, ConnectionCounters } from "../connection.js";

/** How a connection ended, or that it has not. */
export interface Ending {
  readonly end: Connection["end"];
  /** Stamp of the message that says so, or of the place where reading stopped. */
  readonly stamp: number;
  /** How far that stamp is ahead of its writer's clock. */
  readonly aheadMs: number;
  /** Null where the kernel did not count. */
  readonly counters: ConnectionCounters | null;
  /** The kernel's own times, milliseconds since the Unix epoch; 0 where it took none. */
  readonly startMs: number;
  readonly endMs: number;
}

/** The end of the year 9999. */
const MICROS_END = Date.UTC(10_000, 0) * 1000;

/** Reads the end in a destroy row. A measured value that no kernel can have counted is treated as not measured. */
export function readEnding(section: DestroySection, row: number, stamp: number, aheadMs: number): Ending {
  const measured = section.measured[row]!;
  const timed = (measured & MEASURED_TIMES) !== 0;
  const counters = (measured & MEASURED_COUNTERS) === 0 ? null : readCounters(section, row);
  const startMs = timed ? msOfMicros(section.startMicros[row]!) : 0;
  const endMs = timed ? msOfMicros(section.stopMicros[row]!) : 0;
  return { end: "ended", stamp, aheadMs, counters, startMs, endMs };
}

/** The end of a connection that was gone by that stamp; nobody saw when, and nobody measured it. */
export function lostEnding(stamp: number, aheadMs: number): Ending {
  return { end: "lost", stamp, aheadMs, counters: null, startMs: 0, endMs: 0 };
}

/** No end: the connection was still alive at that stamp, where reading stopped. */
export function openEnding(stamp: number): Ending {
  return { end: "open", stamp, aheadMs: 0, counters: null, startMs: 0, endMs: 0 };
}

/** When a connection ended, milliseconds since the Unix epoch: by the kernel, or else by the clock of the node that published the end. */
export function endMsOf(ending: Ending): number {
  return ending.endMs > 0 ? ending.endMs : stampMs(ending.stamp) - ending.aheadMs;
}

function readCounters(section: DestroySection, row: number): ConnectionCounters | null {
  const origPackets = section.packetsOriginal[row]!;
  const origBytes = section.bytesOriginal[row]!;
  const replyPackets = section.packetsReply[row]!;
  const replyBytes = section.bytesReply[row]!;
  const isSound = isCount(origPackets) && isCount(origBytes) && isCount(replyPackets) && isCount(replyBytes);
  return isSound ? { origPackets, origBytes, replyPackets, replyBytes } : null;
}

/** The kernel's counters have 64 bits. */
function isCount(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < 2 ** 64;
}

/** 0 for what is no time. */
function msOfMicros(micros: number): number {
  return micros > 0 && micros < MICROS_END ? micros / 1000 : 0;
}
