package iptables

import (
	"strings"
	"testing"
)

func TestPreempting(t *testing.T) {
	chains := listing{
		"MARKS":    {"-N MARKS", "-A MARKS -j MARK --set-xmark 0x1/0x1", "-A MARKS -j RETURN"},
		"OUTER":    {"-N OUTER", "-A OUTER -j INNER"},
		"INNER":    {"-N INNER", "-A INNER -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"},
		"RING":     {"-N RING", "-A RING -j RING"},
		"LOOPBACK": {"-N LOOPBACK", "-A LOOPBACK -i lo -j ACCEPT"},
	}
	for ahead, preempts := range map[string]bool{
		"-A PREROUTING -j MARK --set-xmark 0x1/0x1":                   false,
		"-A PREROUTING -j DROP":                                       false,
		"-A PREROUTING -i lo -j ACCEPT":                               false,
		"-A PREROUTING ! -i lo -j ACCEPT":                             true,
		"-A PREROUTING -p tcp -j ACCEPT":                              true,
		"-A PREROUTING -p tcp -j RETURN":                              true,
		"-A PREROUTING -j NFQUEUE --queue-num 0":                      true,
		"-A PREROUTING -p tcp -j TPROXY --on-port 1":                  true,
		"-A PREROUTING -j MARKS":                                      false,
		"-A PREROUTING -g MARKS":                                      true,
		"-A PREROUTING -j OUTER":                                      true,
		"-A PREROUTING -j RING":                                       false,
		"-A PREROUTING -j LOOPBACK":                                   false,
		"-A PREROUTING -m comment --comment \"so -j ACCEPT\" -j DROP": false,
		"-A PREROUTING -m comment --comment \"a \\\" b\" -j ACCEPT":   true,
		"-A PREROUTING -p tcp":                                        false,
	} {
		lines := []string{"-P PREROUTING ACCEPT", ahead, jumpTo(chainMain), "-A PREROUTING -j ACCEPT"}
		got := preempting(lines, chainMain, chains)
		if (got == ahead) != preempts || !preempts && got != "" {
			t.Errorf("%s: preempting = %q", strings.TrimPrefix(ahead, "-A "), got)
		}
	}
}
