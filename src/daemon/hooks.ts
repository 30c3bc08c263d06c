import { type FSWatcher, readFileSync, watch } from "node:fs";
import type { Logger } from "pino";
import { type HookStart, isStartedBefore } from "../control/hook-start.js";
import type { HookRecord, HookTrace } from "../control/hook-trace.js";
import type { HookReport, HookRole, HookStatus, StatusReport } from "../control/protocol.js";
import type { NodeHandlers } from "../control/server.js";
import { errorText } from "../errors.js";
import { readProcessStat } from "../os/process-stat.js";
import type { OwnPast } from "../sync/own-past.js";
import type { EarlierRoles } from "../sync/ports/carrying.js";

/** USER_HZ is 100 for all programs on all architectures that Node.js supports. */
const TICKS_PER_SECOND = 100;
const MS_PER_TICK = 1000 / TICKS_PER_SECOND;

/** As many sync groups as `Roles` accepts. */
const GROUPS_MAX = 64;

/** The error of a hook whose process ended without reporting one. */
const ENDED = "the hook was ended before a daemon took it";

type Progress = (text: string) => void;
type Forget = (group: string) => void;
type Act = (role: HookRole, progress: Progress, group?: string) => Promise<HookReport>;

/** The last accepted hook of a group. */
interface TakenHook {
  readonly role: HookRole;
  readonly started: HookStart;
  readonly fromFifo: boolean;
  hasFailed: boolean;
}

interface Answer {
  readonly started: HookStart;
  readonly role: HookRole;
  readonly report: Promise<HookReport>;
}

/**
 * Handles ("takes") each hook once. A hook comes over the control socket, or from the trace that it left because no
 * daemon answered. keepalived starts its scripts in parallel, so they arrive in any order. The hook that started last
 * decides the role of its sync group. One that started before it arrives too late and is ignored. The trace records
 * which hooks were handled.
 */
export class Hooks {
  readonly #trace: HookTrace;
  readonly #act: Act;
  readonly #settled: () => Promise<void>;
  readonly #forget: Forget;
  readonly #log: Logger;
  /** The last accepted hook of each group. */
  readonly #last = new Map<string, TakenHook>();
  /** The last answer of each group. A hook that arrives both ways gets the same answer. */
  readonly #answers = new Map<string, Answer>();
  /** The hooks that are being handled. */
  readonly #running = new Set<HookRecord>();
  #watcher: FSWatcher | null = null;

  /**
   * `taken`: the hooks that earlier daemons handled in this boot. `settled` resolves when no commit runs any more: a hook
   * that is answered while its commit is under way counts as taken from then on.
   */
  constructor(parts: {
    trace: HookTrace;
    act: Act;
    settled: () => Promise<void>;
    forget: Forget;
    taken: readonly HookRecord[];
    log: Logger;
  }) {
    this.#trace = parts.trace;
    this.#act = parts.act;
    this.#settled = parts.settled;
    this.#forget = parts.forget;
    this.#log = parts.log;
    for (const record of parts.taken) this.#accept(record);
  }

  /**
   * Wraps a node's handlers so that its hooks pass through here and its status includes the last hook of each group.
   */
  around(handlers: NodeHandlers): NodeHandlers {
    const status = async (): Promise<StatusReport> => {
      const report = await handlers.status();
      const hooks = this.status();
      return hooks.length === 0 ? report : { ...report, hooks };
    };
    return { ...handlers, status, hook: this.hook.bind(this) };
  }

  /** As `Roles.hook`, except that a hook that started before the last handled one is answered without any effect. */
  hook(role: HookRole, progress: Progress, group = "", said?: HookStart): Promise<HookReport> {
    return this.#hear({ group, role, fromFifo: false }, progress, said);
  }

