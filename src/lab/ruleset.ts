import type { Namespace } from "./namespace.js";
import { cidr4, cidr6, ipv4, ipv6, LAN, ROUTED, VIRTUAL_HOST, WAN } from "./topology.js";

/** The marks that the ruleset gives to connections of the LAN, so that a lost mark shows. */
export const MARK_TCP = 0x10;
export const MARK_UDP = 0x20;

/**
 * The nftables ruleset of a firewall. Unknown packets are dropped, never rejected, in transit and at the firewall
 * itself: a packet of a connection whose state is missing must neither pass nor cause a RST (keepalived issue 2254).
 */
export function firewallRuleset(): string {
  return `
table inet lab {
  chain prerouting_raw {
    type filter hook prerouting priority raw; policy accept;
    meta l4proto 112 notrack
  }
  chain output_raw {
    type filter hook output priority raw; policy accept;
    meta l4proto 112 notrack
  }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname { "lo", "sync0" } accept
    meta l4proto 112 accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept
    ct state invalid counter drop
    ct state established,related accept
    icmp type echo-request accept
    icmpv6 type echo-request accept
    counter drop
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    ct state established,related accept
    iifname "lan0" oifname "wan0" tcp flags & (fin | syn | rst | ack) == syn ct mark set ${MARK_TCP} accept
    iifname "lan0" oifname "wan0" meta l4proto udp ct mark set ${MARK_UDP} accept
    iifname "lan0" oifname "wan0" meta l4proto { icmp, ipv6-icmp } accept
    counter drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan0" ip saddr ${cidr4(LAN)} ip daddr != ${cidr4(ROUTED)} snat ip to ${ipv4(WAN, VIRTUAL_HOST)}
    oifname "wan0" ip6 saddr ${cidr6(LAN)} ip6 daddr != ${cidr6(ROUTED)} snat ip6 to ${ipv6(WAN, VIRTUAL_HOST)}
  }
}
`;
}

/**
 * Loads the ruleset, and sets connection tracking up so that missing state shows. `more`: further tables of a test,
 * such as those that assign helpers.
 */
export async function loadRuleset(firewall: Namespace, more = ""): Promise<void> {
  await firewall.exec("nft", ["-f", "-"], firewallRuleset() + more);
  // After the ruleset: where conntrack is a module, loading a rule with "ct" brings it and its keys in.
  await firewall.sysctl({
    "net.netfilter.nf_conntrack_events": 1,
    // By default the kernel adopts a connection in mid-stream, and a firewall without any state would seem to work.
    "net.netfilter.nf_conntrack_tcp_loose": 0,
    "net.netfilter.nf_conntrack_log_invalid": 0,
  });
}
