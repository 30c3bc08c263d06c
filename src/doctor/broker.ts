import type { Config } from "../config/config.js";
import type { StatusReport } from "../control/protocol.js";
import { errorText } from "../errors.js";
import { knownHoles } from "../stream/broker/advisories.js";
import { findBroker, programDirectories } from "../stream/broker/broker-host.js";
import { breaks, type Finding, note, ok, warning } from "./finding.js";
import type { Machine } from "./machine.js";

const MIB = 1024 * 1024;
const ROOM_BYTES_MIN = 64 * MIB;

/** nats-server and where it stores the streams. */
export async function checkBroker(config: Config, machine: Machine, status: StatusReport | null): Promise<Finding[]> {
  const { mode } = config.broker;
  if (mode !== "embedded") {
    const findings = config.broker.servers.map(async (server) => {
      const { hostname, port } = new URL(/:\/\//.test(server) ? server : `nats://${server}`);
      const reached = await machine.accepts(hostname.replace(/^\[|\]$/g, ""), Number(port));
      if (reached) return ok("broker.reached", `${server} accepts connections`);
      return breaks(
        "broker.reached",
        `${server} does not accept connections`,
        "start that nats-server, or let it pass",
      );
    });
    return Promise.all(findings);
  }
  return [...(await program()), ...(await port(config, machine, status)), ...store(config, machine)];
}

async function program(): Promise<Finding[]> {
  try {
    const { file, version } = await findBroker(programDirectories());
    const found = ok("broker.program", `${file} is nats-server ${version.join(".")}`);
    const holes = knownHoles(version);
    if (holes.length === 0) return [found];
    const text = `nats-server ${version.join(".")} has known holes, unless your distribution has mended them: ${holes.join(", ")}`;
    return [found, note("broker.holes", text, "install a newer nats-server")];
  } catch (error) {
    return [breaks("broker.program", errorText(error), "apt-get install nats-server")];
  }
}

/** Debian's own nats-server takes the port when it starts first. */
async function port({ listen, broker }: Config, machine: Machine, status: StatusReport | null): Promise<Finding[]> {
  const id = "broker.port";
  const enabled = await machine.run("systemctl", ["is-enabled", "nats-server"]);
  if (enabled?.stdout.trim() === "enabled" && broker.port === 4222) {
    const text = "nats-server.service is enabled: after a reboot it may take the port of conntrail's own broker";
    return [breaks(id, text, "systemctl disable --now nats-server")];
  }
  const isHere = machine.interfaceOf(listen) !== null;
  if (status === null && isHere && (await machine.accepts(listen, broker.port))) {
    const text = `${listen} port ${broker.port} is taken, and the daemon does not answer`;
    return [breaks(id, text, `ss -ltnp 'sport = :${broker.port}' names the program: stop it`)];
  }
  return [ok(id, `port ${broker.port} is conntrail's own`)];
}

function store({ broker, peers }: Config, machine: Machine): Finding[] {
  const id = "broker.store";
  const disk = machine.disk(broker.store);
  if (disk === null) return [breaks(id, `${broker.store} cannot be looked at`, "run it as root")];
  const { freeBytes, totalBytes, isMemory } = disk;
  const room = `${mib(freeBytes)} of ${mib(totalBytes)} MiB free`;
  if (freeBytes < ROOM_BYTES_MIN) {
    return [breaks(id, `the disk of ${broker.store} is full: ${room}`, "make room, or lower broker.max_bytes")];
  }
  if (isMemory) {
    const text = `${broker.store} is in memory: a reboot empties the streams and the history`;
    return [warning(id, text, "set broker.store to a folder on a disk")];
  }
  const needed = broker.bytesMax * (peers.length + 1);
  if (needed > totalBytes) {
    const text = `${peers.length + 1} streams may take ${mib(needed)} MiB, and the disk has ${mib(totalBytes)}`;
    return [warning(id, text, "lower broker.max_bytes, or take a larger disk")];
  }
  return [ok(id, `${broker.store}: ${room}`)];
}

function mib(bytes: number): number {
  return Math.floor(bytes / MIB);
}
