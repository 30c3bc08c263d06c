/** The status bits of a flow: enum ip_conntrack_status in linux/netfilter/nf_conntrack_common.h (CTA_STATUS). */

/** It was expected by another flow. */
export const IPS_EXPECTED = 0x0001;
/** Packets were seen in both directions. */
export const IPS_SEEN_REPLY = 0x0002;
/** Not to be dropped early when the table is full. */
export const IPS_ASSURED = 0x0004;
/** Its first packet has left the machine. */
export const IPS_CONFIRMED = 0x0008;
/** The source is translated in the original direction. */
export const IPS_SRC_NAT = 0x0010;
/** The destination is translated in the original direction. */
export const IPS_DST_NAT = 0x0020;
/** TCP sequence numbers are adjusted. */
export const IPS_SEQ_ADJUST = 0x0040;
/** Source translation was decided, be it for none. */
export const IPS_SRC_NAT_DONE = 0x0080;
/** Destination translation was decided, be it for none. */
export const IPS_DST_NAT_DONE = 0x0100;
/** The bits by which a kernel remembers that it decided on a translation. A packet may set them without an event. */
export const IPS_NAT_DONE = IPS_SRC_NAT_DONE | IPS_DST_NAT_DONE;
/** The bits that a kernel never clears while the flow lives. */
export const IPS_KEPT = IPS_SEEN_REPLY | IPS_ASSURED;
/** It is being removed. */
export const IPS_DYING = 0x0200;
/** Packets do not renew its timeout. */
export const IPS_FIXED_TIMEOUT = 0x0400;
/** A template of the ruleset, no flow. */
export const IPS_TEMPLATE = 0x0800;
/** No longer used by the kernel. */
export const IPS_UNTRACKED = 0x1000;
/** A helper was attached by the ruleset or by ctnetlink. */
export const IPS_HELPER = 0x2000;
/** Handled by a flowtable: it shows neither a current state nor a timeout. */
export const IPS_OFFLOAD = 0x4000;
/** Handled by the network card. */
export const IPS_HW_OFFLOAD = 0x8000;

/** Names by bit number, without the prefix; a bit beyond them is named by its number ("BIT_16"). */
const NAMES: readonly string[] = [
  "EXPECTED",
  "SEEN_REPLY",
  "ASSURED",
  "CONFIRMED",
  "SRC_NAT",
  "DST_NAT",
  "SEQ_ADJUST",
  "SRC_NAT_DONE",
  "DST_NAT_DONE",
  "DYING",
  "FIXED_TIMEOUT",
  "TEMPLATE",
  "UNTRACKED",
  "HELPER",
  "OFFLOAD",
  "HW_OFFLOAD",
];

/** The names of the bits that are set, lowest first: `IPS_SEEN_REPLY | IPS_ASSURED` is ["SEEN_REPLY", "ASSURED"]. */
export function statusNames(status: number): string[] {
  const names: string[] = [];
  for (let bit = 0; bit < 32; bit++) {
    if ((status >>> bit) & 1) names.push(NAMES[bit] ?? `BIT_${bit}`);
  }
  return names;
}

/** The bits of the names; undefined when one of them is unknown. The inverse of `statusNames`. */
export function statusBits(names: readonly string[]): number | undefined {
  let status = 0;
  for (const name of names) {
    const bit = name.startsWith("BIT_") ? Number(name.slice(4)) : NAMES.indexOf(name);
    if (!Number.isInteger(bit) || bit < 0 || bit > 31) return undefined;
    status |= 1 << bit;
  }
  return status >>> 0;
}
