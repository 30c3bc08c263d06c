import { cpSync } from "node:fs";
import { ConntrailError, errorText } from "../errors.js";
import { type FailoverResult, failOver } from "../lab/failover.js";
import type { CommitLine, Firewall } from "../lab/firewall.js";
import { cachedFlows, establishedTo, isNated } from "../lab/flow-view.js";
import { Lab, labObstacle } from "../lab/lab.js";
import { waitFor } from "../lab/process.js";
import { ECHO_PORT, sessionTargets } from "../lab/sessions.js";
import { SSH_PORT } from "../lab/ssh.js";
import { FIREWALLS_MAX } from "../lab/topology.js";
import { columnWidths } from "./process/terminal.js";

/** Options of the demonstration. */
export interface DemoOptions {
  /** 2 to 9; at most two of them are cut off. */
  readonly firewalls?: number;
  /** TCP sessions, one of them by ssh. */
  readonly sessions?: number;
  /** Prints one JSON document at the end; the steps go to standard error. */
  readonly json?: boolean;
  /** Directory for the logs of daemons and keepalived. */
  readonly logs?: string;
}

const FIREWALLS_DEFAULT = 3;
const SESSIONS_DEFAULT = 200;
const SESSIONS_MAX = 5_000;
/** A dead primary is noticed after 0.15 s: before TCP has sent again, which it does after 0.2 s and after 0.6 s. */
const ADVERT_SECONDS = 0.05;
const READY_TIMEOUT_MS = 30_000;
const SYNC_TIMEOUT_MS = 20_000;
const ANSWER_TIMEOUT_MS = 20_000;
const FAILOVERS_MAX = 2;
const STILL_WAITING_MS = 2_000;

/**
 * The main job where one can watch it: firewalls in network namespaces, sessions through them, the primary cut off
 * without warning, then the next one. Gives the exit code: 0 when every session lived on, 1 when not.
 * @throws ConntrailError USAGE for an option out of its range
 */
export async function runDemo(options: DemoOptions = {}): Promise<number> {
  requireRange("--firewalls", options.firewalls, 2, FIREWALLS_MAX);
  requireRange("--sessions", options.sessions, 1, SESSIONS_MAX);
  const show = new Progress(options.json === true ? process.stderr : process.stdout);
  const obstacle = labObstacle();
  if (obstacle !== undefined) {
    process.stderr.write(`conntrail demo: ${obstacle}\n`);
    return 1;
  }
  show.step("building firewalls, a client and a server in network namespaces");
  let lab: Lab | undefined;
  try {
    const firewalls = options.firewalls ?? FIREWALLS_DEFAULT;
    lab = await Lab.create({ firewalls, fifo: true, advertSeconds: ADVERT_SECONDS });
    return await demonstrate(lab, options, show);
  } catch (error) {
    process.stderr.write(`conntrail demo: ${errorText(error)}\n`);
    if (lab) show.complaints(lab.firewalls);
    return 1;
  } finally {
    if (lab && options.logs !== undefined) saveLogs(lab, options.logs);
    await lab?.close();
    show.step("everything is taken down");
  }
}

function requireRange(option: string, value: number | undefined, min: number, max: number): void {
  if (value === undefined || (Number.isInteger(value) && value >= min && value <= max)) return;
  throw new ConntrailError("USAGE", `${option} ${value}: allowed is a number from ${min} to ${max}`);
}

async function demonstrate(lab: Lab, options: DemoOptions, show: Progress): Promise<number> {
  const count = options.sessions ?? SESSIONS_DEFAULT;
  show.result(`${lab.firewalls.length} firewalls: ruleset that drops what it does not know, source NAT, IPv4 and IPv6`);
  show.step("starting conntrail and its nats-server on each firewall");
  await show.during("the daemons to be ready", lab.startDaemons(READY_TIMEOUT_MS));
  show.result("all daemons are ready");
  show.step("starting keepalived on each firewall");
  const election = lab.startKeepalived((firewall) => firewall.conntrailPaths());
  let primary = await show.during("a primary", election);
  show.result(`${primary.name} is primary`);
  show.step(`opening ${count} TCP sessions from client to server, one of them by ssh`);
  const opening = lab.openSessions(sessionTargets(count - 1), { ssh: true });
  const sessions = await show.during("the sessions to open", opening);
  await sessions.mark();
  const before = await sessions.settle(ANSWER_TIMEOUT_MS);
  show.result(`${before.answering} sessions answer, longest gap ${before.longestGapMs} ms`);
  const results: FailoverResult[] = [];
  for (let round = 0; round < Math.min(FAILOVERS_MAX, lab.firewalls.length - 1); round++) {
    await waitReplicated(lab, primary, count, show);
    show.step(`cutting ${primary.name} off without warning: processes killed, links down`);
    const result = await show.during("all sessions to answer", failOver(lab, primary, "cut", ANSWER_TIMEOUT_MS));
    results.push(result);
    primary = result.to;
    show.failover(result);
    if (result.report.answering < count) show.complaints(lab.firewalls);
    await showInternal(primary, count, show);
  }
  const alive = results.at(-1)?.report.answering ?? 0;
  show.table(results);
  if (options.json === true) process.stdout.write(`${JSON.stringify(demoReport(results, count), null, 2)}\n`);
  return alive === count && results.every((result) => result.report.answering === count) ? 0 : 1;
}

