import type { Config } from "../config/config.js";
import { unit } from "./cluster.js";
import { breaks, type Finding, ok, warning } from "./finding.js";
import { parseKeepalived, type Statement } from "./keepalived-conf.js";
import type { Machine } from "./machine.js";

const PATH = "/etc/keepalived/keepalived.conf";
const EXAMPLE = "see the example keepalived.conf";

/** The hooks of a group, and what a missing one means. */
const HOOKS: readonly (readonly [name: string, role: string, why: string])[] = [
  ["notify_master", "primary", "nothing is committed when this node takes over"],
  ["notify_backup", "backup", "this node still believes it is primary after another has taken over"],
  ["notify_fault", "fault", "this node still believes it is primary after a fault"],
  ["notify_stop", "fault", "this node still believes it is primary after keepalived stops"],
];

/** What is asked of the machine about hooks. */
type HookMachine = Pick<Machine, "read" | "isExecutable" | "realPath">;

/** keepalived and how it calls this program. */
export async function checkKeepalived(config: Config, machine: Machine): Promise<Finding[]> {
  if (config.mode === "observer") return [];
  const version = await machine.run("keepalived", ["--version"]);
  if (version === null) {
    const text = "keepalived is not installed: something else must call conntrail hook";
    return [warning("keepalived.installed", text, "apt-get install keepalived")];
  }
  const conf = parseKeepalived(PATH, machine);
  if (conf === null) return [breaks("keepalived.conf", `${PATH} cannot be read`, `write it: ${EXAMPLE}`)];
  const tested = await machine.run("keepalived", ["--config-test", "-f", PATH]);
  const [why = ""] = `${tested?.stderr ?? ""}${tested?.stdout ?? ""}`.trim().split("\n", 1);
  const valid =
    tested === null || tested.code === 0
      ? ok("keepalived.conf", `keepalived accepts ${PATH}`)
      : warning("keepalived.conf", `keepalived complains about ${PATH}: ${why}`, `keepalived --config-test -f ${PATH}`);
  return [
    valid,
    ...(await unit("keepalived", "keepalived", machine)),
    ...judgeKeepalived(conf, machine, config.keepalived.fifo),
  ];
}

/** The findings for a configuration of keepalived. `fifo`: `keepalived.fifo`, or null. */
export function judgeKeepalived(conf: readonly Statement[], machine: HookMachine, fifo: string | null): Finding[] {
  const named = (name: string): Statement[] => conf.filter(({ words }) => words[0] === name);
  const groups = named("vrrp_sync_group");
  const instances = named("vrrp_instance");
  if (instances.length === 0) return [breaks("keepalived.instances", "there is no vrrp_instance", EXAMPLE)];
  const members = new Set(groups.flatMap((group) => membersOf(group)));
  const alone = instances.filter(({ words }) => !members.has(words[1] ?? ""));
  const callers = [...groups, ...alone];
  if (fifo !== null) return [...apart(alone), fifoOf(conf, fifo)];
  return [...apart(alone), ...callers.flatMap((caller) => hooksOf(caller, callers.length > 1, machine)), ...user(conf)];
}

/** Whether keepalived writes into the FIFO that the daemon reads. */
function fifoOf(conf: readonly Statement[], fifo: string): Finding {
  const global = conf.flatMap(({ words, block }) => (words[0] === "global_defs" ? (block ?? []) : []));
  const written = global.filter(isFifo).map(({ words }) => words[1] ?? "");
  if (written.includes(fifo)) return ok("keepalived.fifo", `keepalived writes its changes into ${fifo}`);
  const instead = written.length === 0 ? "writes into no FIFO" : `writes into ${written.join(", ")}`;
  const text = `keepalived ${instead}, and the daemon takes its role from ${fifo}: it will not hear of a takeover`;
  return breaks("keepalived.fifo", text, `vrrp_notify_fifo ${fifo}, in global_defs`);
}

