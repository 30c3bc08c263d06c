import { STAMPS_PER_MS, stampMs } from "../../flow/clock.js";
import { SlotMap } from "../../flow/slot-map.js";
import { isNewerClaim } from "../../ownership/claim.js";
import { aheadMs, type Envelope, type Position } from "../../stream/format/envelope.js";
import { epochBegin, type Mark, tableGoesOn } from "../../stream/format/mark.js";
import type { Gap } from "../connection.js";

/** A stretch of a node's stream, by stamps, in which events may be missing. */
export interface StampGap {
  /** 0: from the beginning. */
  readonly from: number;
  /** Infinity: open. */
  readonly until: number;
  readonly reason: string;
  readonly events: number | null;
  /** How far its stamps are ahead of the node's clock, milliseconds; left out: they are not. */
  readonly aheadMs?: number;
}

/** After an overrun, what the kernel holds is found by a dump: what begins meanwhile may have begun before. */
const OVERRUN_SETTLE_STAMPS = 5000 * STAMPS_PER_MS;
/** Gaps kept one by one; what comes after is one gap to the end of the last. */
const GAPS_MAX = 1000;

/** The gaps of one node, in the order in which they were found. */
export class GapList {
  readonly #gaps: StampGap[] = [];
  /** The last stamp of each and all before it, so that a look back knows where to end. */
  readonly #latest: number[] = [];
  #open: StampGap | null = null;

  /** From here on events may be missing, until `close`. */
  open(from: number, reason: string): void {
    this.#open ??= { from, until: Number.POSITIVE_INFINITY, reason, events: null };
  }