  #hear(heard: Pick<HookRecord, "group" | "role" | "fromFifo">, progress: Progress, said?: HookStart) {
    const nowTicks = ticksSinceBoot();
    const started = said ?? this.#arrival(heard.group, nowTicks);
    const saidMs = Date.now() - Math.max(0, nowTicks - started.ticks) * MS_PER_TICK;
    return this.#answer({ ...heard, started, saidMs, taken: false, error: null }, progress);
  }

  /** The groups that have a role, and whether it came out of the FIFO. */
  get groups(): ReadonlyMap<string, { readonly fromFifo: boolean }> {
    return this.#last;
  }

  /** True if this is the group's role, or the one that it is getting. */
  holds(group: string, role: HookRole): boolean {
    const last = this.#last.get(group);
    return last !== undefined && last.role === role && !last.hasFailed;
  }

  /** A role that keepalived has just written into its FIFO: the last one of its group. */
  take(group: string, role: HookRole): Promise<HookReport> {
    return this.#hear({ group, role, fromFifo: true }, () => undefined);
  }

  /** The group has no role any more. */
  forget(group: string): void {
    this.#last.delete(group);
    this.#answers.delete(group);
    this.#forget(group);
    try {
      this.#trace.forget(group);
    } catch (error) {
      this.#log.warn({ error: errorText(error) }, "the trace of a hook cannot be removed");
    }
  }

  /** The assumed start of a hook that does not report one: now, and after the last handled one. */
  #arrival(group: string, nowTicks: number): HookStart {
    const last = this.#last.get(group)?.started.ticks ?? 0;
    return { ticks: Math.max(nowTicks, last + 1), pid: 0 };
  }

  /** True if the hook is accepted; it is then the last one of its group. False if a later one was handled already. */
  #accept({ group, role, started, fromFifo = false }: HookRecord): boolean {
    const last = this.#last.get(group);
    if (last !== undefined && isStartedBefore(started, last.started)) return false;
    // `act` refuses further groups.
    if (last !== undefined || this.#last.size < GROUPS_MAX) {
      this.#last.set(group, { role, started, fromFifo, hasFailed: false });
    }
    return true;
  }

  #answer(record: HookRecord, progress: Progress): Promise<HookReport> {
    const { group, role, started } = record;
    const last = this.#answers.get(group);
    if (last !== undefined && last.role === role && isSame(last.started, started)) return last.report;
    const previous = this.#last.get(group)?.role ?? "unknown";
    if (!this.#accept(record)) {
      this.#log.info({ role, current: previous, ...named(group) }, "hook ignored: keepalived started a later one");
      return Promise.resolve({ role, previous, commit: null, durationMs: 0, ignored: true });
    }
    const report = this.#take(record, progress);
    if (this.#last.has(group)) this.#answers.set(group, { started, role, report });
    return report;
  }

  async #take(record: HookRecord, progress: Progress): Promise<HookReport> {
    this.#running.add(record);
    this.#keep(record);
    try {
      const report = await this.#act(record.role, progress, record.group === "" ? undefined : record.group);
      if (report.commit?.underWay === true) void this.#settled().finally(() => this.#taken(record));
      else this.#taken(record);
      return report;
    } catch (error) {
      this.#keep({ ...record, error: errorText(error) });
      const last = this.#last.get(record.group);
      if (last !== undefined && isSame(last.started, record.started)) last.hasFailed = true;
      this.#running.delete(record);
      throw error;
    }
  }

  #taken(record: HookRecord): void {
    this.#keep({ ...record, taken: true });
    this.#running.delete(record);
  }

  /** Without a trace, the role is still kept until this daemon ends. */
  #keep(record: HookRecord): void {
    try {
      this.#trace.write(record);
    } catch (error) {
      this.#log.warn(
        { error: errorText(error) },
        "the hook's trace cannot be written: a restart will not know the role",
      );
    }
  }

  /**
   * Handles the hooks that no daemon has handled, now and whenever a hook records its failure in the trace. A hook
   * whose process still waits for a daemon is left out, because it comes over the control socket.
   */
  open(): void {
    for (const record of this.#read()) if (record.error !== null || !isWaiting(record)) this.#takeUp(record);
    try {
      this.#watcher = watch(this.#trace.directory, () => {
        for (const record of this.#read()) if (record.error !== null) this.#takeUp(record);
      });
      this.#watcher.on("error", (error) =>
        this.#log.warn({ error: errorText(error) }, "hooks' traces are not watched"),
      );
    } catch (error) {
      this.#log.warn({ error: errorText(error) }, "hooks' traces are not watched");
    }
  }

  /** Handles no more hooks from the trace. */
  close(): void {
    this.#watcher?.close();
  }

  #takeUp(record: HookRecord): void {
    const { group, role, started, taken, saidMs } = record;
    const error = record.error ?? ENDED;
    const last = this.#last.get(group)?.started;
    if (taken || (last !== undefined && !isStartedBefore(last, started))) return;
    const fields = { role, ...named(group), said: new Date(saidMs).toISOString(), error };
    this.#log.warn(fields, "takes up a hook that failed");
    this.#answer({ ...record, error }, () => undefined).catch((failed: unknown) =>
      this.#log.error({ ...fields, error: errorText(failed) }, "the hook failed again"),
    );
  }

  #read(): HookRecord[] {
    try {
      return this.#trace.read();
    } catch (error) {
      this.#log.warn({ error: errorText(error) }, "the hooks' traces cannot be read");
      return [];
    }
  }

  /** The last hook of each group. */
  status(): HookStatus[] {
    const running = [...this.#running];
    return this.#read().map((record) => {
      const { group, role, started, saidMs, taken } = record;
      if (taken) return { group, role, saidMs, state: "taken", error: record.error };
      const acts = running.some((other) => other.group === group && isSame(other.started, started));
      if (acts || (record.error === null && isWaiting(record))) {
        return { group, role, saidMs, state: "under way", error: record.error };
      }
      return { group, role, saidMs, state: "failed", error: record.error ?? ENDED };
    });
  }
}

