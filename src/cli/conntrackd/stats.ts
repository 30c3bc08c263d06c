import { DEFAULT_SHAPE, type Shape } from "../../conntrackd/shape.js";
import type { StatsReport, StatusReport } from "../../control/protocol.js";
import type { StatsPart } from "./options.js";

/**
 * The texts of `conntrackd -s` in its own printf forms, from the counters of StatsReport. Counters that the daemon
 * does not have are 0. Headings are conntrackd's: its resend queue is what the broker has yet to confirm.
 */

/** The dedicated link, as named in the configuration. */
export interface StatsLink {
  readonly protocol: "UDP" | "TCP" | "multicast";
  readonly device: string;
}

/** The data of all parts. */
export interface StatsSources {
  readonly stats: StatsReport;
  readonly status: StatusReport;
  readonly link: StatsLink;
  /** The mode and its caches: the parts of conntrackd that have figures. */
  readonly shape: Shape;
}

/** Names the broker when the configuration names no interface. */
export const BROKER_LINK: StatsLink = { protocol: "UDP", device: "nats" };

/** The bound of unconfirmed messages, and conntrackd's sizes of queues that conntrail does not need. */
const RESEND_QUEUE_MAX = 16_384;
const TX_QUEUE_MAX = 2_147_483_647;
const ERROR_QUEUE_MAX = 128;

/** What `conntrackd -s PART` prints. */
export function formatStatsPart(part: StatsPart, sources: StatsSources): string {
  const { stats, status, link, shape } = sources;
  const isAlone = shape.mode === "stats";
  switch (part) {
    case "ct":
      return generalText(sources, stats.internal ?? {}, externalCounters(stats, shape));
    case "expect":
      if (!shape.expectations) return "";
      return generalText(sources, expectationCache(stats, "internal"), expectationCache(stats, "external"));
    case "network":
      return isAlone ? "" : networkText(stats) + trafficText(stats, activeHead(stats, link));
    case "cache":
      return cachesText(sources);
    case "runtime":
      return runtimeText(stats, status);
    case "link":
      return isAlone ? "" : trafficText(stats, linkHead(status, link));
    case "rsqueue":
      return shape.mode === "ftfw" ? resendQueueText(status) : "";
    case "queue":
      return isAlone ? "" : queueText(stats, status, shape);
    case "process":
      // conntrackd's children that write a dump; here the daemon does that itself.
      return "";
    default:
      return part satisfies never;
  }
}

/** The shape of a node whose configuration does not say how conntrackd would call it. */
export function reportedShape(stats: StatsReport, { broker }: StatusReport): Shape {
  if (broker.mode === "none") return { mode: "stats", internal: true, external: false, expectations: false };
  return { ...DEFAULT_SHAPE, external: stats.inject === undefined };
}

/** What `conntrackd -s` prints. */
export function formatConntrackdStats(stats: StatsReport, status: StatusReport): string {
  const shape = reportedShape(stats, status);
  return formatStatsPart("ct", { stats, status, link: BROKER_LINK, shape });
}

type Counters = Readonly<Record<string, number>>;

function generalText({ stats, link, shape }: StatsSources, internal: Counters, external: Counters): string {
  const traffic = `${wide(stats.traffic?.bytes)} Bytes      ${wide(stats.traffic?.packets)} Pckts`;
  const processed = `traffic processed:\n${traffic}\n\n`;
  if (shape.mode === "stats") return cacheText("stats", internal) + processed;
  const { malformed, lost } = stats.messages ?? {};
  return [
    shape.internal ? cacheText("internal", internal) : bypassText(internal),
    shape.external ? cacheText("external", external) : injectText(external),
    processed,
    trafficText(stats, activeHead(stats, link)),
    `message tracking:\n${wide(malformed)} Malformed msgs ${wide(lost)} Lost msgs\n\n`,
  ].join("");
}

function cacheText(name: string, cache: Counters): string {
  return `cache ${name}:\ncurrent active connections:\t${narrow(cache.active)}\n${changesText(cache)}\n`;
}

/** DisableExternalCache. */
function injectText(injected: Counters): string {
  return `external inject:\n${changesText(injected)}\n`;
}

function changesText(cache: Counters): string {
  const row = (head: string, done: number | undefined, failed: number | undefined): string =>
    `${head}\t${narrow(done)}\tfailed:\t${narrow(failed)}\n`;
  return [
    row("connections created:\t", cache.created, cache.createFailed),
    row("connections updated:\t", cache.updated, cache.updateFailed),
    row("connections destroyed:\t", cache.destroyed, cache.destroyFailed),
  ].join("");
}

