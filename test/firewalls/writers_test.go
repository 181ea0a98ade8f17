package firewalls

import "testing"

// People flush, and services put back what they once saved.
func TestBesideWhoFlushes(t *testing.T) {
	beside(t, func(t *testing.T, subject subject) {
		w, s := newWorld(t, subject)
		ip4, ip6, carries := "iptables-"+subject.variant, "ip6tables-"+subject.variant, subject.variant == "nft"
		const saved = "*filter\n-A INPUT -p tcp --dport 7444 -j DROP\nCOMMIT\n*mangle\n-A INPUT -j MARK --set-mark 0x7\nCOMMIT\n"
		does := func(flushesNAT bool, lines ...string) func() {
			return func() {
				for _, line := range lines {
					w.Node.Command(t, saved, "sh", "-ec", line)
				}
				if flushesNAT {
					w.Carry()
				}
			}
		}
		each := func(flag string) (lines []string) {
			for _, program := range []string{ip4, ip6} {
				for _, table := range []string{"filter", "nat", "mangle", "raw"} {
					lines = append(lines, program+" -w 10 -t "+table+" "+flag)
				}
			}
			return lines
		}
		stop := func() {}
		if s.owned {
			stop = w.Watch("udp/32500", "mallory") // not one packet passes, whatever they do
		}
		open := []string{"mallory " + allowed + " answered", "mallory " + notSaid + " answered"}
		for _, a := range []act{
			{says: "nft flush ruleset", flushes: carries, packets: judged(open...), do: does(true, "nft flush ruleset")},
			{says: "iptables -F", flushes: true, packets: judged(open...), do: does(carries, each("-F")...)},
			{says: "iptables -F and -X, ipset destroy", flushes: true, packets: judged(open...),
				do: does(carries, append(append(each("-F"), each("-X")...), "ipset destroy")...)},
			{says: "iptables-restore of what was saved without us", flushes: true, do: does(false, ip4+"-restore -w 10", ip6+"-restore -w 10"),
				packets: judged("mallory "+allowed+" answered", "mallory "+notSaid+" dropped")},
			{says: "ipset flush", flushes: subject.name != "nftables", packets: judged(), do: does(false, "ipset flush")},
		} {
			s.after(a)
		}
		stop()
		s.leave("mallory "+onTheNode+" answered", "mallory "+allowed+" answered")
	})
}

// Docker 28 does so to a node, but for the names of its bridges and the mark: it puts
// its chains first, drops what is forwarded to nobody it knows, and publishes ports,
// here one of a pool among them. $i is iptables, $pod the container, $lo its loopback.
const (
	dockerStarts = `
$i -P FORWARD DROP
$i -N DOCKER-USER; $i -N DOCKER-FORWARD; $i -N DOCKER
$i -A DOCKER-FORWARD -o inside -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$i -A DOCKER-FORWARD -o inside -j DOCKER
$i -A DOCKER-FORWARD -i inside -j ACCEPT
$i -t nat -N DOCKER
$i -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
$i -t nat -A OUTPUT ! -d $lo -m addrtype --dst-type LOCAL -j DOCKER
$i -t mangle -N THEIRS; $i -t mangle -A THEIRS -j MARK --set-mark 0x1
$i -t mangle -I PREROUTING -p tcp --dport 7445 -j THEIRS
` + dockerInserts
	dockerInserts = `
$i -I FORWARD -j DOCKER-FORWARD; $i -I FORWARD -j DOCKER-USER
$i -A DOCKER -d $pod ! -i inside -o inside -p tcp --dport 8080 -j ACCEPT
$i -t nat -I DOCKER -p tcp --dport 7445 -j DNAT --to-destination $to:8080
$i -t nat -I DOCKER -p tcp --dport 32400 -j DNAT --to-destination $to:8080
$i -t raw -I PREROUTING -d $pod ! -i inside -j DROP
`
	dockerTakesBack = `
$i -D FORWARD -j DOCKER-USER; $i -D FORWARD -j DOCKER-FORWARD
$i -F DOCKER
$i -t nat -F DOCKER
$i -t raw -D PREROUTING -d $pod ! -i inside -j DROP
`
	dockerGoes = dockerTakesBack + `
$i -P FORWARD ACCEPT
$i -F DOCKER-FORWARD; $i -X DOCKER-FORWARD; $i -X DOCKER; $i -X DOCKER-USER
$i -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
$i -t nat -D OUTPUT ! -d $lo -m addrtype --dst-type LOCAL -j DOCKER
$i -t nat -X DOCKER
$i -t mangle -D PREROUTING -p tcp --dport 7445 -j THEIRS; $i -t mangle -F THEIRS; $i -t mangle -X THEIRS
`
)

// A writer like Docker starts, starts again and goes.
func TestBesideAWriterLikeDocker(t *testing.T) {
	beside(t, func(t *testing.T, subject subject) {
		w, s := newWorld(t, subject)
		does := func(script string) func() {
			return func() {
				w.Node.Command(t, "", "sh", "-ec", "i='iptables-"+subject.variant+" -w 10' pod=10.244.0.2 to=10.244.0.2 lo=127.0.0.0/8"+script)
				w.Node.Command(t, "", "sh", "-ec", "i='ip6tables-"+subject.variant+" -w 10' pod=fd00:10:244::2 to=[fd00:10:244::2] lo=::1"+script)
			}
		}
		published := judged("mallory tcp/7445 answered", "mallory tcp/32400 dropped", "mallory "+allowed+" answered")
		s.after(act{says: "Docker starts", do: does(dockerStarts), packets: published})
		s.after(act{says: "Docker starts again", do: does(dockerTakesBack + dockerInserts), packets: published})
		s.leave("mallory tcp/7445 answered", "mallory tcp/32400 answered", "mallory "+onThePod+" answered")
		s.after(act{says: "Docker goes", do: does(dockerGoes), packets: judged("mallory tcp/7445 refused")})
	})
}
