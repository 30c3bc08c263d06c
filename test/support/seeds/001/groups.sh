# The reader's setup: LAN on eth0, DMZ on eth1, Internet on eth2, dedicated link on eth3. Dropped is what no rule accepts.
iptables -P INPUT DROP
iptables -P OUTPUT DROP
iptables -P FORWARD DROP
iptables -A INPUT -i lo -j ACCEPT
iptables -A OUTPUT -o lo -j ACCEPT
iptables -A INPUT -p vrrp -j ACCEPT
iptables -A OUTPUT -p vrrp -j ACCEPT
for protocol in udp tcp; do
  iptables -A INPUT -i eth3 -p $protocol --dport 3780 -j ACCEPT
  iptables -A OUTPUT -o eth3 -p $protocol --dport 3780 -j ACCEPT
done
iptables -A INPUT -i eth3 -p tcp --sport 3780 -m state --state ESTABLISHED -j ACCEPT
iptables -A OUTPUT -o eth3 -p tcp --sport 3780 -m state --state ESTABLISHED -j ACCEPT
iptables -A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT
iptables -A FORWARD -i eth0 -p tcp --syn -m state --state NEW -j ACCEPT
# Who goes out by one group's gateway comes from that group's address.
iptables -t nat -A POSTROUTING -o eth2 -s 172.16.10.1 -j SNAT --to-source 10.15.7.100
iptables -t nat -A POSTROUTING -o eth2 -s 172.16.10.2 -j SNAT --to-source 10.15.7.200
