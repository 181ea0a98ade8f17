package iptables_test

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/datapath/iptables"
)

func TestConformance(t *testing.T) {
	for _, mode := range []iptables.Mode{iptables.NFT, iptables.Legacy} {
		t.Run(string(mode), func(t *testing.T) {
			datapathtest.Run(t, datapathtest.Subject{Open: open(mode), Damage: damage(string(mode)), Logged: logged(string(mode))})
		})
	}
}

func open(mode iptables.Mode) datapathtest.Open {
	return func(t *testing.T) datapath.Datapath {
		d, err := iptables.New(mode)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

// logged reads the packet counter of the log rule. Its lines themselves do not come
// to the kernel's log out of a namespace, unless the whole machine is told so.
func logged(mode string) func(t *testing.T, node *datapathtest.Namespace) int {
	counter := regexp.MustCompile(`(?m)^\[(\d+):\d+\] .* -j LOG --log-prefix "portreeve audit: "`)
	return func(t *testing.T, node *datapathtest.Namespace) int {
		commands, sum := []string{"iptables-", "ip6tables-"}, 0
		if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
			commands = commands[:1]
		}
		for _, base := range commands {
			for _, found := range counter.FindAllStringSubmatch(node.Command(t, "", base+mode+"-save", "-c", "-t", "mangle"), -1) {
				n, err := strconv.Atoi(found[1])
				if err != nil {
					t.Fatal(err)
				}
				sum += n
			}
		}
		return sum
	}
}

func damage(mode string) map[string][][]string {
	mangle := func(words ...string) []string {
		return append([]string{"iptables-" + mode, "-w", "10", "-t", "mangle"}, words...)
	}
	return map[string][][]string{
		"the hook is flushed":                  {mangle("-F", "PREROUTING")},
		"the whole table is flushed":           {mangle("-F"), mangle("-X")},
		"a second jump is added":               {{"sh", "-c", "iptables-" + mode + " -t mangle -S PREROUTING | sed -n 's/-A/iptables-" + mode + " -t mangle -A/;/PORTREEVE/p' | sh"}},
		"the judged numbers are flushed":       {{"ipset", "flush", "PORTREEVE-JUDGED"}},
		"the audited numbers are flushed":      {{"ipset", "flush", "PORTREEVE-AUDIT"}},
		"a number is slipped in to be audited": {{"ipset", "add", "PORTREEVE-AUDIT", "30050"}},
		"an entry is slipped in":               {{"ipset", "add", "PORTREEVE-ADMIT4", "10.9.0.0/16,tcp:30050"}},
	}
}
