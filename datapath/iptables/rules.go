package iptables

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// chain is one of our chains as it is to be.
type chain struct {
	name  string
	rules [][]string // each in the words and order in which iptables prints it
}

const (
	// begins matches a packet whose connection the kernel has not let through yet;
	// one that is dropped begins it again.
	begins = "-m conntrack ! --ctstatus CONFIRMED"
	// notGoingOn also matches what nobody tracks.
	notGoingOn = "-m conntrack ! --ctstate ESTABLISHED"

	// headers is how much of a packet is logged, in bytes.
	headers = 128
)

// chainsFor returns our chains but chainCount, in an order in which each goes only
// to those before it. Only what chainMain judges comes to a DROP: losing any other
// rule of it closes more of the pools, never the node.
//
// What is logged goes over netlink (NFLOG) and not to the kernel's own log (LOG): the
// agent reads it there, can count it by port, and it works in a container, where
// LOG writes nothing unless the whole machine is told so. Without logs the chains are
// the same, less those rules.
//
// A packet without a connection (INVALID, or UNTRACKED by someone's NOTRACK) has
// no direction. By TCP it can open nothing unless it is a SYN; by UDP or SCTP it
// could, and is judged.
func chainsFor(f iptables.Protocol, s shape, logs bool) []chain {
	digit := "4"
	if f == iptables.ProtocolIPv6 {
		digit = "6"
	}
	shut, over, pass := []string{}, []string{}, []string{
		"-m conntrack --ctstatus CONFIRMED -j RETURN", // limits cut nobody who is connected
		"-m conntrack --ctstate INVALID,UNTRACKED -j RETURN",
	}
	for _, p := range s.of(denials) {
		shut = append(shut, logByPort(p, digit, notGoingOn, datapath.NotAdmitted))
		over = append(over, logByPort(p, digit, begins, datapath.Limited))
	}
	for _, p := range s.of(rated) {
		pass = append(pass, limitRates(p, digit)...)
	}
	if len(s.of(counted)) > 0 {
		pass = append(pass, "-m set --match-set "+string(property{kind: counted}.set(digit))+" src,dst -j "+chainCount)
	}
	for _, p := range s.of(accepted) {
		pass = append(pass, logByPort(p, digit, begins, datapath.Accepted))
	}
	out := []chain{
		{chainDeny, numbered([]string{notGoingOn + " " + perSecond() + " " + log(datapath.Denied), "-j DROP"}, logs)},
		{chainShut, numbered(append(shut, "-j DROP"), logs)},
		{chainOver, numbered(append(over, "-j DROP"), logs)},
		{chainPass, numbered(append(pass, "-j RETURN"), logs)},
		{chainMain, numbered(mainRules(digit, s), logs)},
	}
	return out
}

func mainRules(digit string, s shape) []string {
	set := func(negated, base, flags string) string {
		return strings.TrimPrefix(negated+" ", " ") + "--match-set PORTREEVE-" + base + " " + flags
	}
	is := func(base, flags string) string { return "-m set " + set("", base, flags) }
	not := func(base, flags string) string { return "-m set " + set("!", base, flags) }
	passing := "-g " + chainPass
	if len(s.of(rated))+len(s.of(counted))+len(s.of(accepted)) == 0 {
		passing = "-j RETURN"
	}
	return []string{
		"-i lo -j RETURN",
		"! -p sctp " + not("JUDGED", "dst") + " -j RETURN", // most packets end here
		"-p sctp " + not("SCTP"+digit, "src,dst") + " -j RETURN",
		"-m conntrack --ctdir REPLY -j RETURN",
		"-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate INVALID,UNTRACKED -j RETURN",
		"-m addrtype ! --dst-type LOCAL -j RETURN",
		is("EXEMPT"+digit, "dst") + " -j RETURN",
		not("PLACES"+digit, "dst") + " -j RETURN",
		is("DENIED"+digit, "src") + " -g " + chainDeny,
		is("ENDS"+digit, "src,dst") + " " + not("ALIVE"+digit, "src,dst") + " -g " + chainShut,
		is("ADMIT"+digit, "src,dst") + " " + passing,
		is("ASIDE"+digit, "src,dst") + " " + begins + " " + byPort("upto", datapath.AuditRate, datapath.AuditBurst, "dstport", "audited") + " " + log(datapath.Audited),
		is("ASIDE"+digit, "src,dst") + " -j RETURN",
		is("AUDIT", "dst") + " " + begins + " " + perSecond() + " " + log(datapath.Unclaimed),
		is("AUDIT", "dst") + " -j RETURN",
		"-p sctp " + is("SCTPAUDIT"+digit, "src,dst") + " " + begins + " " + perSecond() + " " + log(datapath.Unclaimed),
		"-p sctp " + is("SCTPAUDIT"+digit, "src,dst") + " -j RETURN",
		is("JUDGED", "dst") + " -g " + chainShut,
		"-p sctp " + is("SCTP"+digit, "src,dst") + " -g " + chainShut,
	}
}

