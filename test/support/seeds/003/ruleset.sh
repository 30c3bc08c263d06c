iptables -P INPUT DROP
iptables -A INPUT -i lo -j ACCEPT
iptables -A INPUT -p vrrp -j ACCEPT
# The text's two rules. The address after the first -d, lost there, is where conntrackd's messages go to.
iptables -A INPUT -p udp -i $IFCONN -d $TOCONN --dport 3780 -j ACCEPT
iptables -A INPUT -p udp -i $IFCONN -s $IPCONN  --dport 694 -j ACCEPT
# What conntrail wants beside them: its broker has conntrackd's port, in TCP.
iptables -A INPUT -p tcp -i $IFCONN -s $IPCONN --dport 3780 -j ACCEPT
iptables -A INPUT -p tcp -i $IFCONN -s $IPCONN --sport 3780 -m state --state ESTABLISHED -j ACCEPT
# The traffic of the gateway.
iptables -P FORWARD DROP
iptables -A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT
iptables -A FORWARD -i eth1 -p tcp --syn -m state --state NEW -j ACCEPT
iptables -t nat -A POSTROUTING -o eth0 -s 192.168.0.0/24 -j SNAT --to-source 192.168.1.100
