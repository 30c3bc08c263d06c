# "The well-formed ruleset": what no rule accepts is dropped, in all three chains.
for iptables in iptables ip6tables; do
  $iptables -P INPUT DROP
  $iptables -P OUTPUT DROP
  $iptables -P FORWARD DROP
  $iptables -A INPUT -i lo -j ACCEPT
  $iptables -A OUTPUT -o lo -j ACCEPT
  $iptables -A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT
  $iptables -A FORWARD -i eth1 -p tcp --syn -m state --state NEW -j ACCEPT
done
iptables -A INPUT -p vrrp -j ACCEPT
iptables -A OUTPUT -p vrrp -j ACCEPT
# Neighbour discovery.
ip6tables -A INPUT -p ipv6-icmp -j ACCEPT
ip6tables -A OUTPUT -p ipv6-icmp -j ACCEPT
# The dedicated link: conntrackd's messages, and conntrail's broker on the same port in TCP.
for protocol in udp tcp; do
  iptables -A INPUT -i eth2 -p $protocol --dport 3780 -j ACCEPT
  iptables -A OUTPUT -o eth2 -p $protocol --dport 3780 -j ACCEPT
done
iptables -A INPUT -i eth2 -p tcp --sport 3780 -m state --state ESTABLISHED -j ACCEPT
iptables -A OUTPUT -o eth2 -p tcp --sport 3780 -m state --state ESTABLISHED -j ACCEPT
iptables -t nat -A POSTROUTING -o eth0 -s 172.16.10.0/24 -j SNAT --to-source 10.15.7.100
