/** What a complete snapshot does not make good by itself: losses of one stream that concern the flows of other streams. */
import { isAfter, type Position } from "../../stream/format/envelope.js";
import type { EpochMark } from "../../stream/format/mark.js";

/** What was lost before a complete snapshot. */
export interface Repair {
  /** Messages of the peer were missing: its claims may have been among them. */
  readonly skipped: boolean;
  /** Messages that had been applied are gone from the peer's stream: its claims may have been among them. */
  readonly retracted: boolean;
}

/** Notes the losses of a peer's stream until a complete snapshot of the peer has been read. */
export class Losses {
  #skipped = false;
  #retracted = false;

  /** Messages were not read. */
  skip(): void {
    this.#skipped = true;
  }

  /** Messages that were read are gone from the stream. */
  retract(): void {
    this.#retracted = true;
  }

  /** An epoch begins (null: its first mark was missed) that does not take over the table as of `end`, the last message read. */
  noteEpoch(begin: EpochMark | null, end: Position): void {
    if (begin === null) this.skip();
    else if (begin.previousNumber === 0 || isAfter(end, { epoch: begin.previousEpoch, number: begin.previousNumber })) {
      this.retract();
    }
  }

  /** A complete snapshot has been read. */
  repair(done: (repair: Repair) => void): void {
    const [skipped, retracted] = [this.#skipped, this.#retracted];
    this.#skipped = false;
    this.#retracted = false;
    if (skipped || retracted) done({ skipped, retracted });
  }
}
