import { closeSync, openSync, writeSync } from "node:fs";
import type { StatsConfig } from "../config/config.js";
import { ConntrailError, errorText } from "../errors.js";
import { formatEnded, formatMissed } from "../flow/format.js";
import type { DecodedFlow, RareAttributes } from "../flow/record.js";
import { ctimeText } from "../os/ctime.js";
import { SEVERITY } from "../os/severity.js";
import { SyslogSocket } from "../os/syslog.js";
import type { EndedFlows } from "../sync/ports/ended-flows.js";

/** The name under which conntrackd writes to syslog. */
const PROGRAM = "conntrack-tools";
/** Readable by root only, as in conntrackd: the log names hosts. */
const MODE = 0o600;
/** Lines of one turn are written at once, and no later than when they are this long. */
const GATHERED_BYTES_MAX = 64 * 1024;

/**
 * The log of ended flows, in conntrackd's format (`Stats { LogFile }`): the time as ctime(3) prints it, a tab, and the
 * flow. Nothing waits for it: lines that the file or syslog does not take are counted.
 */
export class EndedLog implements EndedFlows {
  /** The group `ended` of `stats`. */
  readonly counters = { lines: 0, missedEnds: 0, lostInFile: 0, lostInSyslog: 0 };
  readonly #devLog: string | undefined;
  readonly #nowMs: () => number;
  #to: StatsConfig;
  #syslog: SyslogSocket | null;
  #fd: number | null;
  #gathered = "";
  #lines = 0;
  #turn: NodeJS.Immediate | null = null;
  #second = 0;
  #time = "";

  /** `nowMs`: milliseconds since the Unix epoch. Throws ConntrailError CONFIG when the file cannot be opened. */
  constructor(to: StatsConfig, nowMs: () => number, devLog?: string) {
    this.#to = to;
    this.#devLog = devLog;
    this.#fd = to.file === null ? null : openLog(to.file);
    this.#syslog = this.#openSyslog(to.syslog);
    this.#nowMs = nowMs;
  }

  #openSyslog(facility: string | null): SyslogSocket | null {
    return facility === null ? null : new SyslogSocket(facility, PROGRAM, this.#devLog);
  }

  ended(flow: DecodedFlow): void {
    this.#write(formatEnded(flow));
  }

  missed(words: Uint32Array, base: number, rare: RareAttributes | null): void {
    this.counters.missedEnds++;
    this.#write(formatMissed(words, base, rare));
  }

  /**
   * Opens a new file of the same name, after logrotate has moved the old one; or writes elsewhere from now on. Throws like
   * the constructor, and then keeps all as it was.
   */
  reopen(to: StatsConfig = this.#to): void {
    this.#flush();
    const fd = to.file === null ? null : openLog(to.file);
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = fd;
    if (to.syslog !== this.#to.syslog) {
      this.#syslog?.close();
      this.#syslog = this.#openSyslog(to.syslog);
    }
    this.#to = to;
  }

  /** Writes what was gathered. */
  close(): void {
    this.#flush();
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
    this.#syslog?.close();
  }

  #write(line: string): void {
    const nowMs = this.#nowMs();
    this.counters.lines++;
    if (this.#syslog !== null && !this.#syslog.send(SEVERITY.info, new Date(nowMs), line)) this.counters.lostInSyslog++;
    if (this.#fd === null) return;
    this.#gathered += `${this.#timeAt(nowMs)}\t${line}\n`;
    this.#lines++;
    if (this.#gathered.length >= GATHERED_BYTES_MAX) this.#flush();
    else this.#turn ??= setImmediate(() => this.#flush());
  }

  #timeAt(nowMs: number): string {
    const second = Math.floor(nowMs / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#time = ctimeText(new Date(nowMs));
    }
    return this.#time;
  }

  #flush(): void {
    if (this.#turn !== null) clearImmediate(this.#turn);
    this.#turn = null;
    const text = Buffer.from(this.#gathered, "utf8");
    const lines = this.#lines;
    this.#gathered = "";
    this.#lines = 0;
    if (this.#fd === null) return;
    try {
      for (let at = 0; at < text.length; ) at += writeSync(this.#fd, text, at);
    } catch {
      this.counters.lostInFile += lines;
    }
  }
}

function openLog(path: string): number {
  try {
    return openSync(path, "a", MODE);
  } catch (cause) {
    throw new ConntrailError("CONFIG", `stats.file ${path} cannot be written: ${errorText(cause)}`, { cause });
  }
}