function membersOf({ block }: Statement): readonly string[] {
  const members = block?.find(({ words }) => words[0] === "group");
  return members?.block?.flatMap(({ words }) => words) ?? [];
}

function isFifo({ words }: Statement): boolean {
  return words[0] === "notify_fifo" || words[0] === "vrrp_notify_fifo";
}

function apart(alone: readonly Statement[]): Finding[] {
  if (alone.length < 2) return [ok("keepalived.groups", "the addresses of this firewall move together")];
  const list = alone.map(({ words }) => words[1]).join(", ");
  const text = `the instances ${list} are in no sync group: one side's address may move without the other's`;
  return [warning("keepalived.groups", text, "a vrrp_sync_group around the instances that belong together")];
}

function hooksOf(caller: Statement, isOneOfSeveral: boolean, machine: HookMachine): Finding[] {
  const [kind = "", name = ""] = caller.words;
  const id = `keepalived.hooks.${name}`;
  const where = `${kind} ${name}`;
  const every = caller.block?.find(({ words }) => words[0] === "notify");
  const findings: Finding[] = [];
  for (const [hook, role, why] of HOOKS) {
    const statement = caller.block?.find(({ words }) => words[0] === hook);
    const command = (statement ?? every)?.words.slice(1).join(" ");
    if (command === undefined) {
      const found = hook === "notify_stop" ? warning : breaks;
      findings.push(found(id, `${where} has no ${hook}: ${why}`, `${hook} "${OWN} hook ${role}"`));
      continue;
    }
    const trouble = troubleOf(command, machine);
    if (trouble !== null) findings.push(breaks(id, `${where}, ${hook}: ${trouble}`, `${hook} "${OWN} hook ${role}"`));
    else if (isOneOfSeveral && / hook (primary|backup|fault)\b/.test(command) && !command.includes("--group")) {
      const text = `${where}, ${hook}: with several groups each hook must name its own`;
      findings.push(breaks(id, text, `${hook} "${OWN} hook ${role} --group ${name}"`));
    } else if (isLink(command, machine)) {
      const text = `${where}, ${hook}: keepalived resolves the link once, when it starts: after an upgrade it may lead nowhere`;
      findings.push(warning(id, text, `${hook} "${OWN} hook ${role}", a file that runs the current version`));
    }
  }
  return findings.length > 0 ? findings : [ok(id, `${where} calls all four hooks`)];
}

const OWN = "/usr/sbin/conntrail";

/** Why a command does not reach this program; null if it does. */
function troubleOf(command: string, machine: HookMachine): string | null {
  const [program = ""] = command.split(/\s+/, 1);
  if (!machine.isExecutable(program)) return `${program} is no program that can be run`;
  if (/conntrail|conntrackd/.test(command)) return null;
  const script = machine.read(program) ?? "";
  return /conntrail|conntrackd/.test(script) ? null : `${program} does not call conntrail`;
}

/** True if the program is reached by a link. That /sbin is a link to /usr/sbin does not count. */
function isLink(command: string, machine: HookMachine): boolean {
  const [program = ""] = command.split(/\s+/, 1);
  const real = machine.realPath(program);
  return real !== null && real !== program && real !== `/usr${program}`;
}

/** Only root and the daemon's user may open the control socket. */
function user(conf: readonly Statement[]): Finding[] {
  const global = conf.find(({ words }) => words[0] === "global_defs")?.block ?? [];
  const named = global.find(({ words }) => words[0] === "script_user")?.words[1];
  if (named === "root") return [ok("keepalived.user", "hooks run as root")];
  if (named !== undefined) {
    return [
      breaks(
        "keepalived.user",
        `hooks run as ${named}, who may not open the control socket`,
        "script_user root, in global_defs",
      ),
    ];
  }
  const text = "script_user is not set: keepalived runs hooks as keepalived_script, if there is such a user";
  return [warning("keepalived.user", text, "script_user root, in global_defs")];
}
