import type { Logger } from "pino";
import { GROUP_NAME, type HookRole } from "../control/protocol.js";
import { errorText } from "../errors.js";
import { FifoReader } from "./fifo-reader.js";
import { LineSplitter, type NotifyLine, parseNotifyLine } from "./notify-line.js";

/** What the roles that keepalived writes are handed to. */
export interface RoleSink {
  /** The groups that have a role, and whether it came out of the FIFO; "" for hooks that named none. */
  readonly groups: ReadonlyMap<string, { readonly fromFifo: boolean }>;
  /** True if the group has this role, or is just getting it. */
  holds(group: string, role: HookRole): boolean;
  /** Takes a role. Roles count in the order of these calls. */
  take(group: string, role: HookRole): Promise<unknown>;
  /** The group has no role any more. */
  forget(group: string): void;
}

/**
 * keepalived opens the FIFO again within milliseconds when it is reloaded, and within a second or two when it or its
 * VRRP process is restarted. After this time it has ended without a word, or was never there.
 */
const AWAY_MS_MAX = 10_000;

/** As much of a full pipe as may be all that a writer could put there: it drops what does not fit. */
const FULL_BYTES = 60 * 1024;

/**
 * Takes the roles of this node from keepalived's notify FIFO. keepalived writes each change of state as a line, in
 * order, and repeats nothing by itself. What it wrote while no daemon ran waits in the FIFO, because keepalived holds it
 * open. The roles of earlier daemons are remembered as those of hooks are. So a daemon that starts knows what keepalived
 * last said, if keepalived has run all the time; if it has not, it says so again.
 *
 * Lines of sync groups count. The instances of a group have lines too, which say nothing more. If there is no sync
 * group, the instances count. `groups` of the configuration names those that count instead.
 */
export class NotifyFifo {
  readonly counters = {
    lines: 0,
    /** Lines that gave a group a new role. */
    roles: 0,
    /** Lines of a state that the group has already, as a reload writes them, or that a later line of one read outdates. */
    repeated: 0,
    /** Lines of instances of a group, of groups that do not count, and of events that change no state. */
    ignored: 0,
    malformed: 0,
    oversized: 0,
    /** keepalived ended without saying so. */
    vanished: 0,
    /** The FIFO was full: keepalived may have dropped lines. */
    full: 0,
  };
  readonly #path: string;
  /** Null: all sync groups; the instances if there is none. */
  readonly #named: ReadonlySet<string> | null;
  readonly #roles: RoleSink;
  readonly #log: Logger;
  readonly #awayMsMax: number;
  readonly #splitter = new LineSplitter();
  /** The sync groups that have been named. */
  readonly #groups = new Set<string>();
  /** Instances that have a role because no sync group has been named. */
  readonly #instances = new Set<string>();
  #reader: FifoReader | null = null;
  #away: NodeJS.Timeout | null = null;
  #failure: string | null = null;
  #mayLack = false;
  #isRefusalLogged = false;

  constructor(parts: {
    path: string;
    groups: readonly string[] | null;
    roles: RoleSink;
    log: Logger;
    /** How long keepalived may be away before its roles end; for tests. */
    awayMsMax?: number;
  }) {
    this.#path = parts.path;
    this.#named = parts.groups === null ? null : new Set(parts.groups);
    this.#roles = parts.roles;
    this.#log = parts.log;
    this.#awayMsMax = parts.awayMsMax ?? AWAY_MS_MAX;
  }

