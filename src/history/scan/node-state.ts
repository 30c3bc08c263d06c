/** What is known of each node at the place up to which its stream has been read, and where events of it may be missing. */
import { STAMPS_PER_MS, stampMs } from "../../flow/clock.js";
import { SlotMap } from "../../flow/slot-map.js";
import { isNewerClaim } from "../../ownership/claim.js";
import { aheadMs, type Envelope, type Position } from "../../stream/format/envelope.js";
import { epochBegin, type Mark, tableGoesOn } from "../../stream/format/mark.js";
import type { Gap } from "../connection.js";

/** A stretch of a node's stream, by stamps, in which events may be missing. Both ends are included. */
export interface StampGap {
  /** 0: from the beginning. */
  readonly from: number;
  /** Infinity: up to the end. */
  readonly until: number;
  readonly reason: string;
  readonly events: number | null;
  /** How far its stamps are ahead of the node's clock; left out: 0. */
  readonly aheadMs?: number;
}

/** After an overrun the daemon dumps the kernel's table. A flow that the dump finds may have begun before the overrun. */
const OVERRUN_SETTLE_STAMPS = 5000 * STAMPS_PER_MS;
/** How many gaps are kept one by one. All later ones are merged into the last. */
const GAPS_MAX = 1000;

interface KeptGap {
  readonly gap: StampGap;
  /** The last stamp of this gap and all before it: a search backwards stops where it is too early. */
  readonly latest: number;
}

/** The gaps of one node, in the order in which they were found. */
export class GapList {
  readonly #gaps: KeptGap[] = [];
  #open: StampGap | null = null;

  /** Opens a gap at a stamp, unless one is open. */
  open(from: number, reason: string): void {
    this.#open ??= { from, until: Number.POSITIVE_INFINITY, reason, events: null };
  }

  /** Ends the open gap at a stamp. */
  close(until: number): void {
    if (this.#open !== null) this.add({ ...this.#open, until });
    this.#open = null;
  }

  /** Adds a gap whose end is known. */
  add(gap: StampGap): void {
    const last = this.#gaps.at(-1);
    const latest = Math.max(last?.latest ?? 0, gap.until);
    if (last === undefined || this.#gaps.length < GAPS_MAX) {
      this.#gaps.push({ gap, latest });
      return;
    }
    const { from, until } = last.gap;
    const reason = "more gaps than are kept one by one";
    this.#gaps[GAPS_MAX - 1] = { gap: { from, until: Math.max(until, gap.until), reason, events: null }, latest };
  }

  /** True when a gap touches [from, until]. */
  touches(from: number, until: number): boolean {
    for (let i = this.#gaps.length - 1; i >= 0; i--) {
      const kept = this.#gaps[i];
      if (kept === undefined || kept.latest < from) break;
      if (kept.gap.from <= until && kept.gap.until >= from) return true;
    }
    return this.#open !== null && this.#open.from <= until;
  }

  /** The gaps that touch [from, until], in the form in which they are answered. */
  *list(node: string, from: number, until: number): Iterable<Gap> {
    const closed = this.#gaps.map(({ gap }) => gap);
    for (const gap of this.#open === null ? closed : [this.#open, ...closed]) {
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

/** What is known of one node at the place up to which its stream has been read. */
export class NodeState {
  readonly name: string;
  readonly index: number;
  readonly gaps = new GapList();
  /** Flow id to slot, of the connections that the node carries and the filter lets through. */
  readonly slots = new SlotMap();
  /** How many those are. With none, updates and ends are skipped. */
  tracked = 0;
  /** Epoch and number of the last message; epoch 0: nothing that the next message must follow on. */
  epoch = 0;
  number = 0;
  /** Stamp of the last message. */
  heard = 0;
  /** How far the last message is ahead of the node's clock. */
  aheadMs = 0;
  /** The snapshot that is being read; 0 for none. */
  snapshotId = 0;
  /** Stamp of the end of the last complete snapshot; 0 for none. */
  snapshotStamp = 0;
  /** The node carries rows that no flow id refers to. Its next complete snapshot lists them again or ends them. */
  hasUnmapped = false;
  /** Those rows are of an earlier epoch: a row that the node publishes as new may be one of them, which it has forgotten. */
  bridges = false;
  /** Stamp of the node's last commit of other nodes' flows; 0 for none. */
  commitStamp = 0;
  /** Stamp of the node's clean stop, if that was its last message; else 0. */
  stopStamp = 0;

  /** The last message that was older than the one before it. */
  #doubted: Position = { epoch: -1, number: 0 };

  constructor(name: string, index: number) {
    this.name = name;
    this.index = index;
  }

  /** Notes that events may be missing between two stamps. */
  miss(from: number, until: number, reason: string, events: number | null = null): void {
    this.gaps.add({ from, until, reason, events, aheadMs: this.aheadMs });
  }

  /** The reader has skipped a part of the stream: the next message need not follow on the last. */
  jump(): void {
    this.forgetFlowIds();
    this.bridges = false;
    this.epoch = 0;
    this.snapshotId = 0;
  }

  /** Takes note of a message's epoch and number, and of a gap before it. Returns false when the message is old. */
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

  /** Takes note of the first message behind the range: a gap before it may begin within the range. */
  beyond(envelope: Envelope, mark: Mark | null): void {
    this.aheadMs = aheadMs(envelope);
    if (this.#missBefore(envelope, mark)) this.stopStamp = 0;
    else if (mark?.type === "gap") this.mark(mark, envelope.stamp);
  }

  /** Notes the gap between the last message and this one. Returns false when there is none. */
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

  /** A stream is read in order. So two old messages in a row are right, and the message before them had a wrong number. */
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

  /** Takes note of a mark. Returns true when a complete snapshot ends with it. */
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
      case "unknown":
        return false;
    }
  }

  /** Where events of the node may be missing between two stamps. */
  gapsBetween(from: number, until: number): Gap[] {
    const { name: node, stopStamp } = this;
    const found = [...this.gaps.list(node, from, until)];
    if (stopStamp > 0 && stopStamp <= until) {
      const fromMs = stampMs(stopStamp) - this.aheadMs;
      found.push({ node, fromMs, untilMs: null, reason: "the daemon was stopped", events: null });
    }
    return found;
  }

  /** Discards the node's flow ids. Its rows stay until its next complete snapshot. */
  forgetFlowIds(): void {
    this.hasUnmapped ||= this.tracked > 0;
    this.slots.clear();
    this.tracked = 0;
  }

  /** Makes a flow id refer to a slot. */
  map(flowId: number, slot: number): void {
    if (this.slots.get(flowId) < 0) this.tracked++;
    this.slots.set(flowId, slot);
  }

  /** Makes a flow id refer to nothing. */
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