/** DisableInternalCache. */
function bypassText({ created, updated, destroyed }: Counters): string {
  return [
    "internal bypass:\n",
    `connections new:\t\t${narrow(created)}\n`,
    `connections updated:\t\t${narrow(updated)}\n`,
    `connections destroyed:\t\t${narrow(destroyed)}\n\n`,
  ].join("");
}

/** The external cache; without one, what was written into the kernel. */
function externalCounters(stats: StatsReport, { external }: Shape): Counters {
  if (external) return stats.external ?? {};
  const { injected = 0, updated = 0, replaced = 0, removed = 0, failed = 0 } = stats.inject ?? {};
  return { created: injected + replaced, createFailed: failed, updated, destroyed: removed };
}

function cachesText({ stats, shape }: StatsSources): string {
  const own = shape.mode === "stats" ? "stats" : "internal";
  const internal = shape.internal ? extendedCacheText(own, stats.internal ?? {}) : bypassText(stats.internal ?? {});
  if (shape.mode === "stats") return internal;
  const external = externalCounters(stats, shape);
  return internal + (shape.external ? extendedCacheText("external", external) : injectText(external));
}

/** The counters of expectations under the names of those of flows. */
function expectationCache(stats: StatsReport, cache: "internal" | "external"): Counters {
  const counters = stats.expectations ?? {};
  const count = (name: string): number => counters[`${cache}${name}`] ?? 0;
  return {
    active: count("Active"),
    created: count("Created"),
    createFailed: count("CreateFailedFull") + count("Stale"),
    updated: count("Updated"),
    updateFailed: 0,
    destroyed: count("Destroyed"),
    destroyFailed: count("DestroyUnknown") + count("Unknown"),
  };
}

function trafficText(stats: StatsReport, head: string): string {
  const link = stats.link ?? {};
  return [
    `${head}:\n`,
    `${wide(link.bytesSent)} Bytes sent ${wide(link.bytesReceived)} Bytes recv\n`,
    `${wide(link.packetsSent)} Pckts sent ${wide(link.packetsReceived)} Pckts recv\n`,
    `${wide(link.sendErrors)} Error send ${wide(link.receiveErrors)} Error recv\n\n`,
  ].join("");
}

/** The heading of the active link; for TCP also whether there is a connection in each direction. */
function activeHead(stats: StatsReport, { protocol, device }: StatsLink): string {
  const head = `${protocol} traffic (active device=${device})`;
  if (protocol !== "TCP") return head;
  const connected = (packets = 0): string => (packets > 0 ? "connected" : "disconnected");
  const { packetsSent, packetsReceived } = stats.link ?? {};
  return `${head} server=${connected(packetsReceived)} client=${connected(packetsSent)}`;
}

function linkHead(status: StatusReport, { protocol, device }: StatsLink): string {
  const running = status.broker.state === "up" ? "RUNNING" : "DOWN";
  return `${protocol} traffic device=${device} status=${running} role=ACTIVE`;
}

function networkText(stats: StatsReport): string {
  const { malformed, lost } = stats.messages ?? {};
  return [
    "network statistics:\n\trecv:\n",
    `\t\tMalformed messages:\t${wide(malformed)}\n`,
    `\t\tWrong protocol version:\t${wide(0)}\n`,
    `\t\tMalformed header:\t${wide(0)}\n`,
    `\t\tMalformed payload:\t${wide(0)}\n`,
    `\t\tBad message type:\t${wide(0)}\n`,
    `\t\tTruncated message:\t${wide(0)}\n`,
    `\t\tBad message size:\t${wide(0)}\n`,
    `\tsend:\n\t\tMalformed messages:\t${wide(0)}\n\n`,
    "sequence tracking statistics:\n\trecv:\n",
    `\t\tPackets lost:\t\t${wide(lost)}\n`,
    `\t\tPackets before:\t\t${wide(0)}\n\n`,
  ].join("");
}

