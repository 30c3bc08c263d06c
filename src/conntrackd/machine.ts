import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { protocolNumber } from "../flow/protocol.js";

/** What a translation needs to know about the machine of the file. */
export interface Machine {
  /** The addresses of an interface with their prefixes (`10.0.0.7/24`), in order; none when there is no interface. */
  addressesOf(device: string): readonly string[];
  /** A layer 4 protocol by its name in /etc/protocols, or by number; undefined when there is none. */
  protocolNumber(name: string): number | undefined;
  /** The store that the environment names (CONNTRAIL_STORE); undefined: none. */
  readonly store?: string | undefined;
}

/** This machine. */
export const THIS_MACHINE: Machine = {
  addressesOf: (device) => (networkInterfaces()[device] ?? []).map(({ address, cidr }) => cidr ?? address),
  protocolNumber: (name) => protocolNumber(name) ?? listedProtocol(name),
  get store() {
    return process.env.CONNTRAIL_STORE;
  },
};

/** As getprotobyname(3), from the file only. */
function listedProtocol(name: string): number | undefined {
  let text: string;
  try {
    text = readFileSync("/etc/protocols", "utf8");
  } catch {
    return undefined;
  }
  for (const line of text.split("\n")) {
    const [official, number, ...aliases] = line.replace(/#.*/, "").trim().split(/\s+/);
    if (official === name || aliases.includes(name)) return protocolNumber(number ?? "");
  }
  return undefined;
}