/**
 * The records of this boot in the trace, which is cleaned up. An unusable trace yields none, and the log has the
 * reason: a node works without it.
 */
export function readTrace(trace: HookTrace, log: Logger): HookRecord[] {
  try {
    trace.prepare();
    trace.tidy();
    return trace.read();
  } catch (error) {
    log.warn({ error: errorText(error) }, "the hooks' traces cannot be read");
    return [];
  }
}

/**
 * The roles that the node had before this daemon. If hooks left no trace, the own stream records the role during which
 * the kernel's table was built. After a reboot, the kernel has another table.
 */
export function earlierRoles(
  remembered: readonly HookRecord[],
  { lastRole, lastMarkMs }: Pick<OwnPast, "lastRole" | "lastMarkMs">,
): EarlierRoles {
  const taken = remembered.filter((hook) => hook.taken);
  const isSameTable = remembered.length === 0 && lastMarkMs !== null && isOfThisBoot(lastMarkMs);
  return {
    groups: new Map(taken.map(({ group, role }) => [group, role])),
    table: isSameTable ? lastRole : "unknown",
  };
}

function isSame(a: HookStart, b: HookStart): boolean {
  return a.ticks === b.ticks && a.pid === b.pid;
}

function isWaiting({ started }: HookRecord): boolean {
  return readProcessStat(started.pid)?.startTicks === started.ticks;
}

function named(group: string): { group?: string } {
  return group === "" ? {} : { group };
}

/**
 * True if this time of this machine's clock lies in this boot. The answer may be wrong if the clock was set since then.
 */
export function isOfThisBoot(wallMs: number): boolean {
  const nowMs = Date.now();
  return wallMs <= nowMs && wallMs >= nowMs - ticksSinceBoot() * MS_PER_TICK;
}

function ticksSinceBoot(): number {
  return Math.round(Number(readFileSync("/proc/uptime", "latin1").split(" ")[0]) * TICKS_PER_SECOND);
}
