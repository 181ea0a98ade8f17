package main

import (
	"testing"
	"time"

	"github.com/portreeve/portreeve/datapath/iptables"
)

func TestParse(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	for _, test := range []struct {
		name    string
		args    []string
		command string
		ok      bool
	}{
		{"a node by flag", []string{"--node", "n1"}, "", true},
		{"no node", nil, "", false},
		{"cleanup of a node", []string{"cleanup", "--node", "n1", "--firewall-mode", "legacy"}, "cleanup", true},
		{"cleanup of a node without a name, whose report would stay", []string{"cleanup"}, "cleanup", false},
		{"cleanup that leaves the report needs no node", []string{"cleanup", "--offline"}, "cleanup", true},
		{"cleanup that comes too late", []string{"--node", "n1", "cleanup"}, "", false},
		{"boot needs no node", []string{"boot", "--fallback-range", "30000-30999,31500"}, "boot", true},
		{"no fallback", []string{"boot", "--fallback-range", ""}, "boot", true},
		{"a fallback that is no range", []string{"boot", "--fallback-range", "30999-30000"}, "boot", false},
		{"unknown mode", []string{"--node", "n1", "--firewall-mode", "ebtables"}, "", false},
		{"no check", []string{"--node", "n1", "--check-interval", "0s"}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			command, _, err := parse(test.args)
			if (err == nil) != test.ok || command != test.command {
				t.Errorf("command %q, error %v", command, err)
			}
		})
	}
	t.Setenv("NODE_NAME", "n2")
	_, o, err := parse([]string{"--firewall-mode", "NFT"})
	if err != nil || o.node != "n2" || o.firewallMode != iptables.NFT || o.check != 10*time.Second || o.report != 250*time.Millisecond || o.listen != ":9465" ||
		len(o.fallback) != 1 || o.fallback[0].String() != "30000-32767" {
		t.Errorf("%+v, %v", o, err)
	}
}
