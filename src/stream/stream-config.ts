/**
 * The settings of a node's stream, all of them: what is not named here is as a new stream has it. Whoever reaches the broker might
 * have changed any, so the whole configuration is compared, and not only what this program wants to be otherwise.
 */
import { DiscardPolicy, RetentionPolicy, StorageType, type StreamConfig } from "nats";
import { streamName, streamSubjects } from "./format/subjects.js";

/** How long and how much a stream keeps. */
export interface Retention {
  maxAgeMs: number;
  bytesMax: number;
  /** Copies in a shared cluster; 1 on a standalone broker. */
  replicas?: number;
}

/** JetStream counts time in nanoseconds. */
export const NANOS_PER_MS = 1_000_000;
const DUPLICATE_WINDOW_MS = 120_000;

/** What is changed of a stream that is there already. */
export interface StreamChange {
  /** The settings that differ, for the log: `max_msgs_per_subject 1`. */
  readonly differs: readonly string[];
  /** The stream has to be deleted and created, and what it held is gone: no server changes these in place. */
  readonly anew: boolean;
  /** The same where this server refuses to. */
  readonly worthNew: boolean;
  readonly config: Partial<StreamConfig>;
}

/** A stream without these loses nothing by itself and takes every message. What the server leaves out counts as `null`. */
const DEFAULTS: Readonly<Record<string, unknown>> = {
  max_consumers: -1,
  max_msgs: -1,
  max_msg_size: -1,
  max_msgs_per_subject: -1,
  discard_new_per_subject: false,
  no_ack: false,
  sealed: false,
  deny_purge: false,
  allow_rollup_hdrs: false,
  mirror_direct: false,
  mirror: null,
  sources: null,
  republish: null,
  subject_transform: null,
  consumer_limits: null,
  first_seq: null,
  template_owner: null,
  allow_msg_ttl: false,
  subject_delete_marker_ttl: null,
  persist_mode: null,
  allow_msg_counter: false,
  allow_msg_schedules: false,
};

/** What a server refuses to change in place, or never takes back: worth a new stream, for with it the stream is not what it should be. */
const FIXED: readonly string[] = ["storage", "retention", "sealed", "deny_purge", "mirror", "max_consumers"];
/** What some servers change in place and others do not; worth a new stream likewise. */
const STUBBORN: readonly string[] = ["republish", "subject_transform", "sources"];

/** What has to be changed of a stream's settings; null for nothing. */
export function changeOf(found: StreamConfig, wanted: ReturnType<typeof streamConfig>): StreamChange | null {
  const settings: Readonly<Record<string, unknown>> = { ...DEFAULTS, ...wanted };
  const held = found as unknown as Readonly<Record<string, unknown>>;
  const keys = Object.keys(settings).filter((key) => normal(held[key], settings[key]) !== normal(settings[key], null));
  if (keys.length === 0) return null;
  const config: Record<string, unknown> = { ...held, ...wanted };
  for (const key of keys) {
    if (settings[key] === null) delete config[key];
    else config[key] = settings[key];
  }
  const differs = keys.map((key) => `${key} ${JSON.stringify(held[key] ?? null)}`);
  const anew = keys.some((key) => FIXED.includes(key));
  return { differs, anew, worthNew: anew || keys.some((key) => STUBBORN.includes(key)), config };
}

/** As text that can be compared. A setting that the server leaves out is at its default: nothing, no, no limit. */
function normal(value: unknown, otherwise: unknown): string {
  if (value === undefined || value === null || value === "") {
    return otherwise === false || otherwise === -1 ? String(otherwise) : "null";
  }
  if (typeof value === "object" && Object.keys(value).length === 0) return "null";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** The settings that this program chooses. */
export function streamConfig(node: string, retention: Retention) {
  return {
    name: streamName(node),
    subjects: [streamSubjects(node)],
    retention: RetentionPolicy.Limits,
    storage: StorageType.File,
    discard: DiscardPolicy.Old,
    max_age: Math.round(retention.maxAgeMs * NANOS_PER_MS),
    max_bytes: Math.floor(retention.bytesMax),
    num_replicas: retention.replicas ?? 1,
    allow_direct: true,
    deny_delete: true,
    // Not used: a message's place is checked by its expected sequence. It must not be longer than max_age.
    duplicate_window: Math.round(
      Math.min(DUPLICATE_WINDOW_MS, retention.maxAgeMs || DUPLICATE_WINDOW_MS) * NANOS_PER_MS,
    ),
  };
}
