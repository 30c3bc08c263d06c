import type { StatsReport } from "../control/protocol.js";

/**
 * What `conntrackd -s` prints, from the counters named in StatsReport; one that the daemon does not have is 0.
 * The headings are conntrackd's own, whatever carries the messages; the device is the broker.
 */
export function formatConntrackdStats(report: StatsReport): string {
  const link = (name: string): string => wide(report, "link", name);
  return [
    cacheText(report, "internal"),
    cacheText(report, "external"),
    `traffic processed:\n${wide(report, "traffic", "bytes")} Bytes      ${wide(report, "traffic", "packets")} Pckts\n\n`,
    "UDP traffic (active device=nats):\n",
    `${link("bytesSent")} Bytes sent ${link("bytesReceived")} Bytes recv\n`,
    `${link("packetsSent")} Pckts sent ${link("packetsReceived")} Pckts recv\n`,
    `${link("sendErrors")} Error send ${link("receiveErrors")} Error recv\n\n`,
    `message tracking:\n${wide(report, "messages", "malformed")} Malformed msgs ${wide(report, "messages", "lost")} Lost msgs\n\n`,
  ].join("");
}

function cacheText(report: StatsReport, cache: "internal" | "external"): string {
  const count = (name: string): string => number(report, cache, name).padStart(12);
  const row = (head: string, done: string, failed: string): string =>
    `${head}\t${count(done)}\tfailed:\t${count(failed)}\n`;
  return [
    `cache ${cache}:\n`,
    `current active connections:\t${count("active")}\n`,
    row("connections created:\t", "created", "createFailed"),
    row("connections updated:\t", "updated", "updateFailed"),
    row("connections destroyed:\t", "destroyed", "destroyFailed"),
    "\n",
  ].join("");
}

function wide(report: StatsReport, group: string, name: string): string {
  return number(report, group, name).padStart(20);
}

function number(report: StatsReport, group: string, name: string): string {
  return String(report[group]?.[name] ?? 0);
}
