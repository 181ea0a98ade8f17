// Package host tries internal/host in a network namespace, as root.
package host

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/internal/host"
	"github.com/portreeve/portreeve/internal/rule"
)

func inside(t *testing.T, n *datapathtest.Namespace, do func() error) {
	t.Helper()
	if err := n.Do(do); err != nil {
		t.Fatal(err)
	}
}

func TestListeners(t *testing.T) {
	n := datapathtest.NewNamespace(t)
	inside(t, n, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr("10.99.0.1/32")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, address)
	})
	var found []host.Listener
	inside(t, n, func() error {
		for _, address := range []string{":30050", "10.99.0.1:30051", "127.0.0.1:30052", "[::1]:30053"} {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			defer l.Close()
		}
		for _, address := range []string{"0.0.0.0:30054", "127.0.0.1:30055"} {
			p, err := net.ListenPacket("udp", address)
			if err != nil {
				return err
			}
			defer p.Close()
		}
		// What is connected is a client, not a listener.
		client, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(10, 99, 0, 1), Port: 30056}, &net.UDPAddr{IP: net.IPv4(10, 99, 0, 1), Port: 53})
		if err != nil {
			return err
		}
		defer client.Close()
		tcp, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.IPv4(10, 99, 0, 1), Port: 30057}, &net.TCPAddr{IP: net.IPv4(10, 99, 0, 1), Port: 30051})
		if err != nil {
			return err
		}
		defer tcp.Close()
		found, err = host.Host{}.Listeners()
		return err
	})
	var ports []string
	for _, l := range found {
		ports = append(ports, l.Port.String())
	}
	if want := []string{"tcp/30050", "tcp/30051", "udp/30054"}; !slices.Equal(ports, want) {
		t.Errorf("%v, want %v", found, want)
	}
}

func TestHostPorts(t *testing.T) {
	n := datapathtest.NewNamespace(t)
	for _, program := range []string{"iptables-nft", "ip6tables-legacy"} {
		inside(t, n, func() error {
			before, err := host.Host{}.Listeners()
			if err != nil || len(before) != 0 {
				t.Errorf("%v, %v, want nothing", before, err)
			}
			rules := [][]string{{"-N", "CNI-HOSTPORT-DNAT"}, {"-N", "CNI-DN-01"}, {
				"-A", "CNI-HOSTPORT-DNAT", "-p", "tcp", "-m", "comment", "--comment", "dnat name: \"net\" id: \"ab\"",
				"-m", "multiport", "--dports", "30050,30051", "-j", "CNI-DN-01",
			}}
			for _, r := range rules {
				if out, err := exec.Command(program, append([]string{"-w", "10", "-t", "nat"}, r...)...).CombinedOutput(); err != nil {
					return fmt.Errorf("%s: %w: %s", program, err, out)
				}
			}
			found, err := host.Host{}.Listeners()
			if len(found) != 2 || found[0].Port.String() != "tcp/30050" || found[1].Port.String() != "tcp/30051" {
				t.Errorf("%s: %v", program, found)
			}
			return errors.Join(err, exec.Command(program, "-w", "10", "-t", "nat", "-F", "CNI-HOSTPORT-DNAT").Run())
		})
	}
}

func TestReserve(t *testing.T) {
	n := datapathtest.NewNamespace(t)
	few, err := rule.ParsePortRanges([]string{"8080", "30000-30099", "30180"})
	if err != nil {
		t.Fatal(err)
	}
	// As many ranges as the kernel can be told, in many writes.
	var every []rule.PortRange
	for number := uint32(1); number < 65535; number += 2 {
		every = append(every, rule.PortRange{First: uint16(number), Last: uint16(number)})
	}
	for _, want := range []rule.PortRanges{few, rule.NewPortRanges(every...), few[:1], nil} {
		inside(t, n, func() error {
			if err := (host.Host{}).Reserve(want); err != nil {
				return err
			}
			got, err := host.Host{}.Reserved()
			if err == nil && !slices.Equal(got, want) {
				t.Errorf("wrote %d ranges, read %d", len(want), len(got))
			}
			return err
		})
	}
}
