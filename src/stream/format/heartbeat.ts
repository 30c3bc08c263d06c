/**
 * Heartbeats: what a daemon says of itself once a second on `cthb.<node>` of its broker. They are not stored; a peer that hears
 * one knows that the daemon, and not only its broker, is alive, and how far its stream goes. One JSON object; unknown keys are
 * skipped, so that nodes of any two versions understand each other here.
 *
 *   {"conntrail":1,"cluster":"edge","node":"fw1","writes":1,"reads":[1],"epoch":1769900000000,"number":4711,"flows":3000,
 *    "flowsAt":4709,
 *    "wallMs":1769903600000,"role":"primary","groups":{"lan":"primary"},"unpublished":0,"unread":false,
 *    "trouble":"the store is full",
 *    "holds":["fw2"]}
 */
import { z } from "zod";
import { plainText } from "../../flow/plain-text.js";
import type { Role } from "./mark.js";

/** What a heartbeat says. */
export interface Heartbeat {
  readonly cluster: string;
  readonly node: string;
  /** The format version of the messages that the node writes, and those that it reads. */
  readonly writes: number;
  readonly reads: readonly number[];
  /** Epoch and batch number of the last message that was handed to the broker. */
  readonly epoch: number;
  readonly number: number;
  /** Flows that its stream reports as alive behind message `flowsAt` of the epoch, which may come before the last. */
  readonly flows: number;
  readonly flowsAt: number;
  /** The daemon's wall clock, milliseconds since the Unix epoch. */
  readonly wallMs: number;
  readonly role: Role;
  /** What keepalived said last of each sync group; empty where there is one group without a name. */
  readonly groups: Readonly<Record<string, Role>>;
  /** Flows of its kernel that its stream does not have, because its cache is full. */
  readonly unpublished: number;
  /** Events of its kernel were lost, and its table has not been read since. */
  readonly unread: boolean;
  /** Why what it publishes does not reach its stream, in words; null while it does. */
  readonly trouble: string | null;
  /** The nodes that it is in sync with: it would lose nothing of theirs if it took over. Null: it does not say. */
  readonly holds: readonly string[] | null;
}

/** Longer payloads are no heartbeats. */
export const HEARTBEAT_BYTES_MAX = 16 * 1024;

const GROUPS_MAX = 64;
const VERSIONS_MAX = 16;
const PEERS_MAX = 255;
const TROUBLE_LENGTH_MAX = 256;
const name = z.string().regex(/^[A-Za-z0-9_-]{1,32}$/);
const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const role = z.enum(["primary", "backup", "fault", "unknown"]);

const schema = z.object({
  conntrail: z.literal(1),
  cluster: name,
  node: name,
  writes: count,
  reads: z.array(count).max(VERSIONS_MAX),
  epoch: count,
  number: count,
  flows: count,
  flowsAt: count,
  wallMs: count,
  role,
  groups: z
    .record(z.string().regex(/^[A-Za-z0-9_.-]{1,64}$/), role)
    .refine((groups) => Object.keys(groups).length <= GROUPS_MAX)
    .default({}),
  unpublished: count.default(0),
  unread: z.boolean().default(false),
  trouble: z.string().max(TROUBLE_LENGTH_MAX).transform(plainText).nullable().default(null),
  holds: z.array(name).max(PEERS_MAX).nullable().default(null),
});

/** The bytes of a heartbeat. A longer `trouble` is cut. */
export function encodeHeartbeat(heartbeat: Heartbeat): Uint8Array {
  const trouble = heartbeat.trouble?.slice(0, TROUBLE_LENGTH_MAX) ?? null;
  return new TextEncoder().encode(JSON.stringify({ conntrail: 1, ...heartbeat, trouble }));
}

/** Null for anything that is no heartbeat. Never throws. */
export function decodeHeartbeat(bytes: Uint8Array): Heartbeat | null {
  if (bytes.length > HEARTBEAT_BYTES_MAX) return null;
  try {
    const parsed = schema.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
    if (!parsed.success) return null;
    const { conntrail: _version, ...heartbeat } = parsed.data;
    return heartbeat;
  } catch {
    return null;
  }
}
