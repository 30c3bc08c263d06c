import type { Config } from "../config/config.js";
import type { PeerStatus, StatusReport } from "../control/protocol.js";
import { breaks, type Finding, note, ok, warning } from "./finding.js";
import type { Machine } from "./machine.js";

/** Beyond this, times of the connection history are off, and a reader would wonder. */
const CLOCK_OFFSET_MS_MAX = 1000;

/** The daemon, its peers, and their clocks and versions; `trouble`: why the daemon does not answer. */
export async function checkCluster(
  config: Config,
  machine: Machine,
  status: StatusReport | null,
  trouble: string,
): Promise<Finding[]> {
  const machineFindings = [...(await unit("conntrail", "the daemon", machine)), ...(await clock(machine))];
  if (status === null) {
    const cure = "systemctl start conntrail; journalctl -u conntrail says why it does not start";
    return [breaks("daemon.runs", `the daemon does not answer: ${trouble}`, cure), ...machineFindings];
  }
  return [
    ok("daemon.runs", `the daemon runs as ${status.node} of cluster ${status.cluster}`),
    ...machineFindings,
    ...(config.mode === "observer" ? [] : [role(status)]),
    ...own(status),
    ...status.peers.flatMap(peer),
    ...hooks(status),
    version(status),
  ];
}

/** Whether a service starts at the next boot. */
export async function unit(name: string, what: string, machine: Machine): Promise<Finding[]> {
  const enabled = await machine.run("systemctl", ["is-enabled", name]);
  const state = enabled?.stdout.trim() ?? "";
  const id = `boot.${name}`;
  if (state === "enabled") return [ok(id, `${what} starts at boot`)];
  // Elsewhere than under systemd, or run in another way.
  if (state !== "disabled") return [];
  return [
    breaks(
      id,
      `${what} does not start at boot: after a reboot this node takes nothing over`,
      `systemctl enable ${name}`,
    ),
  ];
}

async function clock(machine: Machine): Promise<Finding[]> {
  const shown = await machine.run("timedatectl", ["show", "-p", "NTPSynchronized", "--value"]);
  const state = shown?.code === 0 ? shown.stdout.trim() : "";
  if (state === "yes") return [ok("clock.ntp", "the clock follows a time server")];
  if (state !== "no") return [];
  const text = "the clock follows no time server: times in the connection history may be off";
  return [note("clock.ntp", text, "install chrony or systemd-timesyncd")];
}

function role(status: StatusReport): Finding {
  if (status.role !== "unknown") return ok("daemon.role", `keepalived made this node ${status.role}`);
  const text = "keepalived has told this node no role since the boot";
  return warning("daemon.role", text, "start keepalived; see its hooks below");
}

function own({ reason, warnings }: StatusReport): Finding[] {
  const findings = warnings.map((text) => warning("daemon.warning", text, "conntrail status"));
  if (reason === null) return [ok("daemon.publishes", "the peers can have all of this node's flows"), ...findings];
  return [
    breaks("daemon.publishes", `the peers cannot have all of this node's flows: ${reason}`, "conntrail status"),
    ...findings,
  ];
}

function peer({ node, inSync, reason, clockOffsetMs, address }: PeerStatus): Finding[] {
  const synced = inSync
    ? ok(`peer.${node}`, `in sync with ${node}`)
    : breaks(
        `peer.${node}`,
        `not in sync with ${node}: ${reason}`,
        `on ${node}: conntrail status, and whether it is reached at ${address}`,
      );
  if (clockOffsetMs === null) return [synced];
  const offset = Math.abs(clockOffsetMs);
  const id = `clock.${node}`;
  if (offset <= CLOCK_OFFSET_MS_MAX) return [synced, ok(id, `${node}'s clock is off by ${Math.round(offset)} ms`)];
  const text = `${node}'s clock is off by ${(offset / 1000).toFixed(1)} s: times in the connection history disagree`;
  return [synced, warning(id, text, "let both nodes follow a time server")];
}

function hooks({ hooks = [] }: StatusReport): Finding[] {
  return hooks
    .filter(({ state }) => state === "failed")
    .map((hook) =>
      breaks(
        "daemon.hook",
        `the last hook failed (${hook.role}): ${hook.error}`,
        `conntrail hook ${hook.role}, once it is mended`,
      ),
    );
}

function version({ format }: StatusReport): Finding {
  if (format.reason === null) return ok("peer.versions", "all peers read the newest format of the stream");
  const text = `this node writes format ${format.writes}, because ${format.reason}`;
  return note("peer.versions", text, "finish the upgrade of the cluster");
}