function extendedCacheText(name: "internal" | "external" | "stats", cache: Counters): string {
  const both = (done: number | undefined, failed: number | undefined): string => `${narrow(done)}/${narrow(failed)}`;
  return [
    `cache:${name}\tactive objects:\t\t${narrow(cache.active)}\n`,
    `\tactive/total entries:\t\t${both(cache.active, cache.active)}\n`,
    `\tcreation OK/failed:\t\t${both(cache.created, cache.createFailed)}\n`,
    `\t\tno memory available:\t${narrow(0)}\n`,
    `\t\tno space left in cache:\t${narrow(cache.createFailedFull)}\n`,
    `\tupdate OK/failed:\t\t${both(cache.updated, cache.updateFailed)}\n`,
    `\t\tentry not found:\t${narrow(cache.updateFailed)}\n`,
    `\tdeletion created/failed:\t${both(cache.destroyed, cache.destroyFailed)}\n`,
    `\t\tentry not found:\t${narrow(cache.destroyFailed)}\n\n`,
  ].join("");
}

function runtimeText(stats: StatsReport, status: StatusReport): string {
  const { events = {}, replicator = {}, control = {} } = stats;
  return [
    `daemon uptime: ${uptime(stats.runtime?.uptimeSeconds ?? 0)}\n\nnetlink stats:\n`,
    `\tevents received:\t${wide(events.eventsReceived)}\n`,
    `\tevents filtered:\t${wide((replicator.filtered ?? 0) + (replicator.expectationsFiltered ?? 0))}\n`,
    `\tevents unknown type:\t\t${narrow(events.unknownType)}\n`,
    `\tcatch event failed:\t\t${narrow(events.receiveErrors)}\n`,
    `\tdump unknown type:\t\t${narrow(0)}\n`,
    `\tnetlink overrun:\t\t${narrow(events.overruns)}\n`,
    `\tflush kernel table:\t\t${narrow(replicator.kernelFlushes)}\n`,
    `\tresync with kernel table:\t${narrow(replicator.kernelResyncs)}\n`,
    `\tcurrent buffer size (in bytes):\t${narrow(events.bufferBytes)}\n\nruntime stats:\n`,
    // The broker is the only child.
    `\tchild process failed:\t\t${narrow(status.broker.restarts)}\n`,
    `\t\tchild process segfault:\t${narrow(0)}\n`,
    `\t\tchild process termsig:\t${narrow(0)}\n`,
    `\tselect failed:\t\t\t${narrow(0)}\n`,
    `\twait failed:\t\t\t${narrow(0)}\n`,
    `\tlocal read failed:\t\t${narrow((control.timedOut ?? 0) + (control.aborted ?? 0))}\n`,
    `\tlocal unknown request:\t\t${narrow((control.malformed ?? 0) + (control.oversized ?? 0))}\n\n`,
  ].join("");
}

/** `2 days 3 h 4 min`; days and hours only if there are any. */
function uptime(seconds: number): string {
  const days = Math.floor(seconds / 86_400);
  const hours = Math.floor(seconds / 3600) % 24;
  const minutes = Math.floor(seconds / 60) % 60;
  const dayText = days === 0 ? "" : `${days} day${days === 1 ? "" : "s"} `;
  return `${dayText}${hours === 0 ? "" : `${hours} h `}${minutes} min`;
}

function resendQueueText({ publisher }: StatusReport): string {
  const { unconfirmed, confirmedNumber } = publisher;
  let text = `resent queue (len=${unconfirmed})\n`;
  for (let i = 1; i <= unconfirmed; i++) text += `object -> seq:${confirmedNumber + i}\n`;
  return text;
}

function queueText(stats: StatsReport, { publisher }: StatusReport, { mode }: Shape): string {
  const queue = (name: string, current: number, max: number, full: number | undefined): string =>
    `queue ${name}:\ncurrent elements:\t\t${narrow(current)}\nmaximum elements:\t\t${narrow(max)}\n` +
    `not enough space errors:\t${narrow(full)}\n\n`;
  return [
    `allocated queue nodes:\t\t${narrow(mode === "ftfw" ? publisher.unconfirmed : 0)}\n\n`,
    queue("txqueue", 0, TX_QUEUE_MAX, 0),
    queue("errorq", 0, ERROR_QUEUE_MAX, 0),
    // Only mode FTFW sends again.
    ...(mode === "ftfw"
      ? [queue("rsqueue", publisher.unconfirmed, RESEND_QUEUE_MAX, stats.publisher?.droppedMessages)]
      : []),
  ].join("");
}

/** %12u */
function narrow(value = 0): string {
  return String(value).padStart(12);
}

/** %20llu */
function wide(value = 0): string {
  return String(value).padStart(20);
}
