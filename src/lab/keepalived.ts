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

/** Default seconds between adverts. A dead primary is noticed after three of them and a skew below one. */
export const ADVERT_SECONDS = 0.2;
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
  hooks: HookCommands | undefined,
  { several, advertSeconds = ADVERT_SECONDS }: KeepalivedOptions = {},
): string {
  const { groups, firewalls } = several ?? { groups: 1, firewalls: 1 };
  return `
global_defs {
  router_id fw${number}
  script_user root
  vrrp_version 3
  vrrp_skip_check_adv_addr
  # A starved keepalived lets a healthy primary look dead.
  vrrp_priority -15
}

${Array.from({ length: groups }, (_, group) => {
  const rank = several === undefined ? number - 1 : (number - 1 - group + firewalls) % firewalls;
  return syncGroup(group, PRIORITY_FIRST - PRIORITY_STEP * rank, hooks, several !== undefined, advertSeconds);
}).join("")}`;
}

function syncGroup(
  group: number,
  priority: number,
  hooks: HookCommands | undefined,
  several: boolean,
  advertSeconds: number,
): string {
  const suffix = group === 0 ? "" : String(group + 1);
  const option = several ? ` --group ${group + 1}` : "";
  const notify =
    hooks === undefined
      ? ""
      : `
  notify_master "${hooks.primary}${option}"
  notify_backup "${hooks.backup}${option}"
  notify_fault "${hooks.fault}${option}"
  notify_stop "${hooks.fault}${option}"`;
  const host = VIRTUAL_HOST + group;
  const timing = `  advert_int ${advertSeconds}${several ? "" : "\n  nopreempt"}`;
  return `
vrrp_sync_group firewall${suffix} {
  group {
    lan${suffix}
    wan${suffix}
  }${notify}
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
  hooks: HookCommands | undefined,
  options: KeepalivedOptions = {},
): LineProcess {
  const config = join(directory, "keepalived.conf");
  writeFileSync(config, keepalivedConfig(number, hooks, options), { mode: 0o600 });
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
