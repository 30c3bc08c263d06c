import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Logger } from "pino";
import { ConntrailError, errorText } from "../errors.js";

/** A peer, as far as it matters for this node's priority. */
export interface TrackedPeer {
  readonly node: string;
  /** Its daemon was heard within `peer_timeout`. */
  readonly isHeard: boolean;
  /** It says that it is primary. */
  readonly isPrimary: boolean;
  /** Why this node is not in sync with it; null: it is. */
  readonly reason: string | null;
}

/** After this time, whatever keeps the node from being in sync does not pass by itself. */
const LOWERED_MS_MAX = 120_000;
/** A node that was in sync is lowered after this time: peers and links have short troubles. */
const BEHIND_MS_MIN = 3000;
/** How long a primary must not be heard until the node counts as one that nobody is better than. */
const ALONE_MS_MIN = 5000;

/**
 * Decides whether this node should stand back in an election: a backup that lacks what a primary has published. It never
 * does while it is primary itself, while no primary is heard (it may be the only node left), or for longer than two
 * minutes. Pure: times come from outside.
 */
export class Standing {
  isLowered: boolean;
  /** Why it is lowered, or was until the time limit; null while it is not behind. */
  reason: string | null = null;
  #heardMs: number;
  /** Null: not behind. */
  #behindMs: number | null;

  /** A node that starts has nothing yet, unless it has worked as primary all the time. */
  constructor(isPrimary: boolean, nowMs: number) {
    this.isLowered = !isPrimary;
    this.#heardMs = nowMs;
    this.#behindMs = isPrimary ? null : nowMs;
  }

  /** Looks at the node as it is now. */
  look(isPrimary: boolean, peers: readonly TrackedPeer[], nowMs: number): void {
    const primaries = peers.filter((peer) => peer.isHeard && peer.isPrimary);
    if (isPrimary) this.#raise();
    else if (primaries.length === 0) {
      if (nowMs - this.#heardMs >= ALONE_MS_MIN) this.#raise();
    } else {
      this.#heardMs = nowMs;
      const behind = primaries.find(({ reason }) => reason !== null);
      if (behind === undefined) this.#raise();
      else this.#lower(`${behind.node}: ${behind.reason}`, nowMs);
    }
  }

  #raise(): void {
    this.isLowered = false;
    this.reason = null;
    this.#behindMs = null;
  }

  #lower(reason: string, nowMs: number): void {
    this.reason = reason;
    this.#behindMs ??= nowMs;
    const behindMs = nowMs - this.#behindMs;
    if (behindMs >= LOWERED_MS_MAX) this.isLowered = false;
    else if (behindMs >= BEHIND_MS_MIN) this.isLowered = true;
  }
}

/**
 * The file of keepalived's `track_file`: `1` while this node should stand back, else `0`. keepalived multiplies it by the
 * weight of its configuration. When the daemon ends, the file stays as it is.
 */
export class TrackFile {
  readonly counters = { lowered: 0, raised: 0, writesFailed: 0 };
  readonly #path: string;
  readonly #standing: Standing;
  readonly #log: Logger;
  #written: boolean;

  /** Writes the file. Throws ConntrailError CONTROL if that fails. */
  constructor(path: string, isPrimary: boolean, nowMs: number, log: Logger) {
    this.#path = path;
    this.#standing = new Standing(isPrimary, nowMs);
    this.#log = log;
    this.#written = this.#standing.isLowered;
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
      this.#write(this.#written);
    } catch (error) {
      throw new ConntrailError("CONTROL", `keepalived.track_file: ${path}: ${errorText(error)}`, { cause: error });
    }
  }

  /** Looks at the node, and writes what has changed. A write that fails is tried again with the next look. */
  look(isPrimary: boolean, peers: readonly TrackedPeer[], nowMs: number): void {
    const standing = this.#standing;
    standing.look(isPrimary, peers, nowMs);
    if (standing.isLowered === this.#written) return;
    try {
      this.#write(standing.isLowered);
    } catch (error) {
      this.counters.writesFailed++;
      this.#log.warn({ file: this.#path, error: errorText(error) }, "keepalived's track file cannot be written");
      return;
    }
    this.#written = standing.isLowered;
    const { reason } = standing;
    if (standing.isLowered) {
      this.counters.lowered++;
      this.#log.warn({ reason }, "not in sync: this node lowers its priority in keepalived");
    } else {
      this.counters.raised++;
      if (reason === null) this.#log.info("this node has its full priority in keepalived");
      else this.#log.warn({ reason }, "still not in sync, but this node takes its full priority in keepalived back");
    }
  }

  /** keepalived reads it when another file takes its place, so it never sees half of one. */
  #write(isLowered: boolean): void {
    const partial = `${this.#path}.new`;
    writeFileSync(partial, isLowered ? "1\n" : "0\n", { mode: 0o644 });
    renameSync(partial, this.#path);
  }
}
