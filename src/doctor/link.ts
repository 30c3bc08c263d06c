import { canonicalAddress } from "../config/address.js";
import type { Config } from "../config/config.js";
import { breaks, type Finding, ok, warning } from "./finding.js";
import type { Machine } from "./machine.js";

/** The loopback interface, the dedicated link, and what systemd-networkd does to it. */
export async function checkLink(config: Config, machine: Machine): Promise<Finding[]> {
  return [loopback(machine), ...(await dedicatedLink(config, machine))];
}

function loopback(machine: Machine): Finding {
  const id = "link.loopback";
  if (machine.interfaceOf("127.0.0.1") !== null) return ok(id, "the loopback interface is up");
  return breaks(id, "the loopback interface is down: the daemon cannot reach its broker", "ip link set lo up");
}

async function dedicatedLink({ listen }: Config, machine: Machine): Promise<Finding[]> {
  const name = machine.interfaceOf(canonicalAddress(listen) ?? listen);
  if (name === null) {
    const cure = "bring the link up with that address, or correct listen in the configuration";
    return [breaks("link.address", `${listen} is on no interface that is up`, cure)];
  }
  const found = ok("link.address", `${listen} is on ${name}`);
  if (name === "lo") return [found];
  const carrier = machine.read(`/sys/class/net/${name}/carrier`)?.trim();
  const carried =
    carrier === "0"
      ? breaks(
          "link.carrier",
          `${name} has no carrier: nothing is replicated`,
          "check the cable and the other firewall",
        )
      : ok("link.carrier", `${name} has a carrier`);
  return [found, carried, ...(await networkd(name, machine))];
}

/** What networkd does when the other end is off: by default it takes the address away, and holds up the boot. */
async function networkd(name: string, machine: Machine): Promise<Finding[]> {
  const active = await machine.run("systemctl", ["is-active", "systemd-networkd"]);
  if (active?.stdout.trim() !== "active") return [];
  const index = machine.read(`/sys/class/net/${name}/ifindex`)?.trim();
  const state = machine.read(`/run/systemd/netif/links/${index}`) ?? "";
  const file = /^NETWORK_FILE=(.+)$/m.exec(state)?.[1];
  if (file === undefined) return [ok("link.networkd", `systemd-networkd leaves ${name} alone`)];
  const text = networkSettings(file, machine);
  const keepsAddress = isOn(text, "ConfigureWithoutCarrier");
  const keeps = keepsAddress
    ? ok("link.networkd", `systemd-networkd keeps the address of ${name} without a carrier`)
    : breaks(
        "link.networkd",
        `when the other firewall is off, systemd-networkd takes the address of ${name} away, and the broker with it`,
        `ConfigureWithoutCarrier=yes and IgnoreCarrierLoss=yes under [Network] in ${file}`,
      );
  const online = /^\s*RequiredForOnline\s*=\s*(no|false|0|off)/im.test(text)
    ? ok("link.boot", `the boot does not wait for ${name}`)
    : warning(
        "link.boot",
        `while the other firewall is off, systemd-networkd-wait-online holds up the boot for ${name}`,
        `RequiredForOnline=no under [Link] in ${file}`,
      );
  return [keeps, online];
}

/** The text of a .network file and of the files that add to it. */
function networkSettings(file: string, machine: Machine): string {
  const base = file.slice(file.lastIndexOf("/") + 1);
  const texts = [machine.read(file) ?? ""];
  for (const directory of ["/usr/lib/systemd/network", "/etc/systemd/network", "/run/systemd/network"]) {
    for (const name of [...machine.list(`${directory}/${base}.d`)].sort()) {
      if (name.endsWith(".conf")) texts.push(machine.read(`${directory}/${base}.d/${name}`) ?? "");
    }
  }
  return texts.join("\n");
}

function isOn(text: string, key: string): boolean {
  return new RegExp(`^\\s*${key}\\s*=\\s*(yes|true|1|on)\\s*$`, "im").test(text);
}