/** Waits until each backup is in sync with the primary and has all sessions in its external cache. */
async function waitReplicated(lab: Lab, primary: Firewall, count: number, show: Progress): Promise<void> {
  show.step(`waiting until the backups hold the ${count} sessions`);
  for (const backup of lab.backups(primary)) {
    let held = 0;
    const holding = waitFor(
      `${count} sessions in the external cache of ${backup.name}`,
      SYNC_TIMEOUT_MS,
      async () => {
        held = establishedTo(await cachedFlows(backup, "external"), [ECHO_PORT, SSH_PORT]).length;
        return held >= count && (await inSyncWith(backup, primary));
      },
      { intervalMs: 200 },
    ).catch((error: unknown) => {
      throw new ConntrailError("TIMEOUT", `${errorText(error)}; it holds ${held}`);
    });
    await show.during(`${backup.name} to hold them`, holding);
    show.result(`${backup.name} holds ${held} of them in its external cache, in sync with ${primary.name}`);
  }
}

/**
 * True when `backup` is in sync with the primary. Its overall status cannot be in sync while another firewall is dead.
 */
async function inSyncWith(backup: Firewall, primary: Firewall): Promise<boolean> {
  const result = await backup.conntrail("status", "--json");
  const status = JSON.parse(result.stdout) as { peers?: { node?: string; inSync?: boolean }[] };
  return status.peers?.find((peer) => peer.node === primary.name)?.inSync === true;
}

async function showInternal(primary: Firewall, count: number, show: Progress): Promise<void> {
  const flows = establishedTo(await cachedFlows(primary, "internal"), [ECHO_PORT, SSH_PORT]);
  const nated = flows.filter(isNated).length;
  show.result(
    `${primary.name} now has ${flows.length} of ${count} sessions as its own, ${nated} with their source NAT`,
  );
}

function saveLogs(lab: Lab, directory: string): void {
  cpSync(lab.directory, directory, {
    recursive: true,
    // Sockets cannot be copied, keys and stores are nobody's business.
    filter: (source) => source === lab.directory || /\/fw\d+$|\.log$|\.yaml$|keepalived\.conf$/.test(source),
  });
}

/** The result of the demonstration for `--json`. */
function demoReport(results: readonly FailoverResult[], sessions: number): object {
  return {
    sessions,
    alive: results.at(-1)?.report.answering ?? 0,
    failovers: results.map((result) => ({
      from: result.from.name,
      to: result.to.name,
      alive: result.report.answering,
      takeoverMs: result.takeoverMs,
      stateMs: result.stateMs ?? null,
      longestGapMs: result.longestGapMs,
      committed: result.commit?.committed ?? null,
      updated: result.commit?.updated ?? null,
      failed: result.commit?.failed ?? null,
      commitMs: result.commit?.durationMs ?? null,
    })),
  };
}

/** Prints the steps with the time since the start, and a table at the end. */
class Progress {
  #out: NodeJS.WritableStream;
  #startMs = performance.now();

  constructor(out: NodeJS.WritableStream) {
    this.#out = out;
  }

  step(text: string): void {
    this.#line(`${this.#elapsed()} ${text}`);
  }

  result(text: string): void {
    this.#line(`${this.#elapsed()}   ${text}`);
  }

  /** Awaits `work`, and says every other second that it still waits. */
  async during<T>(what: string, work: Promise<T>): Promise<T> {
    const timer = setInterval(() => this.result(`still waiting for ${what}`), STILL_WAITING_MS);
    try {
      return await work;
    } finally {
      clearInterval(timer);
    }
  }

  failover(result: FailoverResult): void {
    const { report, commit } = result;
    const state = result.stateMs === undefined ? "" : `, its kernel had all entries after ${seconds(result.stateMs)}`;
    this.result(`${result.to.name} took over after ${seconds(result.takeoverMs)}${state}`);
    if (commit) {
      const failed = commit.failed === 0 ? "" : `, the kernel refused ${commit.failed}`;
      this.result(
        `${result.to.name} committed ${entries(commit)} entries in ${commit.durationMs.toFixed(1)} ms${failed}`,
      );
    }
    this.result(
      `${report.answering} of ${report.sessions} sessions answer, longest gap ${seconds(result.longestGapMs)}`,
    );
    for (const [target, silent] of Object.entries(report.silentByTarget)) this.result(`silent: ${silent} ${target}`);
    for (const reason of report.reasons) this.result(`broken: ${reason}`);
  }

  table(results: readonly FailoverResult[]): void {
    const rows = [
      ["failover", "new primary", "sessions alive", "longest gap", "entries committed", "commit time"],
      ...results.map((result) => [
        `${result.from.name} cut off`,
        result.to.name,
        `${result.report.answering} of ${result.report.sessions}`,
        seconds(result.longestGapMs),
        result.commit === undefined ? "none" : entries(result.commit),
        result.commit === undefined ? "-" : `${result.commit.durationMs.toFixed(1)} ms`,
      ]),
    ];
    const widths = columnWidths(rows);
    this.#line("");
    for (const row of rows)
      this.#line(`  ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("   ")}`.trimEnd());
    this.#line("");
    this.#line(
      "  A session waits longer than the takeover takes: TCP sends again 0.2, 0.6 and 1.4 s after what was lost.",
    );
    this.#line("");
  }

  /** Prints the last warnings of each daemon. */
  complaints(firewalls: readonly Firewall[]): void {
    for (const firewall of firewalls) {
      for (const line of firewall.complaints(3)) this.#line(`  ${firewall.name}: ${line}`);
    }
  }

  #elapsed(): string {
    return `[${((performance.now() - this.#startMs) / 1000).toFixed(1).padStart(5)} s]`;
  }

  #line(text: string): void {
    this.#out.write(`${text}\n`);
  }
}

/** The number of committed entries, apart from those that the kernel already had. */
function entries(commit: CommitLine): string {
  return commit.updated === 0 ? String(commit.committed) : `${commit.committed} + ${commit.updated} updated`;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}
