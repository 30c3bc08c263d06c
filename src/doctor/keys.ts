import type { Config } from "../config/config.js";
import { errorText } from "../errors.js";
import { checkOwnCertificate, day, EXPIRY_WARN_MS, readCertificate } from "../keys/certificate.js";
import { readersOf } from "../keys/key-folder.js";
import { breaks, type Finding, ok, warning } from "./finding.js";

/** The keys of the link: whether they are usable, until when, and whether the peers are in the list. */
export function checkKeys({ tls, isOpen, node, listen, peers }: Config, nowMs: number): Finding[] {
  if (tls === null) {
    if (!isOpen) return [ok("keys.own", "no keys: the broker listens on a loopback address only")];
    const text = "the link has no keys: whoever reaches the broker's port can change the tables of all nodes";
    return [warning("keys.own", text, "conntrail keys create, and keys install on the other nodes")];
  }
  const findings: Finding[] = [];
  try {
    const { untilMs } = checkOwnCertificate(tls, { node, address: listen }, nowMs);
    findings.push(expiry("keys.own", "this node's certificate", untilMs, nowMs));
    findings.push(expiry("keys.authority", "the authority's certificate", readCertificate(tls.ca).untilMs, nowMs));
    const readers = readersOf(tls, node);
    if (readers === null) {
      const text = "tls names no nodes: any certificate of its authority may do everything";
      findings.push(warning("keys.nodes", text, "write tls.nodes, or let conntrail keys create make the keys"));
    } else findings.push(listed(peers.map((peer) => peer.node).filter((name) => !readers.includes(name))));
  } catch (error) {
    findings.push(breaks("keys.own", errorText(error), "conntrail keys list; conntrail keys renew"));
  }
  return findings;
}

function expiry(id: string, what: string, untilMs: number, nowMs: number): Finding {
  if (untilMs - nowMs > EXPIRY_WARN_MS) return ok(id, `${what} is valid until ${day(untilMs)}`);
  return warning(id, `${what} ends on ${day(untilMs)}`, "conntrail keys renew, where the authority's key is");
}

function listed(missing: readonly string[]): Finding {
  const id = "keys.nodes";
  if (missing.length === 0) return ok(id, "every peer may connect");
  const names = missing.join(", ");
  return breaks(id, `${names} may not connect to this node's broker`, `conntrail keys add-node ${missing[0]}`);
}
