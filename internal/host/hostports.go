package host

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/portreeve/portreeve/internal/rule"
)

// hostPortChain is where the portmap plugin of the CNI project, with its iptables
// backend, lists the hostPorts of the node's pods.
const hostPortChain = "CNI-HOSTPORT-DNAT"

// hostPortPatience is how long all of them may be asked: iptables may have to read the
// whole of kube-proxy's rules, and new rules of ours wait meanwhile.
const hostPortPatience = 10 * time.Second

// hostPorts returns the hostPorts that the portmap plugin forwards: no socket
// shows them. What can't be asked has none to tell; hostPorts of other CNIs (eBPF,
// portmap's nftables backend) are not found.
func hostPorts() []Listener {
	programs := []string{"iptables-nft", "ip6tables-nft"}
	// Asking legacy iptables for a table makes the table.
	for program, tables := range map[string]string{"iptables-legacy": "ip_tables_names", "ip6tables-legacy": "ip6_tables_names"} {
		names, err := os.ReadFile("/proc/thread-self/net/" + tables) //nolint:gosec // one of two fixed names
		if err == nil && slices.Contains(strings.Fields(string(names)), "nat") {
			programs = append(programs, program)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), hostPortPatience)
	defer cancel()
	var out []Listener
	for _, program := range programs {
		// Only this chain, since kube-proxy's may be long; to ask for one that is not there fails.
		text, err := exec.CommandContext(ctx, program, "-w", "5", "-t", "nat", "-S", hostPortChain).Output() //nolint:gosec // one of four fixed names
		if err == nil {
			out = append(out, parseHostPorts(strings.NewReader(string(text)))...)
		}
	}
	return out
}

// parseHostPorts reads what iptables -S says of the chain:
//
//	-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"net\" id: \"ab\"" -m multiport --dports 30050,30051 -j CNI-DN-0123
func parseHostPorts(from io.Reader) []Listener {
	var out []Listener
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "-A" || words[1] != hostPortChain {
			continue
		}
		protocol, ports := rule.Protocol(""), ""
		for i := range len(words) - 1 {
			switch words[i] {
			case "-p":
				protocol = rule.Protocol(strings.ToUpper(words[i+1]))
			case "--dport", "--dports":
				ports = words[i+1]
			}
		}
		for _, p := range strings.Split(ports, ",") {
			if n, err := strconv.ParseUint(p, 10, 16); err == nil && n > 0 && protocol != "" {
				out = append(out, Listener{rule.Port{Protocol: protocol, Number: uint16(n)}, "a pod's hostPort"})
			}
		}
	}
	return out
}
