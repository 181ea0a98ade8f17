package bypass

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// Links by which Open vSwitch is known.
const (
	managementPort  = "ovn-k8s-mp0" // by which OVN-Kubernetes reaches its node
	kernelDatapath  = "ovs-system"  // the master of what the kernel's datapath takes
	userDatapath    = "ovs-netdev"  // of the datapath in user space
	protocolAnyRead = "0003"        // ETH_P_ALL, of a packet socket that reads everything
)

// switched are the links whose packets Open vSwitch has before the node: its flows may
// carry node ports. It has them where a link of its own holds an address of the node and
// OVN-Kubernetes runs, or the node's uplink is a port of a bridge; in its datapath in user
// space such a link is a tap, and uplinks are read through packet sockets. A bridge that
// only leads to pods, as those of Kube-OVN and Antrea, is none.
func switched(links []netlink.Link, holders, readers map[int]bool) []Way {
	index := func(name string) int {
		for _, l := range links {
			if l.Attrs().Name == name {
				return l.Attrs().Index
			}
		}
		return 0
	}
	system, gateway := index(kernelDatapath), index(managementPort) != 0
	uplinks := system != 0 && slices.ContainsFunc(links, func(l netlink.Link) bool {
		return l.Attrs().MasterIndex == system && uplink(l)
	})
	inUserSpace := index(userDatapath) != 0
	var ways []Way
	for _, l := range links {
		a := l.Attrs()
		if !holders[a.Index] || a.Name == managementPort {
			continue
		}
		kernels := l.Type() == openVSwitch && (gateway || uplinks)
		users := inUserSpace && (l.Type() == "tuntap" || readers[a.Index])
		if kernels || users {
			ways = append(ways, Way{a.Name, openVSwitch, a.Name})
		}
	}
	return ways
}

// uplink says whether a port of a bridge may lead out of the node: those that lead to
// pods are veths or of Open vSwitch itself, tunnels carry packets that came by an uplink.
func uplink(l netlink.Link) bool {
	switch l.Type() {
	case "veth", openVSwitch, "geneve", "vxlan", "gre", "gretap", "ip6gre", "ip6gretap", "erspan":
		return false
	}
	return true
}

// packetReaders are the indices of links of which a packet socket reads everything.
func packetReaders() (map[int]bool, error) {
	text, err := os.ReadFile("/proc/thread-self/net/packet")
	if err != nil {
		return nil, err
	}
	return parseReaders(string(text))
}

// parseReaders reads /proc/net/packet: socket, references, type, protocol, interface ...
func parseReaders(text string) (map[int]bool, error) {
	out := map[int]bool{}
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		fields := strings.Fields(line)
		if i == 0 || len(fields) < 5 || fields[3] != protocolAnyRead {
			continue
		}
		index, err := strconv.Atoi(fields[4])
		if err != nil {
			return nil, fmt.Errorf("/proc/net/packet: interface %q is no number", fields[4])
		}
		out[index] = true
	}
	return out, nil
}
