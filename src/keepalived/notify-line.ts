import type { HookRole } from "../control/protocol.js";

/**
 * The lines that keepalived writes into a notify FIFO (keepalived.conf(5), `vrrp_notify_fifo`):
 *
 *   INSTANCE "lan" MASTER 150
 *   GROUP "firewall" MASTER 0
 *   INSTANCE "lan" BACKUP_PRIORITY 130
 */
export interface NotifyLine {
  /** A sync group, or one instance. The instances of a group have lines of their own beside the group's. */
  readonly kind: "GROUP" | "INSTANCE";
  readonly name: string;
  /** The role that the new state stands for; null: an event that changes no state. */
  readonly role: HookRole | null;
}

/** A state of VRRP as a role. STOP: keepalived ends. DELETED: a reload has removed the instance. */
const ROLES: Readonly<Record<string, HookRole | null>> = {
  MASTER: "primary",
  BACKUP: "backup",
  FAULT: "fault",
  STOP: "fault",
  DELETED: "fault",
  MASTER_RX_LOWER_PRI: null,
  MASTER_PRIORITY: null,
  BACKUP_PRIORITY: null,
};

/** Many times the longest line that keepalived writes. */
export const LINE_BYTES_MAX = 1024;

const LINE = /^(GROUP|INSTANCE) "([^"]+)" ([A-Z_]+)(?: -?\d+)?$/;

/** A line without its line feed; null if keepalived writes no such line. */
export function parseNotifyLine(text: string): NotifyLine | null {
  const [, kind, name = "", state = ""] = LINE.exec(text) ?? [];
  const role = Object.hasOwn(ROLES, state) ? ROLES[state] : undefined;
  if (role === undefined) return null;
  return { kind: kind as NotifyLine["kind"], name, role };
}

/** Cuts what comes out of a FIFO into lines, whatever pieces it comes in. Holds at most one line that is not complete. */
export class LineSplitter {
  /** Lines that were longer than LINE_BYTES_MAX, and were dropped. */
  oversized = 0;
  #partial = "";
  #isDropping = false;

  /** The lines that this piece completes. */
  push(chunk: Uint8Array): string[] {
    const parts = (this.#partial + Buffer.from(chunk).toString("latin1")).split("\n");
    this.#partial = parts.pop() ?? "";
    if (this.#isDropping && parts.length > 0) {
      parts.shift();
      this.#isDropping = false;
    }
    const lines = parts.filter((line) => line.length <= LINE_BYTES_MAX);
    this.oversized += parts.length - lines.length;
    if (this.#isDropping) this.#partial = "";
    else if (this.#partial.length > LINE_BYTES_MAX) {
      this.oversized++;
      this.#partial = "";
      this.#isDropping = true;
    }
    return lines;
  }

  /** The writer is gone: nobody completes what it began. */
  end(): void {
    this.#partial = "";
    this.#isDropping = false;
  }
}
