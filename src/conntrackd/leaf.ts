import assert from "node:assert/strict";
import { CONTROL_BYTES_MAX } from "../config/config-text.js";
import { notNeeded, notSupported, type Outcome, replaced, takenOver } from "./remark.js";
import { type Key, sizeText, type Value } from "./settings.js";

/** The outcome of a directive, and the key that it sets; null leaves the key at its default. */
export interface Effect extends Outcome {
  readonly sets?: readonly [key: Key, value: Value | null];
}

const KIB = 1024;
const GIB = 1024 ** 3;

/** For directives that conntrackd itself no longer uses. */
const OBSOLETE = notNeeded("obsolete: conntrackd has no use for it either");
const RESEND = replaced("the broker's stream keeps every event on disk until all peers have read it");
const REFRESH = replaced("nothing has to be sent again: a peer that missed something reads on in the stream");
const BUFFERS = replaced("the link is TCP, which sizes its buffers itself");

/** `LogFile on`, in General and in Stats. */
const LOG_FILE = "/var/log/conntrackd.log";
const STATS_FILE = "/var/log/conntrackd-stats.log";

const FACILITIES = ["daemon", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"];

/**
 * The directives of one value that mean the same everywhere, by name. Numbers outside of a key's range are clamped;
 * for most of them 0 is conntrackd's default.
 */
const LEAVES: Readonly<Record<string, (text: string) => Effect>> = {
  ResendQueueSize: () => RESEND,
  ResendBufferSize: () => OBSOLETE,
  ACKWindowSize: () => RESEND,
  RefreshTime: () => REFRESH,
  CacheTimeout: () =>
    replaced("an entry stays in the external cache until its owner ends it or tells of its table anew"),
  StartupResync: () => replaced("at every start the daemon reads its own and its peers' streams back"),
  DisableInternalCache: () =>
    replaced("events go out at once in any case; the internal cache stays, for dumps and resyncs"),
  DisableExternalCache: (text) => set("mode", isYes(text) ? "inject" : "cache"),
  CommitTimeout: (text) =>
    Number(text) === 0
      ? unset("commit.timeout", "0 is the default: each entry keeps the time that it had left")
      : number("commit.timeout", text, 1, 30 * 86_400, (seconds) => `${seconds}s`),
  PurgeTimeout: (text) =>
    Number(text) === 0
      ? unset("purge.after", "0 is the default: 60 s")
      : number("purge.after", text, 1, 86_400, (seconds) => `${seconds}s`),
  RelaxTransitions: () => OBSOLETE,
  DelayDestroyMessages: () => OBSOLETE,
  CacheWriteThrough: () => OBSOLETE,
  DestroyTimeout: () => OBSOLETE,
  ListenTo: () => OBSOLETE,
  StripNAT: () => OBSOLETE,
  Family: () => OBSOLETE,
  Checksum: () => replaced("TCP checks what it carries, and so does the broker's store"),
  SndSocketBuffer: () => BUFFERS,
  RcvSocketBuffer: () => BUFFERS,
  McastSndSocketBuffer: () => BUFFERS,
  McastRcvSocketBuffer: () => BUFFERS,
  ErrorQueueLength: () => replaced("what could not be sent waits in the stream and in the publisher's ring"),
  TCPWindowTracking: (text) => set("commit.window_tracking", isYes(text)),
  ExpectationSync: (text) => set("expectations", isYes(text)),
  Systemd: (text) => {
    const note = "systemd is told when it started the daemon with Type=notify";
    return isYes(text) ? takenOver(null, note) : notNeeded(note);
  },
  Nice: (text) => number("nice", text, -20, 19, (value) => value, "conntrackd 1.4.7 ignores it"),
  Priority: (text) => number("scheduler.priority", text, 1, 99, (value) => value),
  HashSize: () => notNeeded("tables grow by themselves"),
  HashLimit: (text) =>
    Number(text) === 0
      ? unset("cache.limit", "0 is the default: by nf_conntrack_max")
      : number("cache.limit", text, 1, 64 * 1024 ** 2, (value) => value),
  LogFile: (text) => (isSwitch(text) ? flagged("log.file", text, LOG_FILE) : set("log.file", text)),
  Syslog: (text) => syslog("log.syslog", text),
  LockFile: (text) => set("lock", text),
  Path: (text) =>
    Buffer.byteLength(text) > CONTROL_BYTES_MAX
      ? notSupported(`longer than ${CONTROL_BYTES_MAX} bytes; left out`)
      : set("control", text),
  Backlog: () => notNeeded("conntrackd ignores it too"),
  NetlinkBufferSize: (text) => bytes("netlink.buffer", text),
  SocketBufferSize: (text) => bytes("netlink.buffer", text),
  NetlinkBufferSizeMaxGrowth: (text) => bytes("netlink.buffer_max", text),
  SocketBufferSizeMaxGrowth: (text) => bytes("netlink.buffer_max", text),
  SocketBufferSizeMaxGrown: (text) => bytes("netlink.buffer_max", text),
  NetlinkOverrunResync: overrunResync,
  NetlinkEventsReliable: (text) => set("netlink.reliable", isYes(text)),
  PollSecs: (text) => number("netlink.poll", text, 1, 3600, (seconds) => `${seconds}s`),
  EventIterationLimit: (text) =>
    Number(text) === 0
      ? unset("netlink.iteration_limit", "0 is the default")
      : number("netlink.iteration_limit", text, 1, 65_536, (value) => value),
};

/** The directives of a Stats block. */
const STATS_LEAVES: Readonly<Record<string, (text: string) => Effect>> = {
  LogFile: (text) => (isSwitch(text) ? flagged("stats.file", text, STATS_FILE) : set("stats.file", text)),
  Syslog: (text) => syslog("stats.syslog", text),
  NetlinkEventsReliable: (text) => set("netlink.reliable", isYes(text)),
  LogFileBufferSize: () => notNeeded("lines are written as the flows end"),
};

/** The effect of a directive of a Stats block. */
export function statsEffectOf(name: string, text: string): Effect {
  const leaf = STATS_LEAVES[name];
  assert.ok(leaf !== undefined, `no translation of ${name} in Stats`);
  return leaf(text);
}

/** The effect of a directive of one value that means the same everywhere. */
export function effectOf(name: string, text: string): Effect {
  const leaf = LEAVES[name];
  assert.ok(leaf !== undefined, `no translation of ${name}`);
  return leaf(text);
}

/** True for the word of a switch that is on. */
export function isYes(text: string): boolean {
  return /^(on|yes)$/i.test(text);
}

function isSwitch(text: string): boolean {
  return /^(on|yes|off|no)$/i.test(text);
}

function set(key: Key, value: Value, note = ""): Effect {
  return { ...takenOver(key, note), sets: [key, value] };
}

function unset(key: Key, note: string): Effect {
  return { ...takenOver(key, note), sets: [key, null] };
}

function flagged(key: Key, text: string, value: Value): Effect {
  return isYes(text) ? set(key, value) : unset(key, "as by default");
}

function number(key: Key, text: string, min: number, max: number, value: (found: number) => Value, note = ""): Effect {
  const found = Number(text);
  const within = Math.min(max, Math.max(min, found));
  const bound = found === within ? "" : `${within} is the ${found > max ? "most" : "least"} here`;
  return set(key, value(within), [bound, note].filter((part) => part !== "").join("; "));
}

function bytes(key: Key, text: string): Effect {
  if (Number(text) === 0) return unset(key, "0 is the default");
  return number(key, text, 64 * KIB, GIB, sizeText);
}

function overrunResync(text: string): Effect {
  if (isSwitch(text))
    return set("netlink.overrun_resync", isYes(text) ? "30s" : false, isYes(text) ? "after 30 s" : "");
  if (Number(text) === 0) return set("netlink.overrun_resync", "30s", "0 is the default: after 30 s");
  return number("netlink.overrun_resync", text, 1, 3600, (seconds) => `${seconds}s`);
}

function syslog(key: "log.syslog" | "stats.syslog", text: string): Effect {
  if (isSwitch(text)) return flagged(key, text, "daemon");
  return FACILITIES.includes(text)
    ? set(key, text)
    : notSupported(`left out, as conntrackd does: it knows ${FACILITIES.join(" ")}`);
}
