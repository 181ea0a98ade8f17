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
		cleanup bool
		ok      bool
	}{
		{"a node by flag", []string{"--node", "n1"}, false, true},
		{"no node", nil, false, false},
		{"cleanup needs no node", []string{"cleanup", "--firewall-mode", "legacy"}, true, true},
		{"cleanup that comes too late", []string{"--node", "n1", "cleanup"}, false, false},
		{"unknown mode", []string{"--node", "n1", "--firewall-mode", "ebtables"}, false, false},
		{"no check", []string{"--node", "n1", "--check-interval", "0s"}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cleanup, _, err := parse(test.args)
			if (err == nil) != test.ok || cleanup != test.cleanup {
				t.Errorf("cleanup %v, error %v", cleanup, err)
			}
		})
	}
	t.Setenv("NODE_NAME", "n2")
	_, o, err := parse([]string{"--firewall-mode", "NFT"})
	if err != nil || o.node != "n2" || o.firewallMode != iptables.NFT || o.check != 10*time.Second || o.report != 250*time.Millisecond || o.listen != ":9465" {
		t.Errorf("%+v, %v", o, err)
	}
}
