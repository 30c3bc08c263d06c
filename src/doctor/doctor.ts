import type { Config } from "../config/config.js";
import type { StatsReport, StatusReport } from "../control/protocol.js";
import { checkBroker } from "./broker.js";
import { checkCluster } from "./cluster.js";
import type { Finding } from "./finding.js";
import { checkKeepalived } from "./keepalived.js";
import { checkKernelSide } from "./kernel.js";
import { checkKeys } from "./keys.js";
import { checkLink } from "./link.js";
import type { Machine } from "./machine.js";
import { checkRuleset } from "./ruleset.js";

/** What the daemon said; null for both if it did not answer, and then why. */
export interface DaemonAnswers {
  readonly status: StatusReport | null;
  readonly stats: StatsReport | null;
  readonly trouble: string;
}

/** Looks at everything that a failover depends on. An observer has no kernel side, no ruleset and no keepalived. */
export async function examine(
  config: Config,
  machine: Machine,
  daemon: DaemonAnswers,
  nowMs: number,
): Promise<Finding[]> {
  const { status, stats, trouble } = daemon;
  const isFirewall = config.mode !== "observer";
  const parts = await Promise.all([
    checkCluster(config, machine, status, trouble),
    isFirewall ? checkKernelSide(config, machine, status, stats) : [],
    checkLink(config, machine),
    checkBroker(config, machine, status),
    checkKeys(config, nowMs),
    isFirewall ? checkRuleset(config, machine) : [],
    checkKeepalived(config, machine),
  ]);
  return parts.flat();
}