  /** Begins to read. Throws ConntrailError CONTROL if the FIFO cannot be made or opened. */
  open(): void {
    this.#reader = new FifoReader(this.#path, {
      read: (chunk) => this.#read(chunk),
      released: () => {
        this.#splitter.end();
        this.#awaitWriter();
      },
      failed: (error) => {
        this.#failure = errorText(error);
        this.#log.error({ error: this.#failure }, "keepalived's FIFO cannot be read any more");
      },
    });
    this.#awaitWriter();
  }

  /** Reads no more. What keepalived writes from now on is the next daemon's. */
  close(): void {
    if (this.#away !== null) clearTimeout(this.#away);
    this.#reader?.close();
    this.#reader = null;
  }

  /** What the operator should know, in words. */
  get warnings(): string[] {
    if (this.#failure !== null) return [`keepalived's FIFO cannot be read: ${this.#failure}`];
    const found: string[] = [];
    const reader = this.#reader;
    if (reader !== null && this.#away === null && !reader.isHeld) {
      found.push(
        `keepalived does not write into ${this.#path}: does it run, with vrrp_notify_fifo ${this.#path}? then reload it`,
      );
    }
    if (this.#mayLack) {
      found.push(`${this.#path} was full, and keepalived may have dropped lines: reload keepalived, and see the role`);
    }
    return found;
  }

  /** A role lasts as long as keepalived is there to change it. */
  #awaitWriter(): void {
    if (this.#away !== null) clearTimeout(this.#away);
    this.#away = setTimeout(() => {
      this.#away = null;
      if (this.#reader?.isHeld === false) this.#vanished();
    }, this.#awayMsMax);
    this.#away.unref();
  }

  #vanished(): void {
    const given = [...this.#roles.groups].filter(([, { fromFifo }]) => fromFifo);
    const left = given.map(([group]) => group).filter((group) => !this.#roles.holds(group, "fault"));
    if (left.length === 0) return;
    this.counters.vanished++;
    this.#log.warn({ groups: left, fifo: this.#path }, "keepalived is gone without a word: this node steps down");
    for (const group of left) this.#take(group, "fault");
  }

  /** Of the lines that are there at once, the last one of each group counts: the others are over. */
  #read(chunk: Uint8Array): void {
    if (chunk.length >= FULL_BYTES) {
      this.counters.full++;
      this.#mayLack = true;
    } else this.#mayLack = false;
    const lines = this.#splitter.push(chunk).flatMap((text) => this.#parse(text));
    this.counters.oversized = this.#splitter.oversized;
    for (const { kind, name } of lines) if (kind === "GROUP") this.#useGroup(name);
    const last = new Map<string, HookRole>();
    for (const line of lines) {
      if (line.role === null || !this.#counts(line)) {
        this.counters.ignored++;
        this.#dropInstance(line);
        continue;
      }
      if (last.delete(line.name)) this.counters.repeated++;
      last.set(line.name, line.role);
      if (line.kind === "INSTANCE") this.#instances.add(line.name);
    }
    // keepalived names every group: what a hook without a name said, or a notify script of before, is outdated.
    if (last.size > 0 && this.#roles.groups.has("")) this.#roles.forget("");
    for (const [group, role] of last) this.#take(group, role);
  }

  #parse(text: string): NotifyLine[] {
    this.counters.lines++;
    const line = parseNotifyLine(text);
    if (line !== null && GROUP_NAME.test(line.name)) return [line];
    this.counters.malformed++;
    if (!this.#isRefusalLogged) {
      const allowed = "allowed are letters, digits, dots, hyphens and underscores, at most 64";
      this.#log.warn(
        { event: "keepalived.line-unusable", line: text.slice(0, 200) },
        `a line in keepalived's FIFO is not usable: in names, ${allowed}`,
      );
    }
    this.#isRefusalLogged = true;
    return [];
  }

  #counts({ kind, name }: NotifyLine): boolean {
    if (this.#named !== null) return this.#named.has(name);
    return kind === "GROUP" || this.#groups.size === 0;
  }

  /** There are sync groups, so the roles of instances have never counted. */
  #useGroup(group: string): void {
    this.#groups.add(group);
    if (this.#named !== null) return;
    for (const name of this.#instances) if (!this.#groups.has(name)) this.#roles.forget(name);
    this.#instances.clear();
  }

  /** An instance that had a role of its own before the daemon was started, and belongs to a sync group now. */
  #dropInstance({ kind, name }: NotifyLine): void {
    if (kind === "GROUP" || this.#named !== null || this.#groups.has(name)) return;
    if (this.#roles.groups.get(name)?.fromFifo === true) this.#roles.forget(name);
  }

  #take(group: string, role: HookRole): void {
    if (this.#roles.holds(group, role)) {
      this.counters.repeated++;
      return;
    }
    this.counters.roles++;
    this.#roles.take(group, role).catch((error: unknown) => {
      this.#log.error({ role, group, error: errorText(error) }, "a role that keepalived gave failed");
    });
  }
}