  /** What was open ends at a stamp. */
  close(until: number): void {
    if (this.#open !== null) this.add({ ...this.#open, until });
    this.#open = null;
  }

  add(gap: StampGap): void {
    const last = this.#gaps.at(-1);
    const latest = Math.max(this.#latest.at(-1) ?? 0, gap.until);
    if (last === undefined || this.#gaps.length < GAPS_MAX) {
      this.#gaps.push(gap);
      this.#latest.push(latest);
      return;
    }
    const reason = "more gaps than are kept one by one";
    this.#gaps[GAPS_MAX - 1] = { from: last.from, until: Math.max(last.until, gap.until), reason, events: null };
    this.#latest[GAPS_MAX - 1] = latest;
  }

  /** True when one of them touches [from, until]. */
  touches(from: number, until: number): boolean {
    for (let i = this.#gaps.length - 1; i >= 0 && this.#latest[i]! >= from; i--) {
      const gap = this.#gaps[i]!;
      if (gap.from <= until && gap.until >= from) return true;
    }
    return this.#open !== null && this.#open.from <= until;
  }

  /** Those that touch [from, until], for people. */
  *list(node: string, from: number, until: number): Iterable<Gap> {
    for (const gap of this.#open === null ? this.#gaps : [this.#open, ...this.#gaps]) {
      if (gap.from > until || gap.until < from) continue;
      const ahead = gap.aheadMs ?? 0;
      yield {
        node,
        fromMs: gap.from === 0 ? null : stampMs(gap.from) - ahead,
        untilMs: gap.until === Number.POSITIVE_INFINITY ? null : stampMs(gap.until) - ahead,
        reason: gap.reason,
        events: gap.events,
      };
    }
  }
}

/** What is known of one node's stream at the place it is read to. */
export class NodeState {
  readonly name: string;
  readonly index: number;
  readonly gaps = new GapList();
  /** Flow id to slot, of the flows that the node owns and that are followed. */
  readonly slots = new SlotMap();
  /** How many those are: with none, updates and ends need no look. */
  tracked = 0;
  epoch = 0;
  number = 0;
  /** Stamp of the last message. */
  heard = 0;
  /** How far that is ahead of the node's clock, milliseconds. */
  aheadMs = 0;
  /** The snapshot that is being read; 0 for none. */
  snapshotId = 0;
  /** Where the last complete snapshot ended. */
  snapshotStamp = 0;
  /** Rows of the node that no flow id stands for: the next complete snapshot takes them up or ends them. */
  hasUnmapped = false;
  /** They are those of an earlier epoch: what the node tells of anew is the same connection, though it does not know that. */
  bridges = false;
  /** Its last commit of other nodes' flows. */
  commitStamp = 0;
  /** Stamp of its clean stop, while nothing has come since; 0 else. */
  stopStamp = 0;

  /** The last message that was old. */
  #doubted: Position = { epoch: -1, number: 0 };

  constructor(name: string, index: number) {
    this.name = name;
    this.index = index;
  }

  /** Between two stamps events may be missing. */
  miss(from: number, until: number, reason: string, events: number | null = null): void {
    this.gaps.add({ from, until, reason, events, aheadMs: this.aheadMs });
  }

  /** The next message is not the one behind the last: what lies between is not read. */
  jump(): void {
    this.forgetFlowIds();
    this.bridges = false;
    this.epoch = 0;
    this.snapshotId = 0;
  }

  /** Keeps track of (epoch, number), and of what is missing. False when the message is old. */
  accept(envelope: Envelope, mark: Mark | null): boolean {
    const { epoch, number, stamp } = envelope;
    this.aheadMs = aheadMs(envelope);
    if (epoch < this.epoch || (epoch === this.epoch && number <= this.number)) {
      if (!this.#isBelievable(epoch, number)) return false;
      this.miss(this.heard, stamp, "the numbers of the messages go back");
      this.jump();
    }
    if (this.#missBefore(envelope, mark)) this.snapshotId = 0;
    if (this.epoch !== 0 && epoch > this.epoch) this.#beginEpoch(number, mark);
    this.epoch = epoch;
    this.number = number;
    this.stopStamp = mark?.type === "stop" ? stamp : 0;
    return true;
  }

  /** The first message behind what is read: what is missing before it may have begun within. */
  beyond(envelope: Envelope, mark: Mark | null): void {
    this.aheadMs = aheadMs(envelope);
    if (this.#missBefore(envelope, mark)) this.stopStamp = 0;
    else if (mark?.type === "gap") this.mark(mark, envelope.stamp);
  }

  /** Notes what is missing between the last message and this one; false when nothing is. */
  #missBefore({ epoch, number, stamp }: Envelope, mark: Mark | null): boolean {
    if (this.epoch === 0 || epoch < this.epoch) return false;
    if (epoch > this.epoch) {
      const begin = epochBegin(number, mark);
      const reason = begin === null ? "messages are missing" : `the daemon was not running (${begin.reason})`;
      this.miss(this.stopStamp || this.heard, stamp, reason);
      return true;
    }
    if (number <= this.number + 1) return false;
    this.miss(this.heard, stamp, `${number - this.number - 1} messages are missing`);
    return true;
  }

  /** A stream is read in order: two old messages in a row say that it was the one before them whose number was wrong. */
  #isBelievable(epoch: number, number: number): boolean {
    const follows = epoch === this.#doubted.epoch && number === this.#doubted.number + 1;
    this.#doubted = { epoch, number };
    return follows;
  }

  /** A daemon that took its table over goes on where it was; else its flow ids mean nothing any more. */
  #beginEpoch(number: number, mark: Mark | null): void {
    if (tableGoesOn(epochBegin(number, mark), this)) return;
    this.forgetFlowIds();
    this.bridges = true;
  }

  /** What a mark says of the stream; true when a complete snapshot ends with it. */
  mark(mark: Mark, stamp: number): boolean {
    switch (mark.type) {
      case "snapshot-begin":
        this.snapshotId = mark.id;
        return false;
      case "snapshot-end":
        if (mark.id !== this.snapshotId) return false;
        this.snapshotId = 0;
        this.snapshotStamp = stamp;
        this.gaps.close(stamp);
        return true;
      case "gap": {
        this.miss(this.heard || stamp, stamp + OVERRUN_SETTLE_STAMPS, mark.reason, mark.events);
        return false;
      }
      case "commit":
        this.commitStamp = stamp;
        return false;
      case "epoch":
      case "role":
      case "stop":
        return false;
    }
  }

  /** What of it may be missing between two stamps. */
  gapsBetween(from: number, until: number): Gap[] {
    const { name: node, stopStamp } = this;
    const found = [...this.gaps.list(node, from, until)];
    if (stopStamp > 0 && stopStamp <= until) {
      const fromMs = stampMs(stopStamp) - this.aheadMs;
      found.push({ node, fromMs, untilMs: null, reason: "the daemon was stopped", events: null });
    }
    return found;
  }

  /** Its flow ids mean nothing any more; its rows stay until its next complete snapshot. */
  forgetFlowIds(): void {
    this.hasUnmapped ||= this.tracked > 0;
    this.slots.clear();
    this.tracked = 0;
  }

  map(flowId: number, slot: number): void {
    if (this.slots.get(flowId) < 0) this.tracked++;
    this.slots.set(flowId, slot);
  }

  unmap(flowId: number): void {
    if (this.slots.get(flowId) < 0) return;
    this.slots.delete(flowId);
    this.tracked--;
  }
}

/** The rule of claims, for nodes as a projection knows them. */
export function isNewer(stamp: number, node: NodeState, held: number, owner: NodeState): boolean {
  return isNewerClaim(stamp, node.name, held, owner.name);
}

/** True when a gap touches a range of times; null: from the beginning, to the end. */
export function touchesRange(gap: Gap, sinceMs: number | null, untilMs: number | null): boolean {
  const begins = gap.fromMs === null || untilMs === null || gap.fromMs <= untilMs;
  return begins && (gap.untilMs === null || sinceMs === null || gap.untilMs >= sinceMs);
}
