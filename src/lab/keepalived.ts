import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Namespace } from "./namespace.js";
import type { LineProcess } from "./process.js";
import { ipv4, ipv6, LAN, VIRTUAL_HOST, WAN } from "./topology.js";

/** The commands that keepalived runs when its group changes state. */
export interface HookCommands {
  readonly primary: string;
  readonly backup: string;
  readonly fault: string;
}

/** How keepalived tells a daemon of a change: through a FIFO, or by running commands. */
export interface NotifyPaths {
  /** The FIFO that the daemon reads. */
  readonly fifo: string;
  /** The file by which the daemon lowers the priority. */
  readonly trackFile: string;
}

/** Default seconds between adverts. A dead primary is noticed after three of them and a skew below one. */
export const ADVERT_SECONDS = 0.2;
/** What a firewall that is not in sync loses of its priority: more than one step, and never all of it. */
const BEHIND_WEIGHT = -40;
const PRIORITY_FIRST = 250;
/** Large, so that two backups of a dead primary do not both take over; there is room for nine firewalls. */
const PRIORITY_STEP = 28;

/** Several sync groups. Each prefers another firewall, and moves back there when that returns. */
export interface SyncGroups {
  readonly groups: number;
  readonly firewalls: number;
}

/** Options of a keepalived.conf. */
export interface KeepalivedOptions {
  readonly several?: SyncGroups | undefined;
  readonly advertSeconds?: number;
}

/**
 * The keepalived.conf of firewall `number` (from 1): groups of a LAN and a WAN instance each, VRRPv3. One group does
 * not preempt. With several, `--group` tells the hooks which one, and group g (from 1) has the virtual host number g.
 */
export function keepalivedConfig(
  number: number,
  notify: HookCommands | NotifyPaths | undefined,
  { several, advertSeconds = ADVERT_SECONDS }: KeepalivedOptions = {},
): string {
  const { groups, firewalls } = several ?? { groups: 1, firewalls: 1 };
  const paths = notify !== undefined && "fifo" in notify ? notify : undefined;
  return `
global_defs {
  router_id fw${number}
  script_user root
  vrrp_version 3
  vrrp_skip_check_adv_addr
  # A starved keepalived lets a healthy primary look dead.
  vrrp_priority -15${paths === undefined ? "" : fifoLines(paths)}
}
${paths === undefined ? "" : trackFile(paths)}
${Array.from({ length: groups }, (_, group) => {
  const rank = several === undefined ? number - 1 : (number - 1 - group + firewalls) % firewalls;
  return syncGroup(group, PRIORITY_FIRST - PRIORITY_STEP * rank, notify, several !== undefined, advertSeconds);
}).join("")}`;
}

function fifoLines({ fifo }: NotifyPaths): string {
  return `
  vrrp_notify_fifo ${fifo}
  fifo_write_vrrp_states_on_reload`;
}

function trackFile({ trackFile }: NotifyPaths): string {
  return `
track_file conntrail {
  file ${trackFile}
  weight 0
}
`;
}

/** What a sync group says of a change, and what lowers its priority. */
function groupLines(notify: HookCommands | NotifyPaths | undefined, option: string): string {
  if (notify === undefined) return "";
  if ("fifo" in notify) {
    return `
  track_file {
    conntrail weight ${BEHIND_WEIGHT}
  }`;
  }
  return `
  notify_master "${notify.primary}${option}"
  notify_backup "${notify.backup}${option}"
  notify_fault "${notify.fault}${option}"
  notify_stop "${notify.fault}${option}"`;
}

function syncGroup(
  group: number,
  priority: number,
  notify: HookCommands | NotifyPaths | undefined,
  several: boolean,
  advertSeconds: number,
): string {
  const suffix = group === 0 ? "" : String(group + 1);
  const option = several ? ` --group ${group + 1}` : "";
  const host = VIRTUAL_HOST + group;
  const timing = `  advert_int ${advertSeconds}${several ? "" : "\n  nopreempt"}`;
  return `
vrrp_sync_group firewall${suffix} {
  group {
    lan${suffix}
    wan${suffix}
  }${groupLines(notify, option)}
}
${instance(`lan${suffix}`, "lan0", 51 + 10 * group, priority, timing, ipv4(LAN, host), ipv6(LAN, host))}
${instance(`wan${suffix}`, "wan0", 52 + 10 * group, priority, timing, ipv4(WAN, host), ipv6(WAN, host))}
`;
}

/**
 * A VRRPv3 instance speaks one address family, so the IPv6 address is "excluded": not advertised, but moved with the
 * rest. Neighbours learn of the new owner at once, and again a second later in case the first announcement was lost.
 */
function instance(
  name: string,
  device: string,
  routerId: number,
  priority: number,
  timing: string,
  vip4: string,
  vip6: string,
): string {
  return `
vrrp_instance ${name} {
  state BACKUP
  interface ${device}
  virtual_router_id ${routerId}
  priority ${priority}
${timing}
  garp_master_delay 1
  garp_master_repeat 3
  virtual_ipaddress {
    ${vip4}/32 dev ${device}
  }
  virtual_ipaddress_excluded {
    ${vip6}/128 dev ${device}
  }
}`;
}

/** Starts keepalived inside a firewall, with its own files, so that several can run side by side. */
export function startKeepalived(
  firewall: Namespace,
  number: number,
  directory: string,
  notify: HookCommands | NotifyPaths | undefined,
  options: KeepalivedOptions = {},
): LineProcess {
  const config = join(directory, "keepalived.conf");
  writeFileSync(config, keepalivedConfig(number, notify, options), { mode: 0o600 });
  const pidFiles = [
    "-p",
    join(directory, "keepalived.pid"),
    "-r",
    join(directory, "vrrp.pid"),
    "-c",
    join(directory, "check.pid"),
  ];
  return firewall.spawn(
    `keepalived fw${number}`,
    "keepalived",
    ["--dont-fork", "--log-console", "--log-detail", "--vrrp", "-f", config, ...pidFiles],
    join(directory, "keepalived.log"),
  );
}
