import type { CommitLine, Firewall } from "./firewall.js";
import type { Lab } from "./lab.js";
import { waitFor } from "./process.js";
import type { SessionReport } from "./session-protocol.js";

/** `cut`: a power failure without warning. `handOver`: keepalived ends cleanly and announces it. */
export type FailoverKind = "cut" | "handOver";

/** The result of a failover. */
export interface FailoverResult {
  readonly from: Firewall;
  readonly to: Firewall;
  /** From the cut, or the start of the handover, until another firewall had the virtual addresses. */
  readonly takeoverMs: number;
  /** From the same moment until the new primary's kernel had all entries; undefined without a commit. */
  readonly stateMs: number | undefined;
  /** The longest time without an echo in any session. */
  readonly longestGapMs: number;
  readonly report: SessionReport;
  /** The new primary's commit; undefined when its log shows none. */
  readonly commit: CommitLine | undefined;
}

const TAKEOVER_TIMEOUT_MS = 30_000;
const COMMIT_TIMEOUT_MS = 15_000;

/**
 * Takes `primary` out of service, and waits until every session answers through the next one or is broken, at most
 * `settleTimeoutMs`.
 */
export async function failOver(
  lab: Lab,
  primary: Firewall,
  kind: FailoverKind,
  settleTimeoutMs: number,
): Promise<FailoverResult> {
  const sessions = lab.sessions;
  if (sessions === undefined) throw new Error("a failover without sessions shows nothing");
  const commitsBefore = new Map(lab.firewalls.map((firewall) => [firewall, firewall.commits().length]));
  await sessions.mark();
  const startMs = performance.now();
  const startWallMs = Date.now();
  const done = kind === "cut" ? primary.cut() : primary.handOver();
  const to = await lab.waitPrimary(TAKEOVER_TIMEOUT_MS, primary);
  const takeoverMs = performance.now() - startMs;
  // Only from now on does an answer prove the new path: before, the old primary still forwarded some.
  const during = await sessions.mark();
  const report = await sessions.settle(settleTimeoutMs);
  await done;
  const commit = to.daemon === undefined ? undefined : await nextCommit(to, commitsBefore.get(to) ?? 0);
  return {
    from: primary,
    to,
    takeoverMs: Math.round(takeoverMs),
    stateMs: commit === undefined ? undefined : commit.timeMs - startWallMs,
    longestGapMs: Math.max(during.longestGapMs, report.longestGapMs),
    report,
    commit,
  };
}

async function nextCommit(firewall: Firewall, index: number): Promise<CommitLine | undefined> {
  return waitFor("the new primary's commit", COMMIT_TIMEOUT_MS, () => firewall.commits()[index]).catch(() => undefined);
}
