package iptables_test

import (
	"strings"
	"testing"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/datapath/iptables"
)

func TestConformance(t *testing.T) {
	for _, mode := range []iptables.Mode{iptables.NFT, iptables.Legacy} {
		t.Run(string(mode), func(t *testing.T) {
			datapathtest.Run(t, datapathtest.Subject{Open: open(mode), Damage: damage(string(mode))})
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

func damage(mode string) map[string][][]string {
	// The lock of the legacy tools is that of the machine, so cases beside this one hold it
	// now and then, and who does not wait for it fails.
	tool := "iptables-" + mode + " -w 10"
	in := func(table string, words ...string) []string {
		return append(strings.Fields(tool+" -t "+table), words...)
	}
	mangle := func(words ...string) []string { return in("mangle", words...) }
	filter := func(words ...string) []string { return in("filter", words...) }
	return map[string][][]string{
		"the jump of local ports is taken out": {filter("-D", "INPUT", "-j", "PORTREEVE-LOCAL")},
		"the jump of local ports comes second": {{"sh", "-c", tool + " -N KUBE-EXTERNAL-SERVICES; " + tool + " -I INPUT -j KUBE-EXTERNAL-SERVICES"}},
		"what local ports refuse is let go":    {filter("-I", "PORTREEVE-LOCAL", "1", "-j", "RETURN")},
		"the hook is flushed":                  {mangle("-F", "PREROUTING")},
		"the whole table is flushed":           {mangle("-F"), mangle("-X")},
		"a second jump is added":               {{"sh", "-c", tool + " -t mangle -S PREROUTING | sed -n 's/-A/" + tool + " -t mangle -A/;/PORTREEVE/p' | sh"}},
		"the judged numbers are flushed":       {{"ipset", "flush", "PORTREEVE-JUDGED"}},
		"the audited numbers are flushed":      {{"ipset", "flush", "PORTREEVE-AUDIT"}},
		"a number is slipped in to be audited": {{"ipset", "add", "PORTREEVE-AUDIT", "30050"}},
		"an entry is slipped in":               {{"ipset", "add", "PORTREEVE-ADMIT4", "10.9.0.0/16,tcp:30050"}},
		"nobody is denied any more":            {{"ipset", "flush", "PORTREEVE-DENIED4"}},
		"nobody is audited any more":           {{"ipset", "flush", "PORTREEVE-ASIDE4"}},
		"all addresses are let be":             {{"ipset", "flush", "PORTREEVE-PLACES4"}},
		"an end is forgotten":                  {{"ipset", "flush", "PORTREEVE-ENDS4"}},
		"an end comes too soon":                {{"ipset", "flush", "PORTREEVE-ALIVE4"}},
		"an end never comes":                   {{"ipset", "add", "PORTREEVE-ALIVE4", "0.0.0.0/1,tcp:30051", "timeout", "0", "-exist"}},
		"a limit is forgotten":                 {{"ipset", "flush", "PORTREEVE-R4-3e8-3e8"}},
		"connections are not counted":          {mangle("-F", "PORTREEVE-COUNT")},
		"connections are counted otherwise":    {mangle("-I", "PORTREEVE-COUNT", "1", "-p", "tcp", "-j", "RETURN")},
		"what is shut is let go":               {mangle("-I", "PORTREEVE-SHUT", "1", "-j", "RETURN")},
		"a rule is taken out":                  {mangle("-D", "PORTREEVE", "9")},
		"a rule stands for another":            {mangle("-R", "PORTREEVE", "19", "-j", "RETURN")},
	}
}
