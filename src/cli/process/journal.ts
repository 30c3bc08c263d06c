import { fstatSync } from "node:fs";
import { formatLogText, parseLogEntry } from "./log-line.js";
import { severity } from "./severity.js";

/** True if systemd's journal reads this file descriptor, as it does in a service (JOURNAL_STREAM, systemd.exec(5)). */
export function isJournal(fd: number): boolean {
  const named = process.env.JOURNAL_STREAM;
  if (named === undefined) return false;
  try {
    const { dev, ino } = fstatSync(fd);
    return `${dev}:${ino}` === named;
  } catch {
    return false;
  }
}

/**
 * A line of pino as the journal takes it: `<4>not in sync peer=fw2 [peer.not-in-sync]`, with the priority of syslog(3) in
 * front (sd-daemon(3)), so that `journalctl -p warning` finds it; anything else unchanged.
 */
export function formatJournalLine(line: string): string {
  const entry = parseLogEntry(line);
  return entry === null ? line : `<${severity(Number(entry.level))}>${formatLogText(entry)}\n`;
}