// Bounds of hashlimit: a rate is at most a million a second, a burst at most a
// million, and no more than it counts back in a day. Beyond that there is no
// difference that anybody could see.
const (
	maxRate     = 1_000_000
	maxBurst    = 1_000_000
	maxRecovery = 40_000 // seconds

	// A table for ports has room for all of them. One for sources, too, has an end,
	// since whoever is let in by the world could fill the kernel's memory otherwise;
	// a source for which there is no room begins no connection.
	portBuckets, portEntries     = 1 << 10, 1 << 16
	sourceBuckets, sourceEntries = 1 << 14, 1 << 18
)

// byPort bounds, above or upto a rate, what has the same port (and what else the
// mode says). The table lives on while any rule has it, so rules that are written
// anew go on counting where the old ones were; its name says all that it depends on.
// An entry is forgotten only after it would be full again.
func byPort(direction string, rate, burst uint32, mode, name string) string {
	rate = min(rate, maxRate)
	burst = uint32(min(uint64(burst), maxBurst, uint64(rate)*maxRecovery))
	expire := max(10, burst/rate+1) * 1000
	buckets, entries := portBuckets, portEntries
	if mode != "dstport" {
		buckets, entries = sourceBuckets, sourceEntries
	}
	return fmt.Sprintf("-m hashlimit --hashlimit-%s %d/sec --hashlimit-burst %d --hashlimit-mode %s --hashlimit-name %s%s-%d-%d --hashlimit-htable-size %d --hashlimit-htable-max %d --hashlimit-htable-expire %d",
		direction, rate, burst, mode, tablePrefix, name, rate, burst, buckets, entries, expire)
}

// limitRates has a rule for each protocol, since hashlimit takes tcp/30050 and
// udp/30050 for the same port.
func limitRates(p property, digit string) []string {
	var out []string
	for _, protocol := range rule.Protocols {
		name := strings.ToLower(string(protocol))
		out = append(out, "-p "+name+" -m set --match-set "+string(p.set(digit))+" src,dst "+byPort("above", p.a, p.b, "srcip,dstport", name)+" -g "+chainOver)
	}
	return out
}

func logByPort(p property, digit, which string, reason datapath.Reason) string {
	return "-m set --match-set " + string(p.set(digit)) + " src,dst " + which + " " + byPort("upto", p.a, p.a, "dstport", string(reason)) + " " + log(reason)
}

func perSecond() string {
	return fmt.Sprintf("-m limit --limit %d/sec --limit-burst %d", datapath.AuditRate, datapath.AuditBurst)
}

func log(reason datapath.Reason) string {
	return fmt.Sprintf("-j NFLOG --nflog-prefix %q --nflog-group %d --nflog-size %d", datapath.LogPrefix+string(reason), datapath.LogGroup, headers)
}

// numbered splits rules into words, without those that log unless they are to, and
// puts its comment into each: behind what iptables prints ahead of all matches.
func numbered(rules []string, logs bool) [][]string {
	var out [][]string
	for _, r := range rules {
		words := fields(r)
		if !logs && slices.Contains(words, "NFLOG") {
			continue
		}
		at := slices.IndexFunc(words, func(w string) bool { return w == "-m" || w == "-j" || w == "-g" })
		out = append(out, slices.Insert(words, at, "-m", "comment", "--comment", comment(len(out))))
	}
	return out
}

func comment(i int) string { return commentPrefix + strconv.Itoa(i+1) }

// countRule bounds the connections of each source to one port. connlimit knows
// nothing of ports, so it needs a rule for each.
func countRule(f iptables.Protocol, port rule.Port, connections uint32) []string {
	bits := "32"
	if f == iptables.ProtocolIPv6 {
		bits = "128"
	}
	protocol := strings.ToLower(string(port.Protocol))
	return fields(fmt.Sprintf("-p %s -m %s --dport %d -m connlimit --connlimit-above %d --connlimit-mask %s --connlimit-saddr -g %s",
		protocol, protocol, port.Number, connections, bits, chainOver))
}

// parseCountRule is its inverse; ok is false for a rule that is none of those.
func parseCountRule(f iptables.Protocol, words []string) (port rule.Port, connections uint32, ok bool) {
	after := func(flag string, bits int) uint64 {
		if i := slices.Index(words, flag); i >= 0 && i+1 < len(words) {
			n, err := strconv.ParseUint(words[i+1], 10, bits)
			if err == nil {
				return n
			}
		}
		return 0
	}
	if len(words) < 2 {
		return port, 0, false
	}
	port = rule.Port{Protocol: rule.Protocol(strings.ToUpper(words[1])), Number: uint16(after("--dport", 16))}
	connections = uint32(after("--connlimit-above", 32))
	return port, connections, slices.Equal(words, countRule(f, port, connections))
}
